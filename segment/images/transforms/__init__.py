"""Images to changed images: the augmentation of training, corruptions, and another size."""
