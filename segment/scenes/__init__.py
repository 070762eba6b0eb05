"""Generated street scenes with exact labels: a seed to an image, its labels and its unseen objects."""
