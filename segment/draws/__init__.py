"""Seeded mini-batches of training images to draws, the bank that holds them, and the probe of its network."""
