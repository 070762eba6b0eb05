"""A method and an image to an estimate, whole or in tiles, within a memory budget."""
