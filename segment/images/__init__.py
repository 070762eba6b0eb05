"""Image files and arrays to network inputs: find, read, accept, augment, corrupt, resize, normalise and pad."""
