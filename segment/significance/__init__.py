"""Whether two sets of images, or two methods on the same images, differ: tests, corrections, intervals. Pure."""
