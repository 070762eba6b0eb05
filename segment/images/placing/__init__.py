"""Where an image lies, on a map, in a volume or in a video, and whether its labels lie there too."""
