"""A bank of T draws to one of K weighted draws."""
