"""The best setting under a budget of passes, chosen on validation images, and kept in a folder."""
