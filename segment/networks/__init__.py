"""Networks: what they expect, how they load, where their BN layers are."""
