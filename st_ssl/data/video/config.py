"""Where videos are and how they are read, as a configuration says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.limits import SAMPLE_TIMEOUT, default_workers
from st_ssl.data.sources.base import Listing, find_place
from st_ssl.data.sources.video import SourceFormat, read_source
from st_ssl.data.streams.video import MAX_PIXELS, Backend
from st_ssl.data.synthetic.videos import SyntheticVideoConfig


class VideoDataConfig(Config):
    """Videos: where the videos are and how they are read.

    ``root``: a folder of videos, a list of ``path label`` lines, or a pack (a folder or URL); nothing means the
    planted-factor videos, which are written on first use. ``list``: a list whose paths are relative to ``root``, or the
    folder of a data set's annotations. ``format``: what that is, where its looks do not tell (configs/README.md has the
    formats). ``split``: which of the official splits of UCF101 or HMDB51 (default: the first). ``series``:
    which images are a video where folders hold several series of them: ``img_`` (of ``img_*`` beside ``flow_x_*``),
    ``each`` for every series, ``all`` for every image (default: by the rule of ``sources/video/series.py``). ``index``:
    what ``prepare.py index`` wrote (default: the one in ``root``, if any), which spares going through each file before
    it is read. ``epoch_size``: how many videos make an epoch (default: all of them); a small folder is then gone
    through several times an epoch.
    ``sample_timeout``: seconds that a worker may spend on one video (on opening it and on each frame, where windows
    slide over whole videos); one that hangs or crashes its decoder is taken as broken. With ``num_workers=0`` nothing
    protects the run from such files. ``max_pixels``: a video whose frames have more pixels is broken, and no room is
    made for them.
    """

    name: Literal["video"] = "video"
    root: str | None = None
    list: str | None = None
    format: SourceFormat = "auto"
    split: int | None = Field(default=None, ge=1, le=3)
    series: str | None = None
    index: str | None = None
    reader: Backend = "auto"
    num_workers: int = Field(default_factory=default_workers, ge=0)
    epoch_size: int | None = Field(default=None, gt=0)
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    sample_timeout: float = Field(default=SAMPLE_TIMEOUT, gt=0)
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)
    synthetic: SyntheticVideoConfig = SyntheticVideoConfig()

    @property
    def place(self) -> tuple[Path, Path | None] | None:
        """``root`` and ``list`` as paths; None where neither is given."""
        return find_place(self.root, self.list)

    def listing(self) -> Listing | None:
        """The videos that ``root`` and ``list`` name; None where neither is given. Raises what ``read_source`` does."""
        return None if self.place is None else read_source(*self.place, self.format, self.split, self.series)
