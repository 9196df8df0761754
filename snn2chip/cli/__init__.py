"""The command line: words, colour, progress and exit codes; everything else is in the library."""

from snn2chip.cli.app import cli, main

__all__ = ["cli", "main"]
