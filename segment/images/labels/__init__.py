"""Label files as people have them → one class id a pixel."""
