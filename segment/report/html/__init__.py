"""A saved run → one self-contained HTML file: nothing in it is fetched, and nothing in it can be."""
