"""Ways to make T outputs of an image: MCBN, deterministic, dropout, test-time augmentation, an ensemble."""
