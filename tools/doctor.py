"""What works on this machine, what is missing, and the remedy: the same as ``st-ssl doctor``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "st_ssl" / "cli").is_dir():  # in a checkout it works before anything is installed
    sys.path.insert(0, str(ROOT))

from st_ssl.cli import guarded  # noqa: E402
from st_ssl.cli.doctor import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(guarded(main))
