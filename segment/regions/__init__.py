"""A mask's connected regions: where they are, what a map holds in each, and their shapes; pure, in strips of rows."""
