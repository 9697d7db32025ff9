"""Published weights in, our encoders out: the same as ``st-ssl convert``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # which python -P leaves out
from _start import start

if __name__ == "__main__":
    sys.exit(start("convert"))
