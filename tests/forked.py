"""Processes forked from a server that has imported torch and the package once: a start takes a tenth of a second."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]


@cache
def server() -> ForkServerContext:
    """Where processes come from; the first call starts the server. ``torch.multiprocessing`` with ``forkserver`` then
    uses it too. What processes see of the environment is that of the first call."""
    multiprocessing.set_forkserver_preload(["tests.warm"])
    with patch.dict(os.environ, PYTHONPATH=str(ROOT)):
        forkserver.ensure_running()
    return multiprocessing.get_context("forkserver")


def run_script(
    script: Path, arguments: list[str], environment: dict[str, str], out: Path, patience: float
) -> int | None:
    """The exit code of ``python script arguments``; ``out.1`` and ``out.2`` get its stdout and stderr. None where it
    took more than ``patience`` seconds, and was ended."""
    process = server().Process(target=_be_script, args=(script, arguments, environment, out))
    process.start()
    process.join(patience)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _be_script(script: Path, arguments: list[str], environment: dict[str, str], out: Path) -> None:
    for stream in (1, 2):
        descriptor = os.open(out.with_suffix(f".{stream}"), os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, stream)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
