"""`python -m kopt`."""

import sys

from kopt.cli import command

if __name__ == "__main__":
    sys.exit(command())
