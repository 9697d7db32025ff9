"""How the clouds of a data set are read: decided once, from a few of its files, and the same for all of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from st_ssl.core.errors import DataError, SampleError, sample_fault
from st_ssl.core.random import keyed_rng
from st_ssl.data.streams.points.bags import is_bag_item
from st_ssl.data.streams.points.base import RawCloud, ReadOptions
from st_ssl.data.streams.points.bin import guess_columns
from st_ssl.data.streams.points.columns import SKIPPED, UnclearColumnsError, guess_roles
from st_ssl.data.streams.points.hdf5 import split_item
from st_ssl.data.streams.points.understand import named
from st_ssl.data.streams.points.units import Range, Spread, decide_range, disagreement, spread

MOST_FILES, MOST_BYTES = 64, 1 << 28
_ROWS = 4096
_IN_BAG = 1 << 22  # bytes that a sweep in a bag is taken for
_OF_EACH_KIND = 4  # files that end alike
_NUMBERS = 1 << 18
_RANGES = ("color", "intensity")


@dataclass(frozen=True)
class Reading:
    """What was decided for a data set. ``options`` are what its readers are told; ``facts``, as plain data, what was
    seen in the files that were looked at; ``told`` has a line for each thing that the user should know of."""

    options: ReadOptions
    facts: dict[str, Any] = field(default_factory=dict)
    told: tuple[str, ...] = ()

    def account(self) -> dict[str, Any]:
        """``facts`` and what was ``told``, for ``account_lines``."""
        return self.facts | {"told": list(self.told)}

    @property
    def prepared(self) -> dict[str, Any]:
        """What goes into ``encoder.json``: the ranges that became 0 … 1, and whether meshes are their vertices."""
        ranges = {f"{name}_range": getattr(self.options, f"{name}_range") for name in _RANGES}
        found: dict[str, Any] = {key: list(value) for key, value in ranges.items() if value is not None}
        return found | ({"vertices": True} if self.options.vertices else {})


@dataclass
class _Seen:
    """What the files that were looked at have."""

    tables: dict[tuple[int, str], list[np.ndarray]] = field(default_factory=dict)
    clouds: list[tuple[str, RawCloud]] = field(default_factory=list)
    broken: int = 0


def decide(
    paths: Sequence[str], options: ReadOptions | None = None, prepared: Mapping[str, Any] | None = None
) -> Reading:
    """How the clouds at ``paths`` are read, from up to 64 of them (chosen by a rule, up to 256 MB together).

    What ``options`` say stays. Decided are the numbers a point has in ``.bin`` files, the roles of columns without
    names (one layout for each number of columns), the ranges of colours and intensities, and whether meshes in PLY are
    points of their surface or, where one has labels for them, their vertices. ``prepared``: how the data
    of an encoder were read; these are read in the same way where that fits them, and a line tells where it does not.
    Raises ``DataError`` where two readings fit; the message names both and the key that decides.
    """
    options = options or ReadOptions()
    chosen = _chosen(paths)
    options = _with_bin_columns(chosen, options)
    seen = _look(chosen, options)
    options = _with_layouts(seen, options)
    clouds = _named(seen, options)
    told: list[str] = []
    facts: dict[str, Any] = {"files": len(chosen), "of": len(paths)}
    labelled = any(cloud.labels and path.lower().endswith(".ply") for path, cloud in seen.clouds)
    options = replace(options, vertices=labelled or (prepared or {}).get("vertices") is True)
    if meshes := sum(cloud.drawn for cloud in clouds):
        facts["meshes"] = [meshes, 0 if options.vertices else options.surface_points]
    if options.bin_columns is not None and any(_is_bin(path) for path in chosen):
        facts["bin_columns"] = options.bin_columns
    if options.layouts:
        facts["columns"] = [list(roles) for roles in options.layouts]
    for name in _RANGES:
        spreads = [one for cloud in clouds if name in cloud.attributes and (one := spread(cloud.attributes[name]))]
        if spreads:
            options = _with_range(name, spreads, options, (prepared or {}).get(f"{name}_range"), told)
            facts[f"{name}_range"] = list(getattr(options, f"{name}_range"))
            facts[name] = [min(one.low for one in spreads), max(one.high for one in spreads)]
            facts[f"{name}_values"] = _few(next(c.attributes[name] for c in clouds if name in c.attributes))
    _tell_left_out(clouds, options, facts, told)
    return Reading(options, facts, tuple(told))


def _chosen(paths: Sequence[str]) -> list[str]:
    """Up to 64 of ``paths``, in an order that depends on their number alone; four of each kind of file come first."""
    chosen: list[str] = []
    total = 0
    mixed = [paths[at] for at in keyed_rng("reading", len(paths)).permutation(len(paths)).tolist()]
    met: Counter[str] = Counter()
    first: list[str] = []
    for path in mixed:
        kind = os.path.splitext(split_item(path)[0])[1].lower()
        if met[kind] < _OF_EACH_KIND and len(met) <= MOST_FILES // _OF_EACH_KIND:
            first.append(path)
        met[kind] += 1
    for path in list(dict.fromkeys([*first, *mixed]))[:MOST_FILES]:
        try:
            total += _IN_BAG if is_bag_item(path) else os.path.getsize(split_item(path)[0])
        except OSError:
            continue  # a broken sample, which its reader tells of
        if chosen and total > MOST_BYTES:
            break
        chosen.append(path)
    return chosen


def _is_bin(path: str) -> bool:
    return path.lower().endswith(".bin")


def _with_bin_columns(chosen: Sequence[str], options: ReadOptions) -> ReadOptions:
    if options.named:
        return replace(options, bin_columns=len(options.layouts[0])) if any(map(_is_bin, chosen)) else options
    if options.bin_columns is not None:
        return options
    files = []
    for path in filter(_is_bin, chosen):
        try:
            if (size := os.path.getsize(path)) >= 12:
                files.append((path, size, np.fromfile(path, dtype="<f4", count=_NUMBERS)))
        except OSError:
            continue  # a broken sample, which its reader tells of
    if not files:
        return options
    columns = guess_columns(files)
    if isinstance(columns, str):
        raise DataError(f"{os.path.dirname(files[0][0])}: {columns}")
    return replace(options, bin_columns=columns)


def _look(chosen: Sequence[str], options: ReadOptions) -> _Seen:
    from st_ssl.data.streams.points import read_raw

    seen = _Seen()
    for path in chosen:
        try:
            with sample_fault(path), np.errstate(all="ignore"):
                cloud = read_raw(path, options)
        except SampleError:
            seen.broken += 1  # told with its reason by the worker that meets it
            continue
        if cloud.table is not None:
            if cloud.table.ndim != 2 or cloud.table.dtype.kind not in "fiu":
                seen.broken += 1
                continue
            rows = cloud.table[:: max(1, len(cloud.table) // _ROWS)]
            seen.tables.setdefault((cloud.table.shape[1], cloud.kind), []).append(np.array(rows))
            cloud.table = np.array(rows)
        seen.clouds.append((path, cloud))
    return seen


def _with_layouts(seen: _Seen, options: ReadOptions) -> ReadOptions:
    if options.named:
        return options
    layouts: dict[int, tuple[str, ...]] = {}
    count = sum(map(len, seen.tables.values()))
    for (columns, kind), parts in sorted(seen.tables.items(), key=lambda item: -len(item[1])):
        if columns in layouts or 10 * len(parts) <= count:
            continue  # a few odd files among others are broken samples
        try:
            layouts[columns] = guess_roles(np.concatenate(parts), kind)
        except UnclearColumnsError as error:
            if 10 * len(parts) <= count:
                continue  # a few odd files among others are broken samples
            path = next(
                path for path, cloud in seen.clouds if cloud.table is not None and cloud.table.shape[1] == columns
            )
            raise DataError(f"{path}: {error} (data.columns=[…] says which)") from error
    return replace(options, layouts=tuple(layouts[key] for key in sorted(layouts)))


def _named(seen: _Seen, options: ReadOptions) -> list[RawCloud]:
    """The clouds that were looked at, but for those that the layouts do not fit."""
    clouds = []
    for path, cloud in seen.clouds:
        try:
            clouds.append(named(path, cloud, options))
        except SampleError:
            seen.broken += 1  # told with its reason by the worker that meets it
    return clouds


def _with_range(
    name: str, spreads: Sequence[Spread], options: ReadOptions, trained: Sequence[float] | None, told: list[str]
) -> ReadOptions:
    key = f"{name}_range"
    if getattr(options, key) is not None:
        return options
    decided = decide_range(name, spreads)
    if trained is not None and tuple(trained) != decided:
        before: Range = (float(trained[0]), float(trained[1]))
        odd = sum(disagreement(name, one, before) is not None for one in spreads)
        if 2 * odd <= len(spreads):
            decided = before
        else:
            told.append(
                f"the encoder was trained on {name} in {before[0]:g} … {before[1]:g}, and these data have it in "
                f"{decided[0]:g} … {decided[1]:g}: both become 0 … 1 (data.{key}=[low, high] sets another range)"
            )
    odd = sum(disagreement(name, one, decided) is not None for one in spreads)
    if odd:
        told.append(
            f"{name}: {odd} of {len(spreads)} files looked at do not lie in {decided[0]:g} … {decided[1]:g}, the range "
            f"of the others, and are broken samples (data.{key}=[low, high] sets another range)"
        )
    strays = [one for one in spreads if one.kind != "byte" and one.high > decided[1] * 1.001]
    if len(strays) > odd:
        told.append(
            f"{name}: {len(strays)} of {len(spreads)} files looked at have a few values above {decided[1]:g} (up to "
            f"{max(one.high for one in strays):g}), which are clipped"
        )
    return replace(options, color_range=decided) if name == "color" else replace(options, intensity_range=decided)


def _tell_left_out(clouds: Sequence[RawCloud], options: ReadOptions, facts: dict[str, Any], told: list[str]) -> None:
    ignored = Counter(name for cloud in clouds for name in cloud.ignored)
    if ignored:
        facts["ignored"] = dict(ignored)
        names = ", ".join(f"{name} (in {count} of {len(clouds)} files)" for name, count in ignored.most_common(8))
        told.append(f"columns left out, whose names mean nothing to us: {names}")
    skipped = [roles for roles in options.layouts if SKIPPED in roles and not options.named]
    if skipped:
        facts["skipped"] = [[at + 1 for at, role in enumerate(roles) if role == SKIPPED] for roles in skipped]


def _few(values: np.ndarray) -> list[float]:
    return [round(float(value), 6) for value in np.asarray(values).reshape(-1)[:6]]
