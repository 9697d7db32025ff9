"""Write the features of a whole data set: the same as ``st-ssl extract``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.extract import main

if __name__ == "__main__":
    sys.exit(guarded(main))
