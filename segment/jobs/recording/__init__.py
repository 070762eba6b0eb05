"""Mini-batches to draws, wherever they are recorded. Must not know what a bank is used for."""
