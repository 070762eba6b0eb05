"""The paper's table of UCI regression sets."""
