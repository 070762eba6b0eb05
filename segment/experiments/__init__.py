"""The paper's tables and figures, and the training of the shipped network."""
