"""The folder of a run: its record, its manifest, its lock, and the numbers and triages kept of it."""
