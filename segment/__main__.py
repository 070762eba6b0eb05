"""`python -m segment`."""

from segment.cli import main

main()
