"""What the scripts beside this have in common: run a command of st_ssl, or say what installs it."""

import sys
from pathlib import Path


def start(command: str) -> int:
    """``st-ssl COMMAND`` with the arguments of this process; returns its exit code, 1 where st_ssl is not installed."""
    try:
        from st_ssl.cli import run
    except ModuleNotFoundError as error:
        if error.name != "st_ssl":
            raise
        sys.path.append(str(Path(__file__).resolve().parents[1]))  # of the checkout what needs nothing installed
        from st_ssl.core.packages import install

        print(f"error: st_ssl is not installed in this Python: {install()}", file=sys.stderr)
        return 1
    return run(command)
