"""Write the HTML page of a run: the same as ``st-ssl report``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("report"))
