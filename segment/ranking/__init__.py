"""Which images are wrong, and which to look at: scores of a ranking, a fitted predictor, diverse choices. Pure."""
