"""Convolutions that take a BN layer, a ReLU or a doubling of their size with them."""
