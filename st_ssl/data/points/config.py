"""Where clouds are and how they are read, as a configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from st_ssl.core.config import Config
from st_ssl.core.limits import SAMPLE_TIMEOUT, default_workers
from st_ssl.data.sources.base import Listing, find_place
from st_ssl.data.sources.points import PointFormat, read_source
from st_ssl.data.streams.limits import MAX_POINTS
from st_ssl.data.streams.points import ReadOptions
from st_ssl.data.streams.points.columns import check_roles
from st_ssl.data.streams.points.sweeps import WindowConfig
from st_ssl.data.streams.points.units import check_range
from st_ssl.data.synthetic.rooms import SyntheticRoomConfig
from st_ssl.data.synthetic.shapes import SyntheticShapeConfig

Range = Annotated[tuple[float, float], AfterValidator(check_range)]


class PointDataConfig(Config):
    """Clouds: where they are and how they are read.

    ``root``: a folder of clouds, a list of ``path label`` lines, or a pack (a folder or URL); nothing means planted
    ones, which are written on first use: ``planted`` says whether objects (``shapes``) or furnished ``rooms``.
    ``list``: a list or table whose paths are relative to ``root``, or where a data set's lists are. ``format``: what
    that is, where its looks do not tell (configs/README.md has the formats). ``split``: the area of S3DIS that is held
    out (default: 5). ``surface_points``: how many points are drawn on a mesh, the same ones every time.
    ``max_points``: a cloud that has or announces more points is broken, and so is a file of more than 32 bytes for each
    of them that is read whole. ``epoch_size``: how many clouds make an epoch (default: all of them).
    ``sample_timeout``: seconds that a worker may spend on one cloud, which is then taken as broken.

    What files leave open is decided once for a data set, from 64 of its files. These keys say it instead:
    ``bin_columns``: how many float32 numbers a point has in ``.bin`` files. ``columns``: what the columns of tables
    are, of x, y, z, intensity, red, green, blue, nx, ny, nz, segment, instance, part, and _ for one to leave out.
    ``color_range`` and ``intensity_range``: the lowest and highest value, which become 0 and 1.

    ``window``: the files are recordings of points in time, and samples are windows of them: see ``WindowConfig``.
    """

    name: Literal["points"] = "points"
    root: str | None = None
    list: str | None = None
    format: PointFormat = "auto"
    split: int | None = Field(default=None, ge=1, le=6)
    surface_points: int = Field(default=8192, gt=1)
    bin_columns: int | None = Field(default=None, ge=3, le=16)
    max_points: int = Field(default=MAX_POINTS, gt=1)
    columns: Annotated[tuple[str, ...], AfterValidator(check_roles)] | None = None
    color_range: Range | None = None
    intensity_range: Range | None = None
    window: WindowConfig | None = None
    planted: Literal["shapes", "rooms"] = "shapes"
    shapes: SyntheticShapeConfig = SyntheticShapeConfig()
    rooms: SyntheticRoomConfig = SyntheticRoomConfig()
    num_workers: int = Field(default_factory=default_workers, ge=0)
    epoch_size: int | None = Field(default=None, gt=0)
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    sample_timeout: float = Field(default=SAMPLE_TIMEOUT, gt=0)

    @property
    def options(self) -> ReadOptions:
        """What readers are told by the keys."""
        columns, ranges = (self.columns,) if self.columns else (), (self.color_range, self.intensity_range)
        told = self.columns is not None
        timed = self.window is not None
        return ReadOptions(self.surface_points, self.bin_columns, self.max_points, columns, told, *ranges, timed=timed)

    @property
    def place(self) -> tuple[Path, Path | None] | None:
        """``root`` and ``list`` as paths; None where neither is given."""
        return find_place(self.root, self.list)

    def listing(self) -> Listing | None:
        """The clouds that ``root`` and ``list`` name; None where neither is given. Raises what ``read_source`` does."""
        return None if self.place is None else read_source(*self.place, self.format, self.split)
