"""A URI → a torch module with its weights: what each library needs for that, our own code, and weights files."""
