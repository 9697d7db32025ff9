"""Read a Dockerfile into stages of instructions, each with its line; what is not known is an error, never skipped."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from nearest import nearest
from variables import expand, words

FLAGS: dict[str, tuple[str, ...]] = {
    "FROM": ("platform",),
    "ARG": (),
    "ENV": (),
    "RUN": ("mount", "network"),
    "COPY": ("from", "chown", "chmod", "link"),
    "WORKDIR": (),
    "USER": (),
    "LABEL": (),
    "ENTRYPOINT": (),
    "CMD": (),
    "STOPSIGNAL": (),
    "SHELL": (),
}
CONTINUED = re.compile(r"\\[ \t]*$")
FLAG = re.compile(r"--([a-z]+)(?:=(\S*))?(?:\s+|$)")
FROM = re.compile(r"(\S+)(?:\s+as\s+([A-Za-z][\w.-]*))?", re.IGNORECASE)
HEREDOC = re.compile(r"<<-?\s*['\"]?[A-Za-z_]")


class DockerfileError(ValueError):
    """What cannot be read or done; the message names file, line, and what was expected."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: where it is, its name in capitals, its ``--flags`` in order, and the rest as it was written."""

    file: Path
    line: int
    name: str
    flags: tuple[tuple[str, str], ...]
    text: str

    def error(self, message: str) -> DockerfileError:
        """The error that says ``message`` about this instruction."""
        return DockerfileError(f"{self.file}:{self.line}: {self.name}: {message}")

    def flag(self, name: str) -> str | None:
        """The value of a flag; None where it is not there."""
        return dict(self.flags).get(name)

    def strings(self) -> list[str] | None:
        """The list of strings that the text is in the exec form, ``["a", "b"]``; None for any other text."""
        if not self.text.startswith("["):
            return None
        try:
            value = json.loads(self.text)
        except ValueError:
            return None  # Docker takes it as a shell's command: [ -d x ] && …
        if not all(isinstance(one, str) for one in value):
            raise self.error(f"{self.text}: expected a list of strings")
        return value

    def __str__(self) -> str:
        flags = [f"--{name}={value}" if value else f"--{name}" for name, value in self.flags]
        return " ".join([self.name, *flags, re.sub(r"\s+", " ", self.text)])


@dataclass(frozen=True)
class Stage:
    """``FROM base AS name`` (its number where it has no name) and the instructions after it."""

    name: str
    base: str
    start: Instruction
    body: tuple[Instruction, ...]


@dataclass(frozen=True)
class Dockerfile:
    """The stages in order, and the values of the arguments that stand before the first of them."""

    file: Path
    arguments: dict[str, str]
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """The stage of a name; raises ``DockerfileError`` that names the nearest."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = [stage.name for stage in self.stages]
        raise DockerfileError(f"{self.file}: no stage {name}; there are {', '.join(names)}{nearest(name, names)}")


def instructions(file: Path, text: str) -> list[Instruction]:
    """The instructions of a Dockerfile's text; raises ``DockerfileError``."""
    found: list[Instruction] = []
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        directive = re.match(r"#\s*escape\s*=\s*(\S)", line)
        if directive and not found and not parts and directive[1] != "\\":
            raise DockerfileError(f"{file}:{number}: escape={directive[1]}: only the backslash is read")
        if not line.strip() or line.lstrip().startswith("#"):
            continue  # also between the lines of one instruction
        begun = begun or number
        parts.append(CONTINUED.sub("", line))
        if not CONTINUED.search(line):
            found.append(_instruction(file, begun, "".join(parts).strip()))
            begun, parts = 0, []
    if parts:
        raise DockerfileError(f"{file}:{begun}: the file ends within this instruction")
    return found


def _instruction(file: Path, line: int, text: str) -> Instruction:
    name, _, rest = text.partition(" ") if "\t" not in text.split(" ")[0] else text.partition("\t")
    name, rest = name.upper(), rest.strip()
    if name not in FLAGS:
        raise DockerfileError(
            f"{file}:{line}: {name}: not an instruction known here; known are {', '.join(FLAGS)}{nearest(name, FLAGS)}"
        )
    flags = []
    while match := FLAG.match(rest):
        flags.append((match[1], match[2] or ""))
        rest = rest[match.end() :]
    made = Instruction(file, line, name, tuple(flags), rest)
    for flag, _ in flags:
        if flag not in FLAGS[name]:
            known = ", ".join(f"--{one}" for one in FLAGS[name]) or "none"
            raise made.error(f"--{flag}: not a flag known here; known: {known}{nearest(flag, FLAGS[name])}")
    if not rest:
        raise made.error("nothing follows")
    if name in ("RUN", "COPY") and HEREDOC.search(rest):
        raise made.error("here-documents are not read; write the lines with && and \\")
    return made


def read(file: Path, build_args: dict[str, str] | None = None) -> Dockerfile:
    """Read a Dockerfile; ``build_args`` go before the values that it gives itself.

    Raises:
        DockerfileError: something in it is not known or not possible, or a build argument is declared nowhere.
    """
    given = build_args or {}
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    body: list[Instruction] = []
    declared: set[str] = set()
    for one in instructions(file, file.read_text(encoding="utf-8")):
        if one.name == "ARG":
            declared.update(word.partition("=")[0] for word in _words(one, {}))
        if one.name == "FROM":
            body = []
            stages.append(_stage(one, len(stages), arguments))
            if stages[-1].name in [stage.name for stage in stages[:-1]]:
                raise one.error(f"{stages[-1].name}: there is a stage of this name already")
        elif stages:
            body.append(one)
            last = stages[-1]
            stages[-1] = Stage(last.name, last.base, last.start, tuple(body))
        elif one.name == "ARG":
            for word in _words(one, arguments):
                name, _, default = word.partition("=")
                arguments[name] = given.get(name, default)
        else:
            raise one.error("stands before the first FROM")
    if not stages:
        raise DockerfileError(f"{file}: has no FROM")
    for name in given:
        if name not in declared:
            known = sorted(declared)
            raise DockerfileError(
                f"--build-arg {name}: {file} declares no such ARG; it has {', '.join(known)}{nearest(name, known)}"
            )
    return Dockerfile(file, arguments, tuple(stages))


def _words(one: Instruction, values: dict[str, str]) -> list[str]:
    try:
        return words(one.text, values)
    except ValueError as error:
        raise one.error(str(error)) from error


def _stage(one: Instruction, number: int, arguments: dict[str, str]) -> Stage:
    match = FROM.fullmatch(one.text)
    if not match:
        raise one.error(f"{one.text}: expected FROM IMAGE [AS NAME]")
    try:
        base = expand(match[1], arguments)
    except ValueError as error:
        raise one.error(str(error)) from error
    return Stage(match[2] or str(number), base, one, ())
