"""One module a family of files: its images listed, decoded as the file has them, and where they lie."""
