"""Arrays → pictures: palettes, heat maps, overlays, contact sheets and plots; no file is read or written."""
