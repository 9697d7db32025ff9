"""Say what videos show, by a fine-tuned network: the same as ``st-ssl predict``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # which python -P leaves out
from _start import start

if __name__ == "__main__":
    sys.exit(start("predict"))
