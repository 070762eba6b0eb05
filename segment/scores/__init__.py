"""Streaming, mergeable scores over a data set."""
