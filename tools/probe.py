"""Measure what pretrained encoders learned: the same as ``st-ssl probe``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.probe import main

if __name__ == "__main__":
    sys.exit(guarded(main))
