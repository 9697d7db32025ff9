"""Write the HTML page of a run: the same as ``st-ssl report``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # which python -P leaves out
from _start import start

if __name__ == "__main__":
    sys.exit(start("report"))
