"""Published weights into an encoder of ours: every key is used, left over for a reason that is told, or an error."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import create_model

from st_ssl.core.config import Config, Place, flatten, override, parse_override, validate
from st_ssl.core.errors import ConfigError, OutputError, UserError, nearest
from st_ssl.core.files import check_writable, replace_text
from st_ssl.core.inputs import INPUTS
from st_ssl.encoders.base import ENCODERS, Encoder, save_encoder
from st_ssl.weights.base import LAYOUTS, ForeignError, Layout, Made, Published, SeveralError, WeightsError
from st_ssl.weights.reading import fingerprint, read_published

FORMAT = 1
PARTS = ("layout", "encoder", "input")
"""What an override can be of."""


@dataclass(frozen=True)
class Imported:
    """An encoder with published weights, in eval mode on the CPU. ``made`` tells where each of its keys comes from,
    ``left`` why a name of the file is not in it."""

    encoder: Encoder
    layout: Layout
    made: dict[str, Made]
    left: dict[str, str]

    def used(self) -> set[str]:
        """The names of the file that keys were made of."""
        return {self.layout.names[name] for made in self.made.values() for name in made.sources}

    def report(self) -> dict[str, Any]:
        """What ``import.json`` has of it, as JSON."""
        layout = self.layout
        used = [
            {
                "key": key,
                "from": [layout.names[name] for name in made.sources],
                "shape": list(made.tensor.shape),
                "note": "; ".join(filter(None, (made.note, _other_type(made)))),
            }
            for key, made in self.made.items()
        ]
        return {
            "layout": layout.config.model_dump(),
            "container": layout.container,
            "encoder": self.encoder.config.model_dump(mode="json"),
            "input": self.encoder.input.model_dump(mode="json"),
            "counts": {"used": len(used), "left": len(self.left), "missing": 0},
            "used": used,
            "left": [{"key": name, "why": why} for name, why in self.left.items()],
        }


def import_weights(
    path: Path, layout: str, overrides: Sequence[str] = (), allow_unused: Sequence[str] = ()
) -> Imported:
    """The encoder that ``path`` (a file or a folder) holds the weights of, as published by ``layout``.

    ``layout`` "auto" is the one that fits. ``overrides`` are ``key=value`` of ``layout``, ``encoder`` and ``input`` (as
    ``input.num_frames=16``), laid on what the file tells. Names of the file that no rule of the layout explains are a
    mistake unless they match a pattern of ``allow_unused`` (with ``*`` and ``?``).

    Raises ``WeightsError`` that names the key for a missing one, an unexpected one, a wrong size or a number that is
    none, ``ConfigError`` for an override or a layout that there is not.
    """
    parsed = [(*parse_override(text), text) for text in overrides]
    for key, _, text in parsed:
        if key[0] not in PARTS or len(key) < 2:
            raise ConfigError(
                f"{text!r}: expected {', '.join(f'{p}.<key>=value' for p in PARTS)}{nearest(key[0], PARTS)}"
            )
    if layout != "auto":
        LAYOUTS.check(layout)
    published = read_published(path)
    name = guess(published, parsed, allow_unused) if layout == "auto" else layout
    return apply_layout(published, name, parsed, allow_unused)


def guess(
    published: Published,
    parsed: Sequence[tuple[tuple[str, ...], Any, str]] = (),
    allow_unused: Sequence[str] = (),
) -> str:
    """The layout that ``published`` has by its names: the only one that knows them, or that uses the most of them; else
    the only one that they are not foreign to, which has something to ask. Raises ``WeightsError`` where none or several
    do."""
    container = next((value for key, value, _ in reversed(parsed) if key == ("layout", "container")), None)
    fit = {name: _fits(name, published, container) for name in LAYOUTS.names()}
    ours = [name for name, error in fit.items() if not isinstance(error, ForeignError)]
    sure = [name for name in ours if LAYOUTS.registered(name).certain]
    known = sure or [name for name in ours if fit[name] is None] or ours
    known = [name for name in known if LAYOUTS.registered(name).follows not in known]
    if len(known) == 1:
        return known[0]
    used: dict[str, int] = {}
    for name in known:
        with suppress(UserError):
            used[name] = len(apply_layout(published, name, parsed, allow_unused).used())
    best = [name for name, number in used.items() if number == max(used.values())]
    if len(best) != 1:
        for name in known:
            if isinstance(several := fit[name], SeveralError):
                raise several
        if not known:
            raise WeightsError(f"{published.path}: {_unknown(published)}")
        said = f"{', '.join(best or known)} fit it alike"
        raise WeightsError(f"{published.path}: its layout cannot be guessed ({said}): name it by --from")
    return best[0]


_HEADS = re.compile(r"(.*\.)?(pooler|linear|classifiers?|head|fc|fc_cls|cls_head)\.(.*\.)?[^.]+")


def _unknown(published: Published) -> str:
    """What is said of a file that no layout fits: that it has no encoder, where all of its names are those of heads."""
    names = list(dict.fromkeys(name for group in published.groups.values() for name in group))
    some = ", ".join(names[:4]) + (" …" if len(names) > 4 else "")
    if names and all(map(_HEADS.fullmatch, names)):
        return f"holds the head of a probe or classifier ({some}) and no encoder: import the file of the encoder itself"
    return f"none of {', '.join(LAYOUTS.names())} fits it: its names are {some or 'none'}; --from names a layout"


def _fits(name: str, published: Published, container: Any) -> WeightsError | None:
    """What is in the way of the layout ``name`` telling an encoder for ``published``: ``ForeignError`` where it does
    not know the names."""
    try:
        told = {"name": name, "container": container if isinstance(container, str) else None}
        config = LAYOUTS.config(name).model_validate(told)
        _settings(LAYOUTS.build(config, published))
    except WeightsError as error:
        return error
    return None


def apply_layout(
    published: Published,
    layout: str,
    parsed: Sequence[tuple[tuple[str, ...], Any, str]] = (),
    allow_unused: Sequence[str] = (),
) -> Imported:
    """``import_weights`` on what was read already, with overrides as ``parse_override`` gives them, and their text."""
    place = Place(Path("command line"))
    given = [part for part in parsed if part[0][0] == "layout"]
    model = create_model("Told", __base__=Config, layout=(LAYOUTS.config(layout), ...))
    told = validate(model, override({"layout": {"name": layout}}, given, place), place)
    built = LAYOUTS.build(told.layout, published)
    settings, place = _settings(built), Place(published.path)
    data = override(settings, [part for part in parsed if part[0][0] != "layout"], place)
    described = _described(ENCODERS.registered(settings["encoder"]["name"]).modality)
    config: Any = validate(described, data, place)
    encoder = ENCODERS.build(config.encoder, config.input)
    made = built.translate(encoder)
    _check_missing(built, encoder, made)
    _check_shapes(built, encoder, made)
    left = _left(built, made, allow_unused)
    encoder.load_state_dict({key: part.tensor for key, part in made.items()})  # strictly, into its own float32
    return Imported(encoder.eval(), built, made, left)


def _other_type(made: Made) -> str:
    """What is to be told of the type of published numbers."""
    kind = made.tensor.dtype
    return f"from {str(kind).removeprefix('torch.')}" if kind in (torch.float16, torch.bfloat16, torch.float64) else ""


@lru_cache
def _described(modality: Any) -> type[Config]:
    union: Any = ENCODERS.union(lambda cls: cls.modality == modality)
    return create_model("Described", __base__=Config, encoder=(union, ...), input=(INPUTS[modality], ...))


def _settings(layout: Layout) -> dict[str, Any]:
    """What the file tells of the encoder. ``ForeignError`` also where a tensor has fewer axes than the layout's."""
    try:
        return layout.settings()
    except (IndexError, TypeError, ZeroDivisionError) as error:
        raise ForeignError(
            f"{layout.published.path}: is not of the layout {layout.config.name}: its tensors have other axes ({error})"
        ) from error


