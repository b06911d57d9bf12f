"""The `kopt` command: one file a subcommand, each parses, calls the library, renders, and gives an exit code."""

from kopt.cli.main import command, main

__all__ = ["command", "main"]
