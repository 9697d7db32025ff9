"""The page: findings by subject, aligned, and the commands that mend them gathered at the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TextIO

from st_ssl.cli.doctor.findings import LEVELS, Finding, worst

COLOURS = {"green": 32, "yellow": 33, "red": 31}
SYMBOLS = {"green": ("✓", "ok"), "yellow": ("!", "!"), "red": ("✗", "X")}
"""Of each level, as Unicode and where that cannot be written."""


MOST = 6
"""How many names stand above a command that mends more."""


def as_json(findings: Sequence[Finding]) -> str:
    """One object: the findings, and the level of all together."""
    return json.dumps({"findings": [asdict(finding) for finding in findings], "level": worst(findings)}, indent=2)


def write_page(findings: Sequence[Finding], file: TextIO | None = None) -> None:
    """Print the page; in colour on a terminal, unless NO_COLOR is set."""
    file = file or sys.stdout
    colour = file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    plain = 0 if _writes(file, "".join(symbol for symbol, _ in SYMBOLS.values())) else 1
    width = max(60, min(shutil.get_terminal_size((120, 24)).columns, 140)) if file.isatty() else 120
    for line in page(findings, width, colour, plain):
        encoding = file.encoding or "ascii"
        print(line if _writes(file, line) else line.encode(encoding, "replace").decode(encoding), file=file)


def _writes(file: TextIO, text: str) -> bool:
    try:
        text.encode(file.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def page(findings: Sequence[Finding], width: int, colour: bool, plain: int = 0) -> Iterator[str]:
    """The lines of the page."""

    def painted(text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    names = max((len(finding.name) for finding in findings), default=0)
    for subject in dict.fromkeys(finding.subject for finding in findings):
        yield painted(subject, 1)
        for finding in findings:
            if finding.subject != subject:
                continue
            symbol = SYMBOLS[finding.level][plain]
            mark = painted(f"{symbol:{1 + plain}}", COLOURS[finding.level])
            lines = _wrapped(finding.text, width - names - 6 - plain)
            yield f"  {mark} {finding.name:{names}}  {lines[0]}"
            yield from (f"{'':{names + 6 + plain}}{line}" for line in lines[1:])
        yield ""
    counts = [(level, sum(finding.level == level for finding in findings)) for level in LEVELS]
    yield ", ".join(painted(f"{count} {level}", COLOURS[level]) for level, count in counts)
    yield from _mending(findings)


def _wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines, none of which ends between a name and its number."""
    together = re.sub(r"(?<=\w) (?=\d)", "\0", text)
    return [line.replace("\0", " ") for line in textwrap.wrap(together, width, break_on_hyphens=False)] or [""]


def _mending(findings: Sequence[Finding]) -> Iterator[str]:
    """Each command once, the worst first, under the names of what it mends: whole lines, to be copied."""
    by_command: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda one: -LEVELS.index(one.level)):
        if finding.mend and finding.level != "green":
            by_command.setdefault(finding.mend, []).append(finding)
    if by_command:
        yield "\nTo mend it:"
    for command, mended in by_command.items():
        names = [f"{finding.name} ({finding.level})" for finding in mended]
        yield f"  # {', '.join(names[:MOST])}{f' and {len(names) - MOST} more' if len(names) > MOST else ''}"
        yield f"  {command}"
