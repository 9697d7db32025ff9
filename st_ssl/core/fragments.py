"""Fragments: what a data set decides of a run. ``data=NAME`` lays one on any recipe.

A fragment is a YAML file, ``configs/data/NAME.yaml`` or one of the user's, with up to four sections. Each is a part of
a configuration; later ones lie on earlier ones, all of them on the recipe, and the command line on everything::

    data: {name: video, format: ssv2}     # how the data are read, by any command
    pretrain: {input: {stride: 2}}        # what else any pretraining on them takes
    finetune: {test_on: val}              # what else any fine-tuning on them takes
    recipes:                              # what else one recipe takes, by its key ``recipe: vit``
      vit: {epochs: 30}
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from st_ssl.core.config import Place, given_keys, merge, read_yaml
from st_ssl.core.errors import ConfigError, nearest

SECTIONS = ("data", "pretrain", "finetune", "recipes")
_NAMED = "data="  # the key of a name while mappings are merged

Given = tuple[tuple[str, ...], Any, str]
"""An argument ``key=value``: its key, its value, its text."""


def configs_folder() -> Path:
    """The configurations that come with st_ssl: ``configs/`` of a checkout, or inside the installed package."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def fragment_names() -> list[str]:
    """The data sets that come with st_ssl, as ``data=NAME`` takes them."""
    return sorted(file.stem for file in (configs_folder() / "data").glob("*.yaml"))


def apart(data: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose ``data: NAME`` stands under a key of its own, so that mappings merged with it keep it."""
    if not isinstance(data.get("data"), str):
        return data
    return {key: value for key, value in data.items() if key != "data"} | {_NAMED: data["data"]}


def asked_fragment(given: Sequence[Given]) -> str | None:
    """The NAME of the last ``data=NAME`` among the arguments."""
    return next((value for key, value, _ in reversed(given) if key == ("data",) and isinstance(value, str)), None)


def lay_fragment(
    data: dict[str, Any],
    given: Sequence[Given],
    place: Place,
    command: Literal["pretrain", "finetune"] | None,
    placed: bool = False,
) -> tuple[dict[str, Any], list[Given]]:
    """``data`` of a file with the fragment that it or an argument names laid on it, and the arguments without that one.

    ``place`` learns the lines of the fragment. ``command``: whose section counts, None for neither. ``placed``: whether
    the caller knows where the data are. Raises ``ConfigError`` for an unknown name, for a file that is no fragment, and
    for data that are nowhere.
    """
    data = dict(apart(data))
    if "data" in data and data.keys() & {"pretrain", "finetune", "recipes"}:
        raise ConfigError(f"{place.file}: this is a data set, and no recipe: it goes behind one, as data=NAME")
    recipe, name, where = data.pop("recipe", None), data.pop(_NAMED, None), place.of(("data",))
    if recipe is not None and not isinstance(recipe, str):
        raise ConfigError(f"{place.of(('recipe',))}: recipe: must be text, not {recipe!r}")
    asked = asked_fragment(given)
    if asked is not None:
        name, where = asked, f"command line, {f'data={asked}'!r}"
    rest = [one for one in given if one[0] != ("data",) or not isinstance(one[1], str)]
    if name is None:
        return data, rest
    fragment, source = _read(name, where)
    if isinstance(data.get("data"), dict):  # without a name it is of the same kind
        kind = _part(fragment, ("data",), source)["data"].get("name")
        data["data"] = ({"name": kind} if kind else {}) | data["data"]
    sections: list[tuple[str, ...]] = [("data",)]
    if command is not None:
        sections += [(command,), *([("recipes", recipe)] if recipe else [])]
    for section in sections:
        data = merge(data, _part(fragment, section, source))
        _tell_lines(place, source, section)
    own = data["data"]  # of another kind it is told with the other mistakes
    here = given_keys(rest, "data") | ({key for key in own if own[key]} if isinstance(own, dict) else {"root"})
    if not placed and not here & {"root", "list"}:
        raise ConfigError(f"{where}: this says how the data are read, not where they are: add data.root=FOLDER")
    return data, rest


def _read(name: str, where: str) -> tuple[dict[str, Any], Place]:
    names = fragment_names()
    if name in names:
        file = configs_folder() / "data" / f"{name}.yaml"
    elif name.endswith(".yaml") and os.path.isfile(name):
        file = Path(name)
    else:
        hint = f"; a folder or a list is data.root={name}" if os.path.exists(name) else nearest(name, names)
        raise ConfigError(f"{where}: data: no data set named {name!r}{hint} (there are: {', '.join(names)})")
    fragment, source = read_yaml(file)
    for key in fragment:
        if key not in SECTIONS:
            told = f"unknown section{nearest(str(key), SECTIONS)} (a data set has: {', '.join(SECTIONS)})"
            raise ConfigError(f"{source.of((key,))}: {key}: {told}")
    return fragment, source


def _part(fragment: dict[str, Any], section: tuple[str, ...], source: Place) -> dict[str, Any]:
    """The configuration in a section; that of ``data`` is below ``data`` in a configuration too."""
    part: Any = fragment
    for at, key in enumerate(section, 1):
        part = part.get(key, {})
        if not isinstance(part, dict):
            said = f"must be a mapping of keys to values, not {part!r}"
            raise ConfigError(f"{source.of(section[:at])}: {'.'.join(section[:at])}: {said}")
    return {"data": part} if section == ("data",) else part


def _tell_lines(place: Place, source: Place, section: tuple[str, ...]) -> None:
    """Where the values of a section stand."""
    mappings = {path[:-1] for path in source.lines}
    for path, line in source.lines.items():
        if path[: len(section)] == section and path not in mappings:
            place.laid[path if section == ("data",) else path[len(section) :]] = f"{source.file}:{line}"
