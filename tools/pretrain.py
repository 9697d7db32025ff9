"""Pretrain an encoder, probe it and write the report: the same as ``st-ssl pretrain``."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # which python -P leaves out
from _start import start

if __name__ == "__main__":
    sys.exit(start("pretrain"))
