"""The grid of a sweep, and what it keeps while it runs. Must not know how an image is scored."""
