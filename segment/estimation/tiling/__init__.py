"""A large image in tiles: which ones, how their estimates are put together, and how they are blended."""
