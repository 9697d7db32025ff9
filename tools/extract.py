"""Write the features of a whole data set: the same as ``st-ssl extract``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("extract"))
