"""The commands and the Python that the documentation shows: found by their looks, so that no list can forget one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.runs import ROOT

PAGES = (
    *("README.md", "configs/README.md", "configs/transfer/README.md", "CONTRIBUTING.md"),
    *("tools/README.md", "st_ssl/weights/README.md", "docs/results.md"),
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROGRAM = re.compile(r"(sudo|python3?|torchrun|st-ssl|pip|pytest|bash|docker|apt-get) (?!\W*$)")
_TOOL = re.compile(r"(\w+)\.py .")
_LOOP = re.compile(r"for (\w+) in ([^;\n]+);\s*do\s+(.*?)\s*(?:;\s*|\n\s*)done", re.DOTALL)
_OPTIONAL = re.compile(r"(?<=\s)\[[^\]]*\]")
_MORE = re.compile(r"… ((?:[\w.]+=\S+ ?)+)")
_RECIPES = re.compile(r"configs/transfer/(video|points)/")


@dataclass(frozen=True)
class Command:
    """A command of the documentation: where it stands, its words, and whether it is one to type as it is (``whole``:
    in a block of a page), or a form or the command of a recipe. ``copies``: the folders that the rest of a loop over
    seeds would write, each with the one that its first round writes."""

    where: str
    words: tuple[str, ...]
    whole: bool = False
    copies: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


def of_page(name: str) -> list[Command]:
    """The commands of a page: those of its blocks in their order, then those in running text and tables."""
    text = (ROOT / name).read_text()
    found: list[Command] = []
    for match in _FENCE.finditer(text):
        if match[1] == "bash":
            found += of_block(match[2], f"{name}:{_line(text, match.start(2))}")
    return found + list(_in_text(name, _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)))


def of_recipe(file: Path) -> list[Command]:
    """The commands in the comments on top of a recipe, and what they are varied by."""
    name, found = file.relative_to(ROOT).as_posix(), []
    head = re.match(r"(?:#.*\n)*", file.read_text())
    assert head is not None
    text = re.sub(r"\\\n#\s*", " ", head[0])
    for line in text.splitlines():
        said = line.removeprefix("#").strip()
        if _PROGRAM.match(said):
            found += [replace(one, whole=False) for one in of_block(said, name)]
        elif (at := said.find("python tools/")) > 0 and said[at - 2 : at] == "  ":
            found += [replace(one, whole=False) for one in of_block(said[at:], name)]
        for more in _MORE.finditer(said):
            found.append(Command(name, (*found[0].words, *shlex.split(more[1]))))
    return found


def python_of(name: str) -> str:
    """The Python of a page, one block after the other."""
    return "\n".join(match[2] for match in _FENCE.finditer((ROOT / name).read_text()) if match[1] == "python")


def of_block(text: str, where: str) -> list[Command]:
    """The commands of a block of shell. Of a loop over numbers the first round stands for all."""
    text = re.sub(r"\\\n\s*", " ", text)
    found: list[Command] = []
    at = 0
    for loop in _LOOP.finditer(text):
        found += _plain(text[at : loop.start()], where)
        values = loop[2].split()
        rounds = values if not all(map(str.isdigit, values)) else values[:1]
        for value in rounds:
            for command in _plain(loop[3], where):
                words = tuple(word.replace(f"${loop[1]}", value) for word in command.words)
                copies = tuple(
                    (
                        word.replace(f"${loop[1]}", value).partition("=")[2],
                        word.replace(f"${loop[1]}", other).partition("=")[2],
                    )
                    for word in command.words
                    if word.startswith("output_dir=") and f"${loop[1]}" in word
                    for other in values[1:]
                )
                found.append(replace(command, words=words, copies=copies if rounds != values else ()))
        at = loop.end()
    return found + _plain(text[at:], where)


def _plain(text: str, where: str) -> list[Command]:
    parts = (part for line in text.split("\n") for part in _split(line))
    return [Command(where, tuple(words), True) for words in parts if words]


def _split(line: str) -> Iterator[list[str]]:
    words: list[str] = []
    for word in shlex.split(line, comments=True):
        if word in ("&&", ";"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def _in_text(name: str, text: str) -> Iterator[Command]:
    """Commands between backticks and in indented blocks: ``tools/`` and ``python`` may be left out, and in the tables
    of recipes all that they have in common."""
    folder, last = "", None
    lines = text.split("\n")
    for start, end in _paragraphs(lines):
        paragraph = "\n".join(lines[start:end])
        spans = re.findall(r"`([^`]+)`", re.sub(r"… `(?=[\w.]+=)", "`… ", paragraph))
        spans += [line.strip() for line in lines[start:end] if line.startswith("    ") and _PROGRAM.match(line.strip())]
        for span in spans:
            span, where = " ".join(span.split()), f"{name}:{start + 1}"
            if found := _RECIPES.search(span):
                folder = found[0]
            tool, more = _TOOL.match(span), _MORE.fullmatch(span)
            if span.endswith("/") or re.search(r"\bX\b", span):
                continue  # the beginning of a command, or how any is called
            if more and last:
                yield Command(where, (*last.words, *shlex.split(more[1])))
                continue
            if folder and re.match(r"\w+\.yaml \w", span) and (ROOT / folder / span.split()[0]).is_file():
                span = f"python tools/finetune.py {folder}{span}"
            elif tool and (ROOT / "tools" / f"{tool[1]}.py").is_file():
                span = f"python tools/{span}"
            elif not _PROGRAM.match(span):
                continue
            for words in _split(_OPTIONAL.sub("", span).replace("=…", "=ROOT").replace("…", "")):
                if words:
                    last = Command(where, tuple(words))
                    yield last


def _paragraphs(lines: list[str]) -> Iterator[tuple[int, int]]:
    """First line and end of each paragraph and each row of a table."""
    start = 0
    for at, line in enumerate([*lines, ""]):
        if not line.strip() or line.startswith(("|", "- ")):
            if start < at:
                yield start, at
            start = at + (not line.strip())
            if line.startswith("|"):
                yield at, at + 1
                start = at + 1


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
