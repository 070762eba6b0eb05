"""Guarantees over images: counts of an image at every threshold, thresholds whose error is bounded, shift tests."""
