"""A network, its preprocessing and its draws as one graph that other programs run."""
