"""What the columns of a cloud mean: by their names, or of tables without names by their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from st_ssl.core.errors import SampleError, nearest
from st_ssl.data.streams.points.base import RawCloud

XYZ, RGB, NORMAL = ("x", "y", "z"), ("red", "green", "blue"), ("nx", "ny", "nz")
LABELS = ("segment", "instance", "part")
SKIPPED = "_"
ROLES = (*XYZ, "intensity", *RGB, *NORMAL, *LABELS, SKIPPED)
"""What ``data.columns`` may call a column; ``_`` is one that is left out."""

# As people and programs call them, once case, units, quotes and spaces are gone: see ``plain``.
_TRIPLES = {
    XYZ: (
        *(("x", "y", "z"), ("px", "py", "pz"), ("posx", "posy", "posz"), ("pointx", "pointy", "pointz")),
        *(("xcoord", "ycoord", "zcoord"), ("coordx", "coordy", "coordz"), ("xm", "ym", "zm")),
        *(("easting", "northing", "elevation"), ("easting", "northing", "height"), ("easting", "northing", "z")),
        ("cartesianx", "cartesiany", "cartesianz"),
    ),
    RGB: (("red", "green", "blue"), ("r", "g", "b"), ("diffusered", "diffusegreen", "diffuseblue"), ("cr", "cg", "cb")),
    NORMAL: (("nx", "ny", "nz"), ("normalx", "normaly", "normalz"), ("normalsx", "normalsy", "normalsz")),
}
SINGLES = {
    "intensity": ("intensity", "reflectance", "reflectivity", "remission", "intensities", "strength", "amplitude", "i"),
    "segment": (
        *("label", "labels", "labelid", "segment", "segmentid", "semantic", "semantics", "semanticid", "sem"),
        *("semseg", "semclass", "semanticclass", "semanticlabel", "semlabel", "class", "classid", "classlabel"),
        *("classification", "category", "gt", "groundtruth"),
    ),
    "instance": ("instance", "instanceid", "instancelabel", "objectid", "object", "ins"),
    "part": ("part", "partid", "partlabel", "pid"),
}

_MEANINGLESS = ("alpha", "a")  # of colours


def plain(name: str) -> str:
    """A column's name without case, unit, quotes and what separates its words: ``Scalar_Field [m]`` to
    ``scalarfield``; the ``scalar`` that CloudCompare writes before names is dropped."""
    name = re.sub(r"[\[(].*?[\])]", "", name.strip().strip("\ufeff\"'").lower())
    name = re.sub(r"[^a-z0-9]", "", name)
    return name.removeprefix("scalarfield").removeprefix("scalar") or name


def roles_of(names: Sequence[str]) -> dict[str, int]:
    """Which of the columns called ``names`` is which of ``ROLES``; columns with other names are left out."""
    known: dict[str, int] = {}
    for at, name in enumerate(names):
        known.setdefault(plain(name), at)
    found: dict[str, int] = {}
    for roles, options in _TRIPLES.items():
        option = next((option for option in options if known.keys() >= set(option)), None)
        if option is not None:
            found |= {role: known[name] for role, name in zip(roles, option, strict=True)}
    for role, aliases in SINGLES.items():
        alias = next((alias for alias in aliases if alias in known and known[alias] not in found.values()), None)
        if alias is not None:
            found[role] = known[alias]
    return found


def from_fields(path: str, fields: Mapping[str, np.ndarray]) -> RawCloud:
    """A cloud from arrays [N] by name, as PLY, PCD and headers of tables have them: in any case, in any order; what has
    an unknown name is ``ignored``. ``SampleError`` without x, y and z."""
    names = list(fields)
    roles = roles_of(names)
    if "x" not in roles:
        raise SampleError(path, f"has no x, y and z; its fields are {', '.join(fields) or 'none'}")
    cloud = from_roles({role: fields[names[at]] for role, at in roles.items()})
    others = (name for at, name in enumerate(names) if at not in roles.values())
    cloud.ignored = tuple(name for name in others if plain(name) not in _MEANINGLESS)
    return cloud


def from_roles(columns: Mapping[str, np.ndarray]) -> RawCloud:
    """A cloud from arrays [N] by their ``ROLES``, numbers as they are."""
    xyz = [columns[axis] for axis in XYZ]
    single = all(axis.dtype.kind == "f" and axis.dtype.itemsize == 4 for axis in xyz)
    kind = np.float32 if single else np.float64
    cloud = RawCloud(np.stack([np.asarray(axis, dtype=kind) for axis in xyz], axis=1))
    for name, roles in (("color", RGB), ("normal", NORMAL), ("intensity", ("intensity",))):
        if roles[0] in columns:
            cloud.attributes[name] = np.stack([columns[role] for role in roles], axis=1)
    cloud.labels = {name: columns[name] for name in LABELS if name in columns}
    return cloud


_PARTS = {
    "xyz": XYZ,
    "i": ("intensity",),
    "rgb": RGB,
    "n": NORMAL,
    "l": ("segment",),
    "o": ("instance",),
    "p": ("part",),
    "-": (SKIPPED,),
}
_LAYOUTS: dict[int, tuple[tuple[str, ...], ...]] = {  # of the first group in which any fits, that one
    3: (("xyz",),),
    4: (("xyz i", "xyz l"),),
    5: (("xyz i -",),),
    6: (("xyz n",), ("xyz rgb",)),
    7: (("xyz n p", "xyz i n"), ("xyz rgb l", "xyz i rgb")),
    8: (("xyz i n l", "xyz n l o"), ("xyz i rgb l", "xyz rgb l o")),
    9: (("xyz rgb n", "xyz n rgb"), ("xyz i rgb l o",), ("xyz n - - -",), ("xyz rgb - - -",)),
    10: (("xyz i rgb n", "xyz i n rgb", "xyz rgb n l", "xyz n rgb l"),),
}


def expand(layout: str) -> tuple[str, ...]:
    """The role of each column of a layout in short: ``xyz i -`` to x, y, z, intensity, _."""
    return tuple(role for part in layout.split() for role in _PARTS[part])


class UnclearColumnsError(ValueError):
    """A table whose columns have several readings, or none: the message says which."""


def guess_roles(table: np.ndarray, kind: str = "") -> tuple[str, ...]:
    """What the columns of numbers [N, k] without names mean, by the numbers:

    - 3: xyz; 4 and 5: xyz, intensity (and a ring or a time, left out)
    - 6: xyz and a normal or a colour
    - 7: xyz, a normal and a part, or a colour and a class, or an intensity and a normal or colour
    - 8: xyz, intensity, a normal or colour and a class; or a normal or colour, a class and an instance
    - 9: xyz, a colour and a normal in either order; three numbers that are neither are left out
    - 10: the same with an intensity before them, or a class behind

    Three numbers are a normal where their length is 1 or 0 (within 5 %) in nine of ten points, and a colour where they
    lie in 0 … 65535, all channels up to 1 or all to 16 and more. Fractions below 0 are no intensity. A class is a whole
    number. Where both a class behind a colour and an intensity before it fit, up to 64 classes are classes; beyond, the
    channels of a colour change together.

    ``kind``: "pts" has an intensity first (Leica), "bin" may have numbers behind the intensity that mean nothing.
    Raises ``UnclearColumnsError`` with what each reading would be.
    """
    count = table.shape[1]
    if kind == "pts" and count == 7:
        return expand("xyz i rgb")
    if count not in _LAYOUTS:
        if kind == "bin" and count > 3:
            return (*XYZ, "intensity", *[SKIPPED] * (count - 4))
        raise UnclearColumnsError(f"has {count} columns without names")
    if kind == "bin" and count in (4, 5):
        return expand(_LAYOUTS[count][0][0])
    table = np.asarray(table, dtype=np.float64)
    for group in _LAYOUTS[count]:
        fits = [layout for layout in group if _fits(table, expand(layout))]
        if len(fits) > 1:
            fits = _evident(table, fits)
        if len(fits) == 1:
            return expand(fits[0])
        if fits:
            raise UnclearColumnsError(
                f"has {count} columns without names that can be read in {len(fits)} ways: "
                + " or ".join(f"[{','.join(expand(layout))}]" for layout in fits)
            )
    if kind == "bin":
        return (*XYZ, "intensity", *[SKIPPED] * (count - 4))
    ways = ", ".join(f"[{','.join(expand(layout))}]" for group in _LAYOUTS[count] for layout in group)
    raise UnclearColumnsError(f"has {count} columns without names that are none of {ways}")


def _fits(table: np.ndarray, roles: tuple[str, ...]) -> bool:
    if roles[3:] == ("segment",):  # of four columns: classes count up from -1, 0 or 1, and are three at least
        values = np.unique(table[:, 3])
        counted = np.array_equal(values, np.arange(len(values)) + values[:1].sum())
        return 3 <= len(values) <= 64 and len(table) >= 4 * len(values) and counted and values[0] in (-1, 0, 1)
    at = {role: i for i, role in enumerate(roles)}
    if "nx" in at and not is_normal(table[:, at["nx"] : at["nx"] + 3]):
        return False
    if "red" in at and not is_color(table[:, at["red"] : at["red"] + 3]):
        return False
    if "intensity" in at and not is_intensity(table[:, at["intensity"]]):
        return False
    return all(is_class(table[:, at[name]]) for name in LABELS if name in at)


def _evident(table: np.ndarray, fits: list[str]) -> list[str]:
    """Those of several readings that more than the ranges speaks for: see ``guess_roles``."""
    behind = [layout for layout in fits if layout.startswith("xyz rgb l")]  # the seventh column is a class
    before = [layout for layout in fits if layout.startswith("xyz i rgb")]  # the fourth is an intensity
    if len(fits) > 2 or not behind or not before:
        return fits
    classes = np.unique(table[:, 6])
    few = len(classes) <= 64 and len(table) >= 4 * len(classes)
    together = _together(table[:, 3:6]) - _together(table[:, 4:7])
    if together > (-0.3 if few else 0.3):
        return behind
    return before if together < -0.3 and not few else fits


def _together(values: np.ndarray) -> float:
    """The smaller correlation of the first with the second and the second with the third of three columns."""
    if len(values) < 3 or (values.std(axis=0) == 0).any():
        return 0.0
    table = np.corrcoef(values.T)
    return float(min(table[0, 1], table[1, 2]))


def is_normal(values: np.ndarray) -> bool:
    """Whether nine of ten rows [N, 3] have length 1 or 0 within 5 %, and any has a length."""
    length = np.linalg.norm(values, axis=1)
    return bool(len(length) and np.mean((np.abs(length - 1) < 0.05) | (length == 0)) >= 0.9 and length.any())


def is_color(values: np.ndarray) -> bool:
    """Whether 99 % of the numbers [N, 3] lie in 0 … 65535, and the channels that are not 0 all end at 1 or below, or
    all reach 16, none beyond 16 times another: an intensity beside the numbers of returns is no colour."""
    finite = np.where(np.isfinite(values), values, 0)
    if finite.size and np.mean((finite >= 0) & (finite <= 65535)) < 0.99:
        return False
    tops = finite.max(axis=0, initial=0)
    lit = tops[tops > 0]
    return bool((lit <= 1.001).all() or (lit.min() >= 16 and lit.max() <= 16 * lit.min()))


def is_intensity(values: np.ndarray) -> bool:
    """Whether the numbers [N] may be an intensity: 99 % of them whole numbers, or 0 and above."""
    finite = values[np.isfinite(values)]
    whole = np.floor(finite) == finite
    return bool(finite.size == 0 or np.mean(whole | (finite >= 0)) >= 0.99)


def is_class(values: np.ndarray) -> bool:
    """Whether the numbers [N] are whole, and at least -1."""
    finite = values[np.isfinite(values)]
    return bool((np.floor(finite) == finite).all() and (finite >= -1).all())


def by_roles(path: str, table: np.ndarray, roles: Sequence[str]) -> RawCloud:
    """A cloud from numbers [N, k] with a role for each column. ``SampleError`` where there are more or fewer, or what
    should be a class is no whole number."""
    if table.ndim != 2 or table.shape[1] != len(roles):
        raise SampleError(path, f"holds {list(table.shape)} numbers: expected {len(roles)} columns, {','.join(roles)}")
    columns = {role: table[:, at] for at, role in enumerate(roles) if role != SKIPPED}
    for name in LABELS:
        if name in columns and not is_class(columns[name]):
            raise SampleError(path, f"its column {list(roles).index(name) + 1} is no {name}: expected whole numbers")
    return from_roles(columns)


def check_roles(names: Iterable[str]) -> tuple[str, ...]:
    """``names`` for ``data.columns`` as roles; ``ValueError`` with the nearest for what is none."""
    short = {"r": "red", "g": "green", "b": "blue", "i": "intensity", "label": "segment", "class": "segment"}
    roles = tuple(short.get(name.lower(), name.lower()) for name in names)
    for name in roles:
        if name not in ROLES:
            raise ValueError(f"no column {name!r}{nearest(name, ROLES)} (there are: {', '.join(ROLES)})")
    twice = next((name for name in roles if name != SKIPPED and roles.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} stands twice")
    for triple in (XYZ, RGB, NORMAL):
        missing = [name for name in triple if name not in roles]
        if missing and (triple == XYZ or len(missing) < 3):
            raise ValueError(f"{missing[0]} is missing: {', '.join(triple)} belong together")
    return roles
