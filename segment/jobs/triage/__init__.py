"""Triage: thresholds calibrated on an evaluation's images, applied to a run, and checked on labelled images."""
