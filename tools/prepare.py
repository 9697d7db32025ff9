"""Make data ready: the same as ``st-ssl prepare``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.prepare import main

if __name__ == "__main__":
    sys.exit(guarded(main))
