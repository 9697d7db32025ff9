"""Shared by the tests of doctor."""

from __future__ import annotations

from collections.abc import Iterable

from st_ssl.cli.doctor.findings import Finding


def one(found: Iterable[Finding]) -> Finding:
    """The only finding of a check."""
    (finding,) = found
    return finding
