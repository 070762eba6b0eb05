"""A bank of T draws to a bank of K weighted draws with the same moments."""
