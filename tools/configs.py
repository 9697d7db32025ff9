"""List the configurations that come with st_ssl: the same as ``st-ssl configs``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.configs import main

if __name__ == "__main__":
    sys.exit(guarded(main))
