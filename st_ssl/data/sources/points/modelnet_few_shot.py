"""ModelNet40's few-shot folds (Sharma and Kaul, 2020), as Point-BERT and those after it use them."""

from __future__ import annotations

import re
from pathlib import Path

from st_ssl.core.errors import DataError, SampleError, sample_fault
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place
from st_ssl.data.sources.points.base import files_in, folders_of, subfolders
from st_ssl.data.streams.points.pickled import few_shot_samples

_SETTING = re.compile(r"(\d+)way_(\d+)shot")
_FOLD = re.compile(r"(\d+)\.pkl")


def _read(place: Place) -> list[Entry]:
    """``5way_10shot/0.pkl`` to ``9.pkl``, and other numbers of ways and shots: in the root, in ``ModelNetFewShot``
    within, or the root (or ``data.list``) is the folder of one setting. Labels are ``label`` within the fold, from "0",
    and the ``fold``, ``5way_10shot/0``."""
    files = _folds(place)
    if not files:
        raise DataError(f"{place.root}: no folders `5way_10shot` with folds `0.pkl` there, as ModelNetFewShot has them")
    return [entry for ways, shots, number, file in files for entry in _entries(file, f"{ways}way_{shots}shot/{number}")]


def _entries(file: Path, fold: str) -> list[Entry]:
    try:
        with sample_fault(str(file)):
            samples = few_shot_samples(str(file))
    except SampleError as error:
        raise DataError(str(error)) from error
    rows = enumerate(samples)
    return [Entry(f"{file}#{i}", sample.part, {"label": str(sample.label), "fold": fold}) for i, sample in rows]


def _folds(place: Place) -> list[tuple[int, int, int, Path]]:
    """(ways, shots, number, file) in this order, of the first folder that has any."""
    base = folders_of(place)[0]
    inside = base / "ModelNetFewShot"
    for folders in ([base], subfolders(base), subfolders(inside) if inside.is_dir() else []):
        found = [
            (int(setting[1]), int(setting[2]), int(fold[1]), file)
            for folder in folders
            if (setting := _SETTING.fullmatch(folder.absolute().name))
            for file in files_in(folder, ".pkl")
            if (fold := _FOLD.fullmatch(file.name))
        ]
        if found:
            return sorted(found)
    return []


FORMATS = (Format("modelnet_few_shot", _read, lambda place: bool(_folds(place))),)
