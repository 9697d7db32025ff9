"""``python -m st_ssl <command> …``: the same as ``st-ssl``."""

import sys

from st_ssl.cli import main

if __name__ == "__main__":
    sys.exit(main())
