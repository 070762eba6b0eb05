"""The cost experiment: what each method takes before and for a map."""