def _check_missing(layout: Layout, encoder: Encoder, made: dict[str, Made]) -> None:
    missing = [key for key in encoder.state_dict() if key not in made]
    if not missing:
        return
    key = missing[0]
    wanted = [name for name in layout.sources(key) if name not in layout.state]
    used = {name for part in made.values() for name in part.sources}
    near = nearest(wanted[0], layout.state.keys() - used)
    raise WeightsError(
        f"{layout.published.path}: {len(missing)} of the {len(encoder.state_dict())} keys of the encoder are not in "
        f"it. The first is {key!r}, which {layout.config.name} makes of {', '.join(map(repr, wanted))}{near}"
        f"{_compared(layout, encoder)}"
    )


def _check_shapes(layout: Layout, encoder: Encoder, made: dict[str, Made]) -> None:
    for key, own in encoder.state_dict().items():
        part, path = made[key], layout.published.path
        names = ", ".join(layout.names[name] for name in part.sources)
        if part.tensor.shape != own.shape:
            settings = next((text for pattern, text in layout.governs if re.search(pattern, key)), None)
            why = f"; what decides it is {settings}" if settings else ""
            raise WeightsError(
                f"{path}: {key!r} has the size {list(own.shape)} in the encoder and {list(part.tensor.shape)} in the "
                f"file (from {names}){why}{_compared(layout, encoder)}"
            )
        taken = part.tensor.to(own.dtype) if own.is_floating_point() else part.tensor  # float64 may hold too large ones
        if not bool(taken.isfinite().all()):
            kind = str(taken.dtype).removeprefix("torch.")
            raise WeightsError(f"{path}: {names}: holds numbers that are none (NaN or infinity, as {kind})")


