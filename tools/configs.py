"""List the configurations that come with st_ssl: the same as ``st-ssl configs``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("configs"))
