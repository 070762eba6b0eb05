"""How many machines a number of images takes: `python -m benchmarks.sizing` (docs/how-to/sizing.md)."""
