"""Pretrain an encoder, probe it and write the report: the same as ``st-ssl pretrain``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.pretrain import main

if __name__ == "__main__":
    sys.exit(guarded(main))
