"""List the configurations that come with st_ssl: the same as ``st-ssl configs``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # which python -P leaves out
from _start import start

if __name__ == "__main__":
    sys.exit(start("configs"))
