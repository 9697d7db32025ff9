"""All methods as rows of a table, from what each says of its paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from st_ssl.methods.base import METHODS, Paper


@dataclass(frozen=True)
class Row:
    """One method: its ``name``, the ``idea`` (the folder it is in), the ``stream`` that it sees, the ``file`` below
    ``st_ssl/methods`` and its ``paper``."""

    name: str
    idea: str
    stream: str
    file: str
    paper: Paper


def rows(idea: str | None = None, stream: str | None = None) -> list[Row]:
    """The methods by idea and name; only those of an ``idea``, or of a ``stream``, where given."""
    found = []
    for name in METHODS.names():
        method = METHODS.registered(name)
        folder, file = method.__module__.split(".")[-2:]
        found.append(Row(name, folder, method.modality, f"{folder}/{file}.py", method.paper))
    wanted = [row for row in found if idea in (None, row.idea) and stream in (None, row.stream)]
    return sorted(wanted, key=lambda row: (row.idea, row.name))


def markdown(found: Sequence[Row]) -> str:
    """A table of methods, as the documentation has it."""
    lines = ["| method | sees | what it does | paper |", "|---|---|---|---|"]
    for row in found:
        paper = f"{row.paper.title} ({row.paper.authors}, {row.paper.venue})"
        lines.append(f"| [`{row.name}`]({row.file}) | {row.stream} | {row.paper.idea} | {paper} |")
    return "\n".join(lines) + "\n"
