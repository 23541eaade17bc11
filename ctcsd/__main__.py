"""`python -m ctcsd` is the console script."""

from ctcsd.cli import main

main()
