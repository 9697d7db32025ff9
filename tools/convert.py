"""Published weights in, our encoders out: the same as ``st-ssl convert``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.convert import main

if __name__ == "__main__":
    sys.exit(guarded(main))
