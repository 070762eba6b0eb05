"""A network, its draws and images to T outputs, one pass a draw."""
