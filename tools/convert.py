"""Published weights in, our encoders out: the same as ``st-ssl convert``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("convert"))
