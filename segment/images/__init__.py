"""Files and arrays: decode, find, prepare, tile, generate."""
