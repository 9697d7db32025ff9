"""The configurations that come with st_ssl: ``configs/`` of a checkout, which an installed package holds inside."""

from __future__ import annotations

import os
import re
from pathlib import Path

from st_ssl.core.errors import ConfigError, nearest
from st_ssl.core.fragments import configs_folder


def recipe_names() -> list[str]:
    """All of them, data sets too, as ``find_recipe`` takes them: "quickstart/video", "data/ucf101", …"""
    folder = configs_folder()
    return sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))


def find_recipe(given: Path, own: bool = True) -> Path:
    """The file that ``given`` means, with or without ".yaml" behind: a file of the user's (only with ``own``), or where
    there is none the one of that name that comes with st_ssl, with or without "configs/" before it. Raises
    ``ConfigError`` with the nearest name of both where there is neither, and with what is in it for a folder."""
    if own and (found := _file(given)):
        return found
    if not given.is_absolute() and ".." not in given.parts:
        name = given.relative_to("configs") if given.parts[:1] == ("configs",) else given
        if found := _file(configs_folder() / name):
            return found
    if own and os.path.isdir(given):
        inside = sorted(file.name for file in given.glob("*.yaml"))
        told = (
            f"; did you mean {str(given / inside[0])!r}?" if len(inside) == 1 else f" (in it: {', '.join(inside[:5])})"
        )
        raise ConfigError(f"{given}: is a folder, and CONFIG a file in YAML{told if inside else ''}")
    beside = given.parent.glob("*.yaml") if own and os.path.isdir(given.parent) else ()
    recipes = (spelling for name in recipe_names() for spelling in (name, f"configs/{name}.yaml"))
    near = nearest(str(given), [*map(str, beside), *recipes])
    if not near and (like := [name for name in recipe_names() if name.rpartition("/")[2] == given.stem]):
        near = f"; of that name there is {', '.join(like)}"
    near = near or "; `st-ssl configs` lists those that come with st_ssl"
    raise ConfigError(f"{given}: no such file{near}")


def _file(name: Path) -> Path | None:
    return next(filter(os.path.isfile, (name, Path(f"{name}.yaml"))), None)  # Path.is_file raises for long names


def headline(file: Path) -> str:
    """What a configuration is, by the comment on top of it: up to its first colon or the end of its first sentence."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# "))
    return re.split(r":\s|\.\s+(?=[A-Z])|[:.]$", " ".join(lines), maxsplit=1)[0]
