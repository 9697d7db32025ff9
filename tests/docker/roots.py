"""Which tests need a machine that lets them mount."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest


def can_enter() -> bool:
    """Whether this machine lets us mount in a namespace of our own."""
    if not sys.platform.startswith("linux") or os.geteuid() or not shutil.which("setpriv"):
        return False
    unshare = ["unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "true"]
    return subprocess.run(unshare, capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(not can_enter(), reason="needs root and Linux's namespaces")
