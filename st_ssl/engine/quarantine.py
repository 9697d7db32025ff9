"""Broken samples: each is listed once, and too many of them stop the run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from st_ssl.core.errors import DataError
from st_ssl.core.files import replace_text
from st_ssl.data.base import BadSample, too_many
from st_ssl.engine.run_files import whole_rows


class Quarantine:
    """The broken samples of a run, in ``bad_samples.jsonl`` (one line each) where ``file`` is given.

    More than ``max_share`` of ``num_samples`` (and more than a handful) raise ``DataError``: see ``too_many``.
    """

    def __init__(self, file: Path | None, num_samples: int, max_share: float) -> None:
        self.file = file
        self.num_samples = num_samples
        self.max_share = max_share
        self.known: dict[str, str] = {}
        if file is not None:
            self.known = {row["path"]: row["reason"] for row in whole_rows(file, "path", "reason")}
        self._whole = False

    def unknown(self, bad: Iterable[BadSample]) -> list[BadSample]:
        """Those of ``bad`` that are not listed yet."""
        return [sample for sample in dict.fromkeys(bad) if sample.path not in self.known]

    def add(self, bad: Iterable[BadSample], write: bool = True) -> None:
        """List what is new (``write`` in one process of a run alone)."""
        new = {sample.path: sample.reason for sample in self.unknown(bad)}
        if new and write and self.file is not None:
            if not self._whole:  # what an earlier part of the run left may end in half a line
                replace_text(self.file, _lines(self.known))
                self._whole = True
            with self.file.open("a") as out:
                out.write(_lines(new))
        self.known |= new

    def check(self) -> None:
        """Raise ``DataError`` where too many are broken."""
        count = len(self.known)
        if too_many(count, self.num_samples, self.max_share):
            raise self.error(
                f"{count} of {self.num_samples} samples are broken, more than data.max_bad_share="
                f"{self.max_share:g} allows (st-ssl prepare pack leaves them out)"
            )

    def error(self, what: str) -> DataError:
        """An error that shows the first few broken samples and says where the rest is listed."""
        shown = [f"  {path}: {reason}" for path, reason in list(self.known.items())[:5]]
        listed = [] if self.file is None else [f"all of them are listed in {self.file}"]
        return DataError("\n".join([what, *shown, *listed]))


def _lines(reasons: dict[str, str]) -> str:
    return "".join(json.dumps({"path": path, "reason": reason}) + "\n" for path, reason in reasons.items())
