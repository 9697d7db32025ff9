"""Methods at the smallest size that tests need. Each says its own beside its tests: ``SMALL`` of
``tests/methods/<idea>/test_<name>.py`` has the keys ``method`` and ``encoder``, and ``input`` where the usual one will
not do."""

from __future__ import annotations

import importlib
from typing import Any

from st_ssl.methods.base import METHODS


def small(name: str) -> dict[str, Any]:
    """The small configuration of the method ``name``: ``method``, ``encoder`` and perhaps ``input``."""
    idea, file = METHODS.registered(name).__module__.split(".")[-2:]
    found: dict[str, Any] = importlib.import_module(f"tests.methods.{idea}.test_{file}").SMALL
    return {**found, "method": {"name": name, **found.get("method", {})}}
