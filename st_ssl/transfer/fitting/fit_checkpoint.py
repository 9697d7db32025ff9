"""The state of the fit that is under way, on disk: a process that is killed goes on from there, to the same bits."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from st_ssl.core.files import claim_folder
from st_ssl.training import distributed
from st_ssl.training.checkpoint import Checkpointer, Loaded, load_checkpoint

SECONDS = 30.0
"""At least so long between two times that it is written."""
_SHARE = 0.05  # of the time, at most, goes into writing


@dataclass
class Unfinished:
    """``folder`` holds the state of one fit of those that ``stamp`` (JSON) describes. One process writes, the main
    one."""

    folder: Path
    stamp: dict[str, Any]
    _last: float = field(default_factory=time.monotonic)
    _took: float = 0.0

    def check(self) -> None:
        """Raise ``OutputError`` where the folder is that of other fits."""
        if self.folder.exists():
            choice = ": --output FILE writes elsewhere, and the same command with the settings of before goes on"
            claim_folder(self.folder, "about.json", self.stamp, "fine-tuning that is not finished", choice)

    def load(self, fit: str) -> Loaded | None:
        """The state of ``fit``, if it is that which was under way; any other is removed. All processes call it."""
        loaded = None
        if distributed.rank() == 0 and self.folder.exists():
            loaded = Checkpointer(self.folder, 1).latest()
            if loaded is None or loaded.state["fit"] != fit:
                loaded = None
                self.remove()
        self._last = time.monotonic()
        path = distributed.gather_objects(None if loaded is None else loaded.path)[0]
        return loaded if path is None or loaded is not None else load_checkpoint(path)

    def due(self) -> bool:
        """Whether so much time has passed that writing it all is worth it."""
        return time.monotonic() - self._last >= max(SECONDS, self._took / _SHARE)

    def save(self, fit: str, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]) -> None:
        """Write the state of ``fit`` after ``step`` steps, in place of an earlier one; the main process alone does."""
        if distributed.rank() == 0:
            began = time.monotonic()
            claim_folder(self.folder, "about.json", self.stamp, "fine-tuning that is not finished")
            Checkpointer(self.folder, 1).save(step, tensors, {**state, "fit": fit})
            self._last = time.monotonic()
            self._took = self._last - began

    def remove(self) -> None:
        """What was under way is done."""
        if distributed.rank() == 0 and self.folder.exists():
            shutil.rmtree(self.folder)
