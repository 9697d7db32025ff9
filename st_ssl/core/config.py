"""Configuration: typed models over YAML. A mistake names its key, its place and the nearest valid key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from st_ssl.core.errors import ConfigError, nearest
from st_ssl.core.yaml_text import YAMLTextError, load_yaml

_MOST_MISTAKES, _LONGEST = 50, 2000  # told at once; characters of each


class Config(BaseModel):
    """Base of all configuration models: extra keys are errors, values are checked, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, data: Any) -> Any:
        """``epochs: yes`` is no 1: as text it is a mistake of its key."""
        if not isinstance(data, dict):
            return data
        fields = cls.model_fields
        wrong = [key for key, value in data.items() if isinstance(value, bool) and key in fields]
        wrong = [key for key in wrong if bool not in (kinds := _kinds(fields[key].annotation)) and kinds & {int, float}]
        return data | {key: str(data[key]).lower() for key in wrong}


def _kinds(annotation: Any) -> set[Any]:
    """A type, or those of a union."""
    return set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}


def once(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """A validator of fields whose values are names or numbers of which each counts once."""
    if len(set(value)) < len(value):
        raise ValueError(f"each only once, got {list(value)}")
    return value


class Place:
    """Where keys come from: lines of a YAML file, those of a data set laid on it (``file:line`` of each key), and
    overrides of the command line."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lines: dict[tuple[str, ...], int] = {}
        self.laid: dict[tuple[str, ...], str] = {}
        self.overrides: dict[tuple[str, ...], str] = {}

    def of(self, key: tuple[str, ...]) -> str:
        """The place of the longest known beginning of ``key``, as ``file:line`` or the overrides themselves."""
        below = [text for path, text in self.overrides.items() if key and path[: len(key)] == key]
        if below:
            return f"command line, {', '.join(map(repr, below))}"
        inner = (line for path, line in self.laid.items() if key and path[: len(key)] == key)
        if laid := self.laid.get(key) or next(inner, None):
            return laid
        for end in range(len(key), -1, -1):
            if key[:end] in self.overrides:
                return f"command line, {self.overrides[key[:end]]!r}"
            if key[:end] in self.laid:
                return self.laid[key[:end]]
            if key[:end] in self.lines:
                return f"{self.file}:{self.lines[key[:end]]}"
        return str(self.file)

    def within(self, *sections: tuple[str, ...]) -> Place:
        """The places of keys where these sections of the file, each laid on those before it, are all there is."""
        place = Place(self.file)
        for section in sections:
            end = len(section)
            for path, line in self.lines.items():
                if path[:end] == section:
                    place.lines[path[end:]] = line
                    place.laid.pop(path[end:], None)
            for path, text in self.overrides.items():
                if path[:end] == section:
                    place.laid[path[end:]] = f"command line, {text!r}"
        return place


def read_yaml(file: Path) -> tuple[dict[str, Any], Place]:
    """A YAML mapping and the line of each of its keys. Raises ``ConfigError`` for what is not one."""
    place = Place(file)
    if not file.is_file():
        others = [str(p) for p in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
        raise ConfigError(f"{file}: no such file{nearest(str(file), others)}")
    try:
        data, lines = load_yaml(file.read_text(encoding="utf-8"))
    except (YAMLTextError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{file}: not YAML that can be read: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: expected keys and values, found {type(data).__name__}")
    for key, line in lines:
        if key in place.lines:
            raise ConfigError(f"{file}:{line}: {_cut('.'.join(key))} stands twice (first in line {place.lines[key]})")
        place.lines[key] = line
    return data, place


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """``a.b=value`` to (("a", "b"), value), the value read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise ConfigError(f"{text!r}: expected dotted.key=value, for example engine.epochs=10")
    try:
        data, lines = load_yaml(value)
    except YAMLTextError as error:
        raise ConfigError(f"{_cut(text)!r}: the value is not YAML: {error}") from error
    inside = [path for path, _ in lines]
    if twice := next((path for at, path in enumerate(inside) if path in inside[:at]), None):
        raise ConfigError(f"{_cut(text)!r}: {_cut('.'.join(twice))} stands twice")
    return tuple(key.strip().split(".")), data


def set_key(data: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    """Set ``data[a][b][...]``, making the mappings on the way."""
    for part in key[:-1]:
        inner = data.get(part)
        data[part] = inner = dict(inner) if isinstance(inner, dict) else {}
        data = inner
    data[key[-1]] = value


def override(data: dict[str, Any], given: Sequence[tuple[tuple[str, ...], Any, str]], place: Place) -> dict[str, Any]:
    """``data`` with what was ``given`` on the command line: key, value and text of each; ``place`` is told."""
    place.overrides = {key: text for key, _, text in given}
    data = merge(data, {})
    for key, value, _ in sorted(given, key=lambda o: o[0][-1] != "name"):  # a new name replaces what it named
        nested: dict[str, Any] = {}
        set_key(nested, key, value)
        data = merge(data, nested)
    return data


def given_keys(given: Sequence[tuple[tuple[str, ...], Any, str]], section: str) -> set[str]:
    """Which keys of a ``section`` the command line sets, as ``section.key=value`` or in ``section={key: value}``."""
    keys: set[str] = set()
    for key, value, _ in given:
        if key[0] == section:
            keys |= {key[1]} if len(key) > 1 else set(value) if isinstance(value, dict) else set()
    return keys


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``over`` laid on ``base``, mapping by mapping; a mapping with another ``name`` replaces instead."""
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        renamed = isinstance(inner, dict) and isinstance(value, dict) and value.get("name", inner.get("name"))
        if isinstance(inner, dict) and isinstance(value, dict) and renamed == inner.get("name"):
            result[key] = merge(inner, value)
        else:
            result[key] = value
    return result


def validate(model: type[Config], data: dict[str, Any], place: Place) -> Any:
    """``data`` as an instance of ``model``; raises ``ConfigError`` that lists every mistake with its place."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        mistakes = [dict(e) for e in error.errors() if not _follows(dict(e))]
        lines = [_cut(_explain(model, data, one, place)) for one in mistakes[:_MOST_MISTAKES]]
        more = [f"… and {len(mistakes) - len(lines)} more mistakes"] if len(mistakes) > len(lines) else []
        raise ConfigError("\n".join(dict.fromkeys(lines + more))) from None


def _cut(text: str, most: int = _LONGEST) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _follows(error: dict[str, Any]) -> bool:
    """Whether a list is too short only because its items, each an error of its own, do not count."""
    if error["type"] != "too_short" or not isinstance(error["input"], Sequence):
        return False
    return len(error["input"]) >= int(error["ctx"]["min_length"])


_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "model": "a mapping of keys to values",
}


def _explain(model: type[Config], data: Any, error: dict[str, Any], place: Place) -> str:
    key, owner = _locate(model, data, error["loc"])
    name, kind, given = _cut(".".join(key), 200), error["type"], error["input"]
    where = place.of(key)
    if kind == "extra_forbidden":
        known = list(owner.model_fields)
        return f"{where}: {name}: unknown key{nearest(key[-1], known)} (keys here: {', '.join(known)})"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        names = [m.model_fields["name"].default for m in _models(owner.model_fields[key[-1]].annotation)]
        tag = error["ctx"].get("tag")
        said = "is needed but not given" if tag is None else f"no {key[-1]} named {tag!r}{nearest(tag, names)}"
        where = where if tag is None else place.of((*key, "name"))
        return f"{where}: {name}.name: {said} (there are: {', '.join(names)})"
    if kind == "missing":
        return f"{where}: {name}: is needed but not given"
    message = error["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if kind.endswith(("_type", "_parsing", "_from_float")):
        message = f"input should be {_WORDS.get(kind.split('_')[0], message.removeprefix('input should be '))}"
    if message.startswith("input should be"):
        message = f"must be{message.removeprefix('input should be')}, not {given!r}{_hint(error)}"
    return f"{where}: {name}: {message}" if name else f"{where}: {message}"


def _hint(error: dict[str, Any]) -> str:
    """The nearest of the values allowed; and 1e2 is a whole number to people, but text to YAML, 10 a share in per cent,
    and 0.5 a list of one."""
    given = error["input"]
    if error["type"] == "literal_error":
        options = error["ctx"]["expected"].replace(" or ", ", ").split(", ")
        return nearest(given, [o.strip("'") for o in options]) if isinstance(given, str) else ""
    if error["type"] == "int_parsing" and re.fullmatch(r"[+-]?[\d_.]+e\+?\d{1,2}", given, re.IGNORECASE):
        return f"; write {float(given):.0f}" if float(given).is_integer() else ""
    if error["type"] == "less_than_equal" and error["ctx"]["le"] == 1 and 2 <= given <= 100:
        return f"; a share: {given:g} % is {given / 100:g}"
    if error["type"] == "tuple_type" and isinstance(given, (int, float, str)):
        return f": write [{given}]"
    return ""


def _locate(model: type[Config], data: Any, loc: Sequence[str | int]) -> tuple[tuple[str, ...], type[Config]]:
    """The dotted key of a pydantic location (which also holds union tags), and the model that owns its last part."""
    key: list[str] = []
    owner: type[Config] = model
    current: type[Config] | None = model
    options: list[type[Config]] = []
    for part in loc:
        if options and current is None:  # the tag of a discriminated union, not a key
            current = next((o for o in options if o.model_fields["name"].default == part), options[0])
            continue
        key.append(str(part))
        if current is None:
            continue
        owner = current
        field = current.model_fields.get(str(part))
        options = [] if field is None else list(_models(field.annotation))
        tagged = field is not None and (field.discriminator is not None or len(options) > 1)
        current = options[0] if options and not tagged else None
    return tuple(key), owner


def _models(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for inner in get_args(annotation) if get_origin(annotation) is not None or get_args(annotation) else ():
        yield from _models(inner)


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def differences(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """What differs between two nested mappings: each dotted key, and a line that tells both values."""
    old, new = flatten(before), flatten(now)
    return {
        key: f"{key}: {old.get(key, 'not set')} before, {new.get(key, 'not set')} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    }


def to_yaml(data: dict[str, Any]) -> str:
    """A configuration as YAML text that reads back to the same values."""
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