def _compared(layout: Layout, encoder: Encoder) -> str:
    """What the file tells of the encoder where the user told something else."""
    settings = _settings(layout)
    own = {"encoder": encoder.config, "input": encoder.input}
    if settings["encoder"]["name"] != encoder.config.model_dump()["name"]:
        return f" (the file tells encoder.name={settings['encoder']['name']})"
    before = flatten({part: type(now).model_validate(settings[part]).model_dump() for part, now in own.items()})
    after = flatten({part: now.model_dump() for part, now in own.items()})
    changed = [f"{key}={before[key]}, not {after[key]}" for key in before if before[key] != after[key]]
    return f" (by its names and sizes the file has {'; '.join(changed)})" if changed else ""


def _left(layout: Layout, made: dict[str, Made], allow_unused: Sequence[str]) -> dict[str, str]:
    """Every name of the file that is not used and why, also those of its other places."""
    used = {name for part in made.values() for name in part.sources}
    left = {}
    for short, name in layout.names.items():
        if short not in used:
            fit = (p for p in allow_unused if fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(short, p))
            left[name] = layout.why_left(short) or next((f"allowed by {pattern}" for pattern in fit), "")
    if unexplained := [name for name, why in left.items() if not why]:
        more = f", … ({len(unexplained)} in all)" if len(unexplained) > 5 else ""
        raise WeightsError(
            f"{layout.published.path}: holds what {layout.config.name} knows nothing of: "
            f"{', '.join(map(repr, unexplained[:5]))}{more}. If the encoder can do without: --allow-unused PATTERN, as "
            f"--allow-unused {unexplained[0]!r}"
        )
    for place, group in layout.published.groups.items():
        if place != layout.container:
            where = place or "its own level"
            left[f"{place}.*" if place else "*"] = f"{len(group)} tensors in {where}, another part of the file"
    return left | {place or "*": why for place, why in layout.published.skipped.items()}


def save_imported(imported: Imported, output: Path) -> None:
    """Write ``encoder.safetensors``, ``encoder.json`` and ``import.json`` (the file's name and SHA-256, the layout and
    the report of keys) to a folder, which is new, empty or holds the same import. Raises ``OutputError`` otherwise."""
    source = imported.layout.published.path
    record = {"format": FORMAT, "source": {"name": source.name, "sha256": fingerprint(source)}, **imported.report()}
    _check_free(output, record)
    check_writable(output)
    save_encoder(imported.encoder, output)
    replace_text(output / "import.json", json.dumps(record, indent=1) + "\n", alone=True)


def _check_free(output: Path, record: dict[str, Any]) -> None:
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file: an encoder needs a folder of its own")
    inside = sorted(p.name for p in output.iterdir() if not p.name.startswith(".")) if output.is_dir() else []
    if not inside:
        return
    try:
        before = json.loads((output / "import.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    same = ("source", "layout", "container", "encoder", "input", "used")
    written = json.loads(json.dumps(record))  # which has lists for tuples
    if not isinstance(before, dict) or any(before.get(key) != written[key] for key in same):
        raise OutputError(f"{output} holds something else ({', '.join(inside[:3])}): choose an empty or new folder")
