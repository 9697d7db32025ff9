"""Lists in several files, one for each split, which the names of the files say: ``train.csv``, ``val.csv``, and others
like ``ucf101_val_split_1_rawframes.txt``. And tables of the Hub, ``metadata.csv`` in each folder of a split."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Kind, NothingFoundError, Place, Row, unique
from st_ssl.data.sources.folders import LeftOut, Sifted, walk
from st_ssl.data.sources.list_lines import split_lines
from st_ssl.data.sources.paths import Finder, exists
from st_ssl.data.sources.splits import folder_split, split_in

_ENDS = (".txt", ".csv", ".tsv", ".lst", ".list", ".jsonl", "")
_LISTS = re.compile(
    r".*(train|val|dev|eval|test).*\.(txt|csv|tsv|lst|list|jsonl)|[^.]*(train|val|dev|eval|test)[^.]*", re.IGNORECASE
)
_METADATA = ("metadata.csv", "metadata.jsonl")
_PEEK = 1 << 16
_FEW = 20


class SplitFile(NamedTuple):
    """A file that lists samples, and their split (None: nothing says it)."""

    file: Path
    split: str | None


def split_files(place: Place, kind: Kind) -> list[SplitFile]:
    """The lists of ``place``, one or more for each split: those beside the file that is named, and alike but for the
    split in its name; those in the folder that is named, or in the root or the folders for annotations in it. [] where
    there are none, and where a single file stands alone.

    ``DataError`` where a folder has several sets of them, and ``place.number`` does not say which."""
    named = place.notes if place.notes.is_file() else None
    files = [Path(item) for item in _in_folder(named.parent)] if named else place.find(_LISTS)
    sets: dict[tuple[str, ...], list[SplitFile]] = {}
    for file in files:
        end = file.suffix.lower()
        if end in _ENDS and not kind.is_file(file.name) and (found := split_in(file.name)) is not None:
            sets.setdefault((end, *found[1]), []).append(SplitFile(file, found[0]))
    if named is not None:
        own = next((lists for lists in sets.values() if any(item.file == named for item in lists)), [])
        return _ordered(own) if len({item.split for item in own}) > 1 else []
    folders = list(dict.fromkeys((place.root, *(file.parent for file in files))))
    there = [lists for lists in sets.values() if _of_samples(lists, kind, folders)]
    if place.notes == place.root and place.auto:  # nobody named them: test_scores.csv may name samples too
        alone = [lists for lists in there if not {"train"} < {item.split for item in lists}]
        there = [lists for lists in there if lists not in alone]
        for lists in alone:
            names = " and ".join(item.file.name for item in lists)
            line = f"{place.root}: {names}: not used, as there are no lists of other splits (data.list=FILE reads one)"
            place.told.extend([line] * (line not in place.told))
    if not there and place.notes != place.root:
        there = list(sets.values())  # lists of nothing: the error names what is missing
    if not there:
        return _metadata(place)
    if len(there) > 1:
        there = [_numbered(place, [key for key in sets if sets[key] in there], sets)]
    return _ordered(there[0])


def _in_folder(folder: Path) -> list[str]:
    return sorted((item.path for item in os.scandir(folder) if item.is_file()), key=os.fsencode)


def _ordered(lists: Sequence[SplitFile]) -> list[SplitFile]:
    order = ("train", "val", "test")
    return sorted(lists, key=lambda item: order.index(item.split or "train"))


def _numbered(
    place: Place, keys: Sequence[tuple[str, ...]], sets: dict[tuple[str, ...], list[SplitFile]]
) -> list[SplitFile]:
    """Of sets of lists that differ in one number alone the one of the split asked for, the first if none is."""
    by_number = {_number(key): key for key in keys}
    same = {tuple(re.sub(r"^\d+$", "", token) for token in key) for key in keys}
    if len(same) == 1 and len(by_number) == len(keys):
        if place.number not in by_number:
            known = ", ".join(map(str, sorted(by_number)))
            raise DataError(f"{place.notes}: no lists of data.split={place.number}; there are splits {known}")
        line = f"{place.notes}: lists of data.split={place.number}, of {len(keys)} official splits"
        place.told.extend([line] * (line not in place.told))  # asked more than once
        return sets[by_number[place.number]]
    firsts = ", ".join(sets[key][0].file.name for key in keys)
    raise DataError(f"{place.notes}: several sets of lists, {firsts}: data.list=FILE names one of a set")


def _number(key: tuple[str, ...]) -> int:
    numbers = [int(token) for token in key if token.isdigit() and len(token) < 4]
    return numbers[-1] if numbers else 0


def _metadata(place: Place) -> list[SplitFile]:
    """Tables as the Hub has them, in the root or in its folders that are splits."""
    if place.notes != place.root:
        return []
    found = [SplitFile(place.root / name, None) for name in _METADATA if (place.root / name).is_file()]
    for folder in sorted((path for path in place.root.iterdir() if path.is_dir()), key=os.fsencode):
        if split := folder_split(folder.name):
            found += [SplitFile(folder / name, split) for name in _METADATA if (folder / name).is_file()]
    return found


def _of_samples(lists: Sequence[SplitFile], kind: Kind, folders: Sequence[Path]) -> bool:
    """Whether a list names files that are there, by its first lines: any word or cell of them."""
    for file, _ in lists:
        finder = Finder(kind, [*folders, file.parent])
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            lines = text.read(_PEEK).split("\n")[:_FEW]
        for line in lines:
            cells = [cell.strip().strip('"') for cell in re.split(r"[,;|\t]|\": \"", line)]
            paths = [one.path for one in split_lines([line], kind.is_file)]
            if any(name and _is_sample(kind, finder.one(name)) for name in (*cells, *paths)):
                return True
    return False


def _is_sample(kind: Kind, path: str) -> bool:
    """Whether there is a file, or a folder that is a sample; not a folder of samples, which may be named as a class."""
    return exists(path) and (not os.path.isdir(path) or kind.is_folder(path))


def by_split(form: Format, kind: Kind) -> Format:
    """``form``, which reads one list, for lists in several files as well: the splits are those of their names."""

    def parts(place: Place) -> list[Place]:
        files = split_files(place, kind)
        return [replace(place, notes=item.file, part=item.split or "train") for item in files]

    def matches(place: Place) -> bool:
        if place.notes.is_file():
            return form.matches(place)
        several = parts(place)
        return bool(several) and form.matches(several[0])

    def read(place: Place) -> list[Entry]:
        several = parts(place)
        if several:
            return _read_all(kind, place, several, form.read)
        if place.notes.is_file() and (said := split_in(place.notes.name)) is not None:
            place.told.append(
                f"{place.notes}: the name says {said[0]}, but no list of another split is beside it: all samples in it "
                f"count as {place.part} where it does not say more"
            )
        return form.read(place)

    return replace(form, read=read, matches=matches, lists=True)


def _read_all(kind: Kind, place: Place, parts: Sequence[Place], read: Callable[[Place], list[Entry]]) -> list[Entry]:
    rows: list[Row] = []
    empty: list[NothingFoundError] = []
    for part in parts:
        try:
            found = read(part)
        except NothingFoundError as error:
            empty.append(error)
            continue
        rows += [Row(part.notes, f"sample {at}", entry.path, entry) for at, entry in enumerate(found, 1)]
    if not rows:
        raise empty[0]
    names = ", ".join(f"{part.notes.relative_to(_common(parts))} ({part.part})" for part in parts)
    place.told.append(f"{_common(parts)}: splits by the names of the lists: {names}")
    place.told.extend(f"left out: {error}" for error in empty)
    if place.notes == place.root:
        listed = {row.entry.path for row in rows}
        samples = walk(place.root, lambda _, __, files: Sifted([f for f in files if kind.is_file(f)]), LeftOut())
        if others := sum(str(place.root / sample) not in listed for sample in samples):
            place.told.append(f"{place.root}: {others} {kind.name}s are in no list and left out")
    return _labelled(place, unique(rows))


def _common(parts: Sequence[Place]) -> str:
    return os.path.commonpath([part.notes.parent for part in parts])


def _labelled(place: Place, entries: list[Entry]) -> list[Entry]:
    """The entries, those of a list without labels (a test list of UCF101, say) with the label that the others in their
    folder have, where each folder has one and each label one folder."""
    known: dict[str, set[str]] = {}
    for entry in entries:
        if "label" in entry.labels:
            known.setdefault(os.path.basename(os.path.dirname(entry.path)), set()).add(entry.labels["label"])
    without = [entry for entry in entries if not entry.labels and not entry.tags]
    labels = {folder: next(iter(own)) for folder, own in known.items() if len(own) == 1}
    if not without or len(labels) < len(known) or len(set(labels.values())) < len(labels):
        return entries
    found = [labels.get(os.path.basename(os.path.dirname(entry.path))) for entry in without]
    if None in found:
        return entries
    place.told.append(f"{place.notes}: {len(without)} samples of lists without labels have those of their folders")
    own = {id(entry): label for entry, label in zip(without, found, strict=True)}
    return [replace(e, labels={"label": label}) if (label := own.get(id(e))) else e for e in entries]
