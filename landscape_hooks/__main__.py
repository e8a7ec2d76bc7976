"""`python -m landscape_hooks` is the command line."""

from landscape_hooks.cli import main

main()
