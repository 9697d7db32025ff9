"""ScanObjectNN (Uy et al., 2019): real scans of objects in three variants, as HDF5 files of 2,048 points each."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place
from st_ssl.data.sources.points.base import clouds_in, folder_with, folders_of

CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
# the variant's name in papers, its folder, and how its files are called
_VARIANTS = {
    "scanobjectnn_pb_t50_rs": ("main_split", "objectdataset_augmentedrot_scale75.h5"),
    "scanobjectnn_obj_bg": ("main_split", "objectdataset.h5"),
    "scanobjectnn_obj_only": ("main_split_nobg", "objectdataset.h5"),
}


def _folder(variant: str, place: Place) -> Path | None:
    """The folder with both files of a variant: below the root, below ``h5_files`` in it, or the root itself."""
    name, end = _VARIANTS[variant]
    folders = [folder for root in folders_of(place) for folder in (root / name, root / "h5_files" / name, root)]
    own = [folder for folder in folders if folder.resolve().name == name]
    return folder_with((f"training_{end}", f"test_{end}"), own)


def _read(variant: str, place: Place) -> list[Entry]:
    there = [name for name in _VARIANTS if _folder(name, place) is not None]
    if place.auto and len(there) > 1:
        raise DataError(f"{place.root} has several variants of ScanObjectNN: say data.format={' or '.join(there)}")
    folder, (name, end) = _folder(variant, place), _VARIANTS[variant]
    if folder is None:
        known = f"; there is {', '.join(there)}" if there else ""
        raise DataError(f"{place.root}: no {name}/training_{end} and test_{end} there, nor in h5_files{known}")
    parts = (("training", "train"), ("test", "test"))
    return [entry for part, split in parts for entry in clouds_in(folder / f"{part}_{end}", split, CLASSES)]


FORMATS = tuple(Format(variant, partial(_read, variant), partial(_folder, variant)) for variant in _VARIANTS)
