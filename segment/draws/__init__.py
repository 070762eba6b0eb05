"""Draws: seeded mini-batches, their statistics, the bank."""
