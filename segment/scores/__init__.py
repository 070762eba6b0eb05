"""Scores of a method over a data set: counts updated image by image, merged between shards, and summarised."""
