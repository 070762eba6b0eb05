"""Passes of a network under draws, and the estimate they give."""
