"""What is below a folder: samples, what is left out, and splits and labels by the names of folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import NamedTuple

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import BESIDE, Kind, Place
from st_ssl.data.sources.splits import folder_split

_CLOSED = ("lost+found", "@eadir", "__macosx", "$recycle.bin", "system volume information")
_OWN = ("st_ssl_", "synthetic.json")  # so begin the files that prepare.py writes beside samples


class Sifted(NamedTuple):
    """What of a folder is a sample: the folder itself (``whole``), or else some of its ``files``; and which of the
    folders in it are not entered, since they belong to it or hold no samples. ``others``: what files are, by name,
    whose extension does not tell that they are no samples."""

    files: Sequence[str]
    whole: bool = False
    closed: Sequence[str] = ()
    others: Mapping[str, str] = MappingProxyType({})


Sift = Callable[[str, list[str], list[str]], Sifted]
"""Of path, folders and files of a folder, without hidden ones."""


@dataclass
class LeftOut:
    """What is below a folder and no sample: files by extension, folders that were not entered by name, and the topmost
    folders without any sample."""

    files: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    bare: list[str] = field(default_factory=list)

    def tell(self, place: Place, kind: Kind, most: int = 5) -> None:
        """Tell the user in one line, where there is something to tell."""
        common = self.files.most_common(most)
        parts = [f"{count} {name or 'without extension'}" for name, count in common]
        if rest := self.files.total() - sum(count for _, count in common):
            parts.append(f"{rest} others")
        parts += [f"{count} × the folder {name}" for name, count in self.closed.most_common(most)]
        if self.bare:
            more = f" and {len(self.bare) - most} more" if len(self.bare) > most else ""
            folders = f"{len(self.bare)} folder{'s' if len(self.bare) > 1 else ''}"
            parts.append(f"{folders} without a {kind.name}: {', '.join(self.bare[:most])}{more}")
        if parts:
            place.tell(f"{place.root}: left out: {'; '.join(parts)}")

    def nothing(self, root: Path, kind: Kind, names: str, folders: str) -> DataError:
        """The error of a ``root`` that holds no samples: neither files of the ``names`` nor such ``folders``."""
        if not self.files:
            return DataError(f"{root} is empty: expected {kind.name}s ({names}), or {folders}")
        instead = ", ".join(f"{count} {name or 'without extension'}" for name, count in self.files.most_common(5))
        return DataError(f"{root} holds no {kind.name}s: looked for {names}, or {folders}; found {instead}")


def walk(root: Path, sift: Sift, left: LeftOut) -> Iterator[PurePath]:
    """Paths of the samples below ``root``, relative to it; what is no sample is counted in ``left``. Links to folders
    are followed, each folder once. ``DataError`` for one that cannot be listed."""
    been: set[str] = set()
    visited: list[PurePath] = []
    full: set[PurePath] = set()
    for folder, folders, files in os.walk(root, onerror=_unlisted, followlinks=True):  # data sets are often linked
        real = os.path.realpath(folder)
        if real in been:
            folders[:] = []
            continue
        been.add(real)
        # In order: of several links to one folder the first one counts.
        entered = (name for name in folders if not name.startswith(".") and name.lower() not in _CLOSED)
        folders[:] = sorted(entered, key=os.fsencode)
        here = PurePath(os.path.relpath(folder, root))
        sifted = sift(folder, folders, [name for name in files if not name.startswith(".")])
        own = set(sifted.files)
        left.closed.update(sifted.closed)
        others = (name for name in files if name not in own and not name.startswith(_OWN))
        left.files.update(sifted.others.get(name, _kind_of(name)) for name in others)
        visited.append(here)
        folders[:] = [] if sifted.whole else [name for name in folders if name not in sifted.closed]
        if sifted.whole or own:
            full.update((here, *here.parents))
        yield from [here] if sifted.whole else (here / name for name in files if name in own)
    bare = [path for path in visited if path not in full and path.name.lower() not in BESIDE]
    left.bare += [path.as_posix() for path in bare if path.parent in full and path != path.parent]


def files_below(root: Path, kind: Kind) -> Iterator[Path]:
    """All files below ``root`` that are of a ``kind`` by their names."""
    for path in walk(root, lambda _, __, files: Sifted([file for file in files if kind.is_file(file)]), LeftOut()):
        yield root / path


def _kind_of(name: str) -> str:
    return "hidden" if name.startswith(".") else os.path.splitext(name)[1].lower()


def _unlisted(error: OSError) -> None:
    raise DataError(f"the folder {error.filename} cannot be listed: {error.strerror}") from error


class Sample(NamedTuple):
    """A sample below a root: its path, the folders that say what it is, and of a folder of images the series."""

    path: PurePath
    folders: tuple[str, ...]
    series: str = ""

    def below(self, root: Path) -> str:
        """Its path as an entry has it."""
        return str(root / self.path) + (f"#{self.series}" if self.series else "")


def check_no_list(place: Place) -> None:
    """``DataError`` where a list is named for a folder, which needs none."""
    if place.notes != place.root:
        raise DataError(f"data.format=folder reads no list: leave {place.notes} out, or name its format")


def folder_entries(place: Place, samples: Sequence[Sample], kind: Kind) -> list[Entry]:
    """The entries of samples in folders, by one rule for the whole of the root:

    - folders at the top are splits where all of them have the name of one (``train``, ``val``, ``test_256``; see
      ``splits.py``); where splits hold folders of the same names beside others, the others are left out. The next
      folder is the label;
    - or else the top folder is the label, and the folders in it are splits where all of them, of all classes, have the
      name of one, and most classes have such folders;
    - any other folder with such a name is a label as others are.

    Where names of splits play a part, the listing tells what was decided.
    """
    root = place.root
    tops, below = (Counter(s.folders[level] for s in samples if len(s.folders) > level) for level in (0, 1))
    named, inner = ({name: split for name in names if (split := folder_split(name))} for names in (tops, below))
    if named and (len(named) == len(tops) or _alike(samples, named)):
        others = ", ".join(f"{name} ({count} {kind.name}s)" for name, count in tops.items() if name not in named)
        if others:
            place.tell(f"{root}: the folders {', '.join(named)} are splits; left out beside them: {others}")
        kept = [sample for sample in samples if not sample.folders or sample.folders[0] in named]
        return [_entry(root, s, named[s.folders[0]] if s.folders else "train", 1) for s in kept]
    label = 0
    holders = {sample.folders[0] for sample in samples if len(sample.folders) > 1}
    if inner and len(inner) == len(below) and 2 * len(holders) > len(tops):
        label = 2 if len(tops) == 1 and any(len(sample.folders) > 2 for sample in samples) else 0
        place.tell(f"{root}: the folders {', '.join(inner)} in each folder at the top are splits")
    elif names := ", ".join(named | inner):
        beside = "since others are beside them: the folders at the top are the labels"
        place.tell(f"{root}: the folders {names} are no splits, {beside} ({len(tops)})")
        inner = {}
    return [
        _entry(root, s, inner.get(s.folders[1], "train") if len(s.folders) > 1 else "train", label) for s in samples
    ]


def _alike(samples: Sequence[Sample], named: dict[str, str]) -> bool:
    """Whether folders named as several splits, of which one is train, hold folders of the same names."""
    if len(set(named.values())) < 2 or "train" not in named.values():
        return False
    inside = ({s.folders[1] for s in samples if len(s.folders) > 1 and s.folders[0] == name} for name in named)
    return bool(set.intersection(*inside))


def _entry(root: Path, sample: Sample, split: str, label: int) -> Entry:
    return Entry(sample.below(root), split, {"label": sample.folders[label]} if len(sample.folders) > label else {})
