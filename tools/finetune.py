"""Fine-tune pretrained encoders on a task: the same as ``st-ssl finetune``."""

import sys

from st_ssl.cli import guarded
from st_ssl.cli.finetune import main

if __name__ == "__main__":
    sys.exit(guarded(main))
