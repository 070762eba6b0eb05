"""Images with label maps: where they are, how their labels are read, and which were seen before."""
