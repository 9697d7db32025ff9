"""Pretrain an encoder, probe it and write the report: the same as ``st-ssl pretrain``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("pretrain"))
