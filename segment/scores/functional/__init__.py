"""Scores as pure functions: arrays of one image to integer counts, and counts to scores."""
