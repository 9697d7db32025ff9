"""Words of a Dockerfile's line: quotes, backslashes and ``${variables}``, as Docker reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPERATORS = (":-", ":+", "-", "+")


def expand(text: str, values: Mapping[str, str]) -> str:
    """``text`` with its variables filled in and its quotes taken off; raises ``ValueError`` for what cannot be read."""
    return "".join(piece or "" for piece in _pieces(text, values))


def words(text: str, values: Mapping[str, str]) -> list[str]:
    """Like ``expand``, split at blanks that are not quoted. What a variable holds is never split."""
    found: list[str] = []
    new = True
    for piece in _pieces(text, values, blanks=True):
        if piece is None:
            new = True
        elif new:
            found.append(piece)
            new = False
        else:
            found[-1] += piece
    return found


def _pieces(text: str, values: Mapping[str, str], blanks: bool = False) -> list[str | None]:
    """Text to be joined; with ``blanks`` None stands for each blank between words."""
    pieces: list[str | None] = []
    at, quote = 0, ""
    while at < len(text):
        sign = text[at]
        if sign == "\\" and quote != "'" and at + 1 < len(text) and (not quote or text[at + 1] in '"$\\'):
            pieces.append(text[at + 1])
            at += 2
        elif sign in "'\"" and quote in ("", sign):
            quote = "" if quote else sign
            pieces.append("")  # an empty word is a word
            at += 1
        elif sign == "$" and quote != "'":
            value, at = _variable(text, at + 1, values)
            pieces.append(value)
        else:
            pieces.append(None if blanks and not quote and sign.isspace() else sign)
            at += 1
    if quote:
        raise ValueError(f"a quote {quote} is not closed")
    return pieces


def _variable(text: str, at: int, values: Mapping[str, str]) -> tuple[str, int]:
    """What the variable whose name begins at ``at`` stands for, and where the text goes on."""
    if not text[at:].startswith("{"):
        name = NAME.match(text, at)
        return (values.get(name[0], ""), name.end()) if name else ("$", at)
    name = NAME.match(text, at + 1)
    end = _closing(text, at)
    if not name or end < 0:
        raise ValueError(f"{text[at - 1 :]}: expected ${{NAME}} or ${{NAME:-instead}}")
    rest = text[name.end() : end]
    value = values.get(name[0])
    if not rest:
        return value or "", end + 1
    operator = next((one for one in OPERATORS if rest.startswith(one)), None)
    if operator is None:
        raise ValueError(f"{text[at - 1 : end + 1]}: expected one of {', '.join(OPERATORS)} after the name")
    given = bool(value) if operator.startswith(":") else value is not None
    instead = expand(rest[len(operator) :], values)
    if operator.endswith("-"):
        return (value or "") if given else instead, end + 1
    return instead if given else "", end + 1


def _closing(text: str, at: int) -> int:
    depth = 0
    for position in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if not depth:
            return position
    return -1
