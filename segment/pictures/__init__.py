"""Arrays to pictures: palettes, heat maps, overlays, sheets."""
