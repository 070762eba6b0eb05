"""Image files as they lie, here or on a store: copies of them here, and what tells their content from any other."""
