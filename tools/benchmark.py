"""Measure speed as ratios on this machine: the same as ``st-ssl benchmark``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("benchmark"))
