"""Compare methods over seeds: the same as ``st-ssl study``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # which python -P leaves out
from _start import start

if __name__ == "__main__":
    sys.exit(start("study"))
