"""The parts of `segment predict`: what is asked of it, and one image from reading to writing."""
