"""Where drives are and how they are read, as a configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from st_ssl.core.config import Config
from st_ssl.core.limits import SAMPLE_TIMEOUT, default_workers
from st_ssl.data.sources.drives import LayoutName
from st_ssl.data.streams.limits import MAX_POINTS
from st_ssl.data.streams.points import ReadOptions
from st_ssl.data.streams.points.columns import check_roles
from st_ssl.data.streams.points.units import check_range
from st_ssl.data.synthetic.drives import SyntheticDriveConfig

Range = Annotated[tuple[float, float], AfterValidator(check_range)]


class DriveDataConfig(Config):
    """Drives: sweeps of a LiDAR in time, with poses, boxes and labels where these are known.

    ``root``: where they are. ``layout``: how they are kept there, where their looks do not tell
    (``st_ssl/data/sources/drives/``). ``classes``: those of boxes that are learned, in the order of their numbers
    (null: those of the layout); other boxes are neither right nor wrong. ``renamed``: names that boxes have and that
    count as one of these, ``{truck: car}`` say.

    ``sweeps``: how many are merged to one cloud, a sweep and those before it, as seen from the sweep itself; points
    then have the attribute ``time``, the seconds from their sweep to this one. That needs poses. ``near``: returns
    from within so many metres of the sensor in x and y, of the log's own car, are left out. ``rate``: sweeps a second
    where no file tells their times. ``topic``: of ROS bags, where several have clouds.

    Pretraining takes its samples from whole drives, or from pieces of at most ``piece`` sweeps, so that one long log is
    more than one sample. What is probed or fine-tuned are ``key_frames``: the sweeps with
    boxes, in a split without those the ones with labels, or else all; with ``key_frames: false`` always all. Those of
    one drive are in one split. ``in_view``: only points that the camera sees, where alone objects are labelled (KITTI).

    Without a root drives are planted, as ``planted`` says, and written on first use.
    ``bin_columns``, ``columns``, ``intensity_range``, ``max_points``, ``epoch_size`` and ``sample_timeout`` are as for
    clouds (``PointDataConfig``).
    """

    name: Literal["drives"] = "drives"
    root: str | None = None
    layout: LayoutName = "auto"
    classes: tuple[str, ...] | None = Field(default=None, min_length=1)
    renamed: dict[str, str] = Field(default_factory=dict)
    sweeps: int = Field(default=1, ge=1)
    near: float = Field(default=0.0, ge=0)
    rate: float = Field(default=10.0, gt=0)
    topic: str | None = None
    piece: int | None = Field(default=None, ge=2)
    key_frames: bool = True
    in_view: bool = False
    bin_columns: int | None = Field(default=None, ge=3, le=16)
    columns: Annotated[tuple[str, ...], AfterValidator(check_roles)] | None = None
    intensity_range: Range | None = None
    max_points: int = Field(default=MAX_POINTS, gt=1)
    planted: SyntheticDriveConfig = SyntheticDriveConfig()
    num_workers: int = Field(default_factory=default_workers, ge=0)
    epoch_size: int | None = Field(default=None, gt=0)
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    sample_timeout: float = Field(default=SAMPLE_TIMEOUT, gt=0)

    @property
    def place(self) -> Path | None:
        """``root`` as a path; None where none is given."""
        return Path(self.root).expanduser() if self.root else None

    def options(self, columns: tuple[str, ...] = (), intensity_range: Range | None = None) -> ReadOptions:
        """What readers are told by the keys, or else by a layout with fixed ``columns`` and ``intensity_range``."""
        own = self.columns or (() if self.bin_columns else columns)
        return ReadOptions(
            bin_columns=self.bin_columns,
            max_points=self.max_points,
            layouts=(own,) if own else (),
            named=bool(own),
            intensity_range=self.intensity_range or intensity_range,
        )
