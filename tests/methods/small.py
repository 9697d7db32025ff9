"""Methods at the smallest size that tests need. Each says its own beside its tests: ``SMALL`` of
``tests/methods/<idea>/test_<name>.py`` has the keys ``method`` and ``encoder``, and ``input`` where the usual one will
not do. ``RECORDED = "drives"`` beside it says that the method needs several sweeps."""

from __future__ import annotations

import importlib
from typing import Any

from st_ssl.methods.base import METHODS


def small(name: str) -> dict[str, Any]:
    """The small configuration of the method ``name``: ``method``, ``encoder`` and perhaps ``input``."""
    return {**_test_file(name).SMALL, "method": {"name": name, **_test_file(name).SMALL.get("method", {})}}


def recorded(name: str) -> str:
    """What the method ``name`` sees: ``RECORDED`` of its test file, where one cloud, or one video, will not do."""
    return getattr(_test_file(name), "RECORDED", METHODS.registered(name).modality)


def _test_file(name: str) -> Any:
    idea, file = METHODS.registered(name).__module__.split(".")[-2:]
    return importlib.import_module(f"tests.methods.{idea}.test_{file}")
