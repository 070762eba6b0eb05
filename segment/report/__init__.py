"""Results to what a reader opens: tables, Markdown pages, curves, and the pictures and files of an image."""
