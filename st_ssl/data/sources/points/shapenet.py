"""ShapeNet (Chang et al., 2015) as pretraining uses it: the lists of ShapeNet-55, and the parts of ShapeNetPart."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from st_ssl.core.errors import DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.sources.base import Format, Place, filled_lines, found, read_json
from st_ssl.data.sources.points.base import CLOUD, cloud_row, folders_of, listed_clouds, lists_in, names_in

_MODEL = re.compile(r"(\d{8})-[\w.-]+\.npy")
_CATEGORIES = "synsetoffset2category.txt"


def _read_lists(place: Place) -> list[Entry]:
    """``train.txt`` and ``test.txt`` of ``02691156-<id>.npy`` (Yu et al., 2021; as Point-BERT and Point-MAE use it): in
    the root, in ``ShapeNet-55`` within, or where ``data.list`` says (``ShapeNet-34``, say). Clouds are in
    ``shapenet_pc`` or beside the lists. The label is the synset."""
    folder = _list_folder(place)
    if folder is None:
        raise DataError(f"{place.root}: no train.txt of `02691156-<id>.npy` lines there, nor in ShapeNet-55 within")
    roots = [place.root / "shapenet_pc", place.root, folder, folder.parent / "shapenet_pc"]

    def entry(where: str, name: str, split: str) -> Entry:
        synset = _MODEL.fullmatch(name)
        if synset is None:
            raise DataError(f"{where}: {name!r}, expected `02691156-<id>.npy`")
        path = next((root / name for root in roots if (root / name).is_file()), "")
        return Entry(str(path), split, {"label": synset[1]})

    return listed_clouds(folder, place.root, lists_in([folder], "{}.txt", ("train", "test")), entry)


def _list_folder(place: Place) -> Path | None:
    folders = [path for base in folders_of(place) for path in (base, base / "ShapeNet-55")]
    files = [folder / "train.txt" for folder in folders if (folder / "train.txt").is_file()]
    own = (file for file in files if any(_MODEL.fullmatch(line) for _, line in filled_lines(file, CLOUD)[:1]))
    return next((file.parent for file in own), None)


def _read_parts(place: Place) -> list[Entry]:
    """``shapenetcore_partanno_segmentation_benchmark_v0_normal`` (Yi et al., 2016): ``Airplane 02691156`` lines, and
    JSON lists of ``shape_data/02691156/<id>`` for each split, which is the file ``02691156/<id>.txt``."""
    file, lists = place.root / _CATEGORIES, place.root / "train_test_split"
    categories = {}
    for at, line in names_in(file):
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdecimal():
            raise DataError(f"{file}, line {at}: {line!r}, expected a category and its synset, as `Airplane 02691156`")
        categories[fields[1]] = fields[0]
    rows = []
    expected = "a list of paths, as `shape_data/02691156/<id>`"
    for split in ("train", "val", "test"):
        listing = lists / f"shuffled_{split}_file_list.json"
        for number, name in enumerate(read_json(listing, CLOUD, list, expected)):
            where = f"entry {number} (from 0)"
            if not isinstance(name, str):
                raise DataError(f"{listing}, {where}: expected {expected}, found {str(name)[:80]}")
            path = PurePosixPath(name)
            synset = path.parent.name
            if synset not in categories:
                raise DataError(f"{listing}, {where}: no category {synset!r} in {file}{nearest(synset, categories)}")
            entry = Entry(str(place.root / synset / f"{path.name}.txt"), split, {"label": categories[synset]})
            rows.append(cloud_row(listing, where, name, entry))
    return found(CLOUD, lists, place.root, rows)


FORMATS = (
    Format("shapenet_part", _read_parts, lambda place: (place.root / _CATEGORIES).is_file()),
    Format("shapenet55", _read_lists, _list_folder),
)
