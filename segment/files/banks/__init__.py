"""Banks on disk: their file, what is kept of earlier ones, and those that are not whole yet."""
