"""Lists in several files, one for each split, which the names of the files say: ``train.csv``, ``val.csv``, and others
like ``ucf101_val_split_1_rawframes.txt``. And tables of the Hub, ``metadata.csv`` in each folder of a split."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Kind, NothingFoundError, Place, Row, exists, in_folder, unique
from st_ssl.data.sources.folders import files_below
from st_ssl.data.sources.list_lines import peek_lines, split_lines
from st_ssl.data.sources.paths import Finder
from st_ssl.data.sources.splits import folder_split, split_in

_ENDS = (".txt", ".csv", ".tsv", ".lst", ".list", ".jsonl", "")
_METADATA = ("metadata.csv", "metadata.jsonl")
_ORDER = ("train", "val", "test")

Said = tuple[str, ...]
"""What the names of lists say beside their split, their extension first: the same of all lists of a set."""


def split_files(place: Place, kind: Kind) -> list[Place]:
    """The lists of ``place``, one or more for each split, each as the place of a ``part``: those beside the file that
    is named, and alike but for the split in its name; those in the folder that is named, or in the root or the folders
    for annotations in it. [] where there are none, and where a single file stands alone.

    ``DataError`` where a folder has several sets of them, and ``place.number`` does not say which."""
    named = place.notes if place.notes.is_file() else None
    beside = [Path(item.path) for item in in_folder(named.parent) if item.is_file()] if named else []
    files = beside or place.find(lambda name: _said(name, kind))
    lists = [(*said, file) for file in files if (said := _said(file.name, kind))]
    sets: dict[Said, list[Place]] = {}
    for part, key, file in sorted(lists, key=lambda one: _ORDER.index(one[0])):
        sets.setdefault(key, []).append(replace(place, notes=file, part=part))
    if named:
        own = next((parts for parts in sets.values() if any(part.notes == named for part in parts)), [])
        return own if len({part.part for part in own}) > 1 else []
    there = {key: parts for key, parts in sets.items() if _of_samples(parts, kind)}
    if place.notes == place.root and place.auto:  # nobody named them: test_scores.csv may name samples too
        for key, parts in list(there.items()):
            if not {"train"} < {part.part for part in parts}:
                names = " and ".join(part.notes.name for part in there.pop(key))
                alone = "not used, as there are no lists of other splits (data.list=FILE reads one)"
                place.tell(f"{place.root}: {names}: {alone}")
    if place.notes == place.root and not there:
        return _metadata(place)
    there = there or sets  # lists of nothing: the error names what is missing
    return _numbered(place, there) if len(there) > 1 else next(iter(there.values()), [])


def _said(name: str, kind: Kind) -> tuple[str, Said] | None:
    """The split that the name of a list says, and what else it says; None for any other file."""
    end, found = os.path.splitext(name)[1].lower(), split_in(name)
    return None if found is None or end not in _ENDS or kind.is_file(name) else (found[0], (end, *found[1]))


def _numbered(place: Place, sets: Mapping[Said, list[Place]]) -> list[Place]:
    """Of sets of lists that differ in one number alone the one of the split asked for, the first if none is."""
    by_number = {_number(key): parts for key, parts in sets.items()}
    if len({tuple(re.sub(r"^\d+$", "", token) for token in key) for key in sets}) > 1 or len(by_number) < len(sets):
        firsts = ", ".join(parts[0].notes.name for parts in sets.values())
        raise DataError(f"{place.notes}: several sets of lists, {firsts}: data.list=FILE names one of a set")
    if place.number not in by_number:
        known = ", ".join(map(str, sorted(by_number)))
        raise DataError(f"{place.notes}: no lists of data.split={place.number}; there are splits {known}")
    place.tell(f"{place.notes}: lists of data.split={place.number}, of {len(sets)} official splits")
    return by_number[place.number]


def _number(key: Said) -> int:
    return next((int(token) for token in reversed(key) if token.isdigit() and len(token) < 4), 0)


def _metadata(place: Place) -> list[Place]:
    """Tables as the Hub has them, in the root or in its folders that are splits."""
    folders = [Path(item.path) for item in in_folder(place.root) if item.is_dir()]
    parts = [(place.root, "train"), *((folder, split) for folder in folders if (split := folder_split(folder.name)))]
    found = [replace(place, notes=folder / name, part=split) for folder, split in parts for name in _METADATA]
    return [part for part in found if part.notes.is_file()]


def _of_samples(parts: Sequence[Place], kind: Kind) -> bool:
    """Whether a list names files that are there, or folders that are samples, by its first lines: any word or cell of
    them. A folder of samples does not count: it may be named as a class."""
    for part in parts:
        finder = Finder(kind, [part.root, part.notes.parent])
        for line in peek_lines(part.notes):
            words = [word.strip() for word in re.split(r"[,;|\t\"]", line)]
            for name in (*words, *(one.path for one in split_lines([line], kind.is_file))):
                path = finder.one(name)
                if name and exists(path) and (not os.path.isdir(path) or kind.is_folder(path)):
                    return True
    return False


def by_split(form: Format, kind: Kind) -> Format:
    """``form``, which reads one list, for lists in several files as well: the splits are those of their names."""

    def matches(place: Place) -> bool:
        parts = [place] if place.notes.is_file() else split_files(place, kind)[:1]
        return any(map(form.matches, parts))

    def read(place: Place) -> list[Entry]:
        if parts := split_files(place, kind):
            return _read_all(kind, place, parts, form.read)
        if place.notes.is_file() and (said := split_in(place.notes.name)) is not None:
            alone = f"the name says {said[0]}, but no list of another split is beside it"
            place.tell(f"{place.notes}: {alone}: all samples in it count as {place.part} where it does not say more")
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
    folder = os.path.commonpath([part.notes.parent for part in parts])
    names = ", ".join(f"{part.notes.relative_to(folder)} ({part.part})" for part in parts)
    place.tell(f"{folder}: splits by the names of the lists: {names}")
    for lost in empty:
        place.tell(f"left out: {lost}")
    if place.notes == place.root:
        listed = {row.entry.path for row in rows}
        if others := sum(str(path) not in listed for path in files_below(place.root, kind)):
            place.tell(f"{place.root}: {others} {kind.name}s are in no list and left out")
    return _labelled(place, unique(rows))


def _labelled(place: Place, entries: list[Entry]) -> list[Entry]:
    """The entries, those of a list without labels (a test list of UCF101, say) with the label that the others in their
    folder have, where each folder has one and each label one folder."""
    folders = [os.path.basename(os.path.dirname(entry.path)) for entry in entries]
    known = {
        (folder, entry.labels["label"])
        for folder, entry in zip(folders, entries, strict=True)
        if "label" in entry.labels
    }
    labels = dict(known)
    bare = [folder for folder, entry in zip(folders, entries, strict=True) if not entry.labels and not entry.tags]
    clear = len(known) == len(labels) == len(set(labels.values()))
    if not bare or not clear or not labels.keys() >= set(bare):
        return entries
    place.tell(f"{place.notes}: {len(bare)} samples of lists without labels have those of their folders")
    return [
        entry if entry.labels or entry.tags else replace(entry, labels={"label": labels[folder]})
        for folder, entry in zip(folders, entries, strict=True)
    ]
