"""The name that was meant: what st_ssl/core/errors.py does, for scripts that run where st_ssl is not installed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, options: Iterable[str]) -> str:
    """A part of a sentence that names the closest of ``options``: ``"; did you mean x?"``, or ``""``."""
    match = difflib.get_close_matches(name, list(options), n=1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""
