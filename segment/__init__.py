"""Trustworthy uncertainty for semantic segmentation, from batch-normalised networks people already have."""
