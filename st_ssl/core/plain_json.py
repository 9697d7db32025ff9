"""JSON that others wrote: plain data of finite numbers that 64 bits hold, or a ``ValueError``."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

_LONG = re.compile(r"\d{19}|\d[eE]")
NOT_PLAIN = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError)
"""What taking plain data apart raises where they are not of the form that is expected."""


def load_json(text: str | bytes) -> Any:
    """``json.loads``; ``ValueError`` also for NaN and infinity, whole numbers beyond 64 bits and data nested too deeply
    to be any of ours."""
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    checked: dict[str, Any] = {"parse_int": _whole, "parse_float": _finite} if _LONG.search(text) else {}
    try:
        return json.loads(text, parse_constant=_refuse, **checked)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _whole(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 64:
        raise ValueError(f"a whole number of {len(digits)} digits: expected one of 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits[:40])
