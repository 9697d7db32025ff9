"""Write the HTML page of a run: the same as ``st-ssl report``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.report import main

if __name__ == "__main__":
    sys.exit(guarded(main))
