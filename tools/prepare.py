"""Make data ready: the same as ``st-ssl prepare``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("prepare"))
