"""Runs read back, to decide by: what differs between two, which images to look at or label first."""
