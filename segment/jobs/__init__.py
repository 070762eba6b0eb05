"""One folder run each: fit, predict, evaluate."""
