"""What a SRC names: lists of many forms, the images of one file, and ids that stay unique."""
