"""The calls of one pass, what each depends on, and which of them are batch normalisation."""
