"""Which files of a folder an image may be built from: .dockerignore, as Docker reads it."""

from __future__ import annotations

import os
import re
from pathlib import Path


def _pattern(text: str) -> re.Pattern[str]:
    """``**/name``, ``dir/*.py`` and the like as a regular expression over paths with slashes."""
    out, at = "", 0
    while at < len(text):
        if text.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif text.startswith("**", at):
            out, at = out + ".*", at + 2
        elif text[at] == "[" and "]" in text[at + 2 :]:
            end = text.index("]", at + 2)
            out, at = out + text[at : end + 1], end + 1
        else:
            out, at = out + {"*": "[^/]*", "?": "[^/]"}.get(text[at], re.escape(text[at])), at + 1
    return re.compile(out)


class Ignore:
    """The rules of one .dockerignore. The last rule that fits a path, or a folder above it, decides."""

    def __init__(self, lines: list[str]) -> None:
        self.rules: list[tuple[re.Pattern[str], bool]] = []
        for line in (line.strip() for line in lines if not line.startswith("#")):
            name = line.removeprefix("!").strip().strip("/")
            if name:
                self.rules.append((_pattern(os.path.normpath(name)), not line.startswith("!")))

    @classmethod
    def of(cls, context: Path, dockerfile: Path) -> Ignore:
        """The rules beside the Dockerfile (``Dockerfile.dockerignore``), else those of the context, else none."""
        for file in (dockerfile.with_name(dockerfile.name + ".dockerignore"), context / ".dockerignore"):
            if file.is_file():
                return cls(file.read_text(encoding="utf-8").splitlines())
        return cls([])

    def __call__(self, path: str) -> bool:
        """Whether ``path``, relative to the context, is left out."""
        parts = path.split("/")
        prefixes = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        out = False
        for pattern, leaves_out in self.rules:
            if any(pattern.fullmatch(prefix) for prefix in prefixes):
                out = leaves_out
        return out

    def files(self, context: Path) -> dict[str, Path]:
        """All files, links and folders of the context that stay, by relative path; no empty folders."""
        kept: dict[str, Path] = {}
        for folder, names, files in os.walk(context):
            links = [name for name in names if os.path.islink(os.path.join(folder, name))]
            for name in (*files, *links):
                path = Path(folder, name)
                relative = path.relative_to(context)
                if not self(relative.as_posix()):
                    kept[relative.as_posix()] = path
                    for parent in list(relative.parents)[:-1]:
                        kept.setdefault(parent.as_posix(), context / parent)
            if not any(rule for rule in self.rules if not rule[1]):  # nothing can come back: do not look
                names[:] = [name for name in names if not self(Path(folder, name).relative_to(context).as_posix())]
        return dict(sorted(kept.items()))
