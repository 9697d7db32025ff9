"""Say what videos show, by a fine-tuned network: the same as ``st-ssl predict``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.predict import main

if __name__ == "__main__":
    sys.exit(guarded(main))
