"""Measure speed as ratios on this machine: the same as ``st-ssl benchmark``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(guarded(main))
