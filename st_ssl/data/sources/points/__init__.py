"""Sources of clouds: from what people have to a list of entries.

One file for each family of formats; ``FORMATS`` has them in the order in which they are tried.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from st_ssl.data.sources.base import Formats, Listing
from st_ssl.data.sources.points import folder, kitti, lists, modelnet, s3dis, scannet, scanobjectnn, shapenet
from st_ssl.data.sources.points.base import CLOUD
from st_ssl.data.sources.tables import table_formats

__all__ = ["FORMATS", "PointFormat", "read_source"]

_FAMILIES = (  # the more special ones first
    *(kitti.FORMATS, s3dis.FORMATS, scannet.FORMATS, modelnet.FORMATS, scanobjectnn.FORMATS),
    *(shapenet.FORMATS, table_formats(CLOUD), lists.FORMATS, folder.FORMATS),
)
FORMATS = Formats(CLOUD, (form for family in _FAMILIES for form in family))
if TYPE_CHECKING:
    PointFormat = str
else:
    PointFormat = Literal["auto", *FORMATS]


def read_source(root: Path, listing: Path | None = None, format: str = "auto", split: int | None = None) -> Listing:
    """The clouds of one source, in a fixed order; ``entry.path`` is what ``read_cloud`` takes.

    ``root`` holds the clouds, ``listing`` (a file or a folder) says what is known of them, where it is not in ``root``.
    ``format`` is one of ``FORMATS``, or "auto" for what it looks like:

    - the files of KITTI (object), S3DIS (as it comes or as Pointcept has it), ScanNet as it comes, ModelNet10 and 40
      (meshes, ``modelnet40_ply_hdf5_2048``, ``modelnet40_normal_resampled``, and its few-shot folds), ScanObjectNN
      (three variants; where several are there the format has to be named), ShapeNet-55 and ShapeNetPart. ``split`` is
      the area of S3DIS that is held out;
    - a table: ``factors.csv`` in the folder, or a file whose first line names columns: see ``sources/tables.py``;
    - any other file is a list of one ``path label``, or ``path``, a line; blank lines and those starting with ``#`` are
      skipped. Relative paths are taken from ``root``, then from the folder of the list;
    - several lists or tables, one for each split, whose names say it: see ``sources/split_files.py``;
    - a folder: all clouds in it, at any depth, in byte order of their paths; a folder that is a scene (``coord.npy`` or
      ``Annotations`` in it) is one cloud. Splits and labels are the names of folders (see ``folder_entries``). What
      belongs to clouds and is none of its own is left out: see ``folder.py``. That is also how ScanNet is read as
      Pointcept has it.

    ``DataError`` where the source as a whole cannot be used, with file, line and what was expected; ``ConfigError`` for
    a format that does not exist.
    """
    return FORMATS.read(root, listing, format, split)
