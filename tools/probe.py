"""Measure what pretrained encoders learned: the same as ``st-ssl probe``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("probe"))
