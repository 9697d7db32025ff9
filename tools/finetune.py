"""Fine-tune pretrained encoders on a task: the same as ``st-ssl finetune``."""

import sys

from _start import start

if __name__ == "__main__":
    sys.exit(start("finetune"))
