"""The official splits of a data set, each for itself, and the mean over them: how UCF101 and HMDB51 are reported."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st_ssl.config import Config
from st_ssl.data.base import of_split
from st_ssl.transfer.probe import ProbeConfig, Progress, probe_runs


def probe_splits(
    data: Config,
    runs: Sequence[Path],
    config: ProbeConfig,
    device: torch.device,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """``probe_runs`` on each of ``config.splits`` of the data set that ``data`` describes.

    The result is as that of one: ``values`` are now the means of the splits, in the order of ``splits``, ``mean`` and
    ``std`` are over them, and ``seeds`` holds the values of each split's seeds; sizes and chance levels are means over
    the splits. Raises ``ConfigError`` where the data set has no such splits, before anything is decoded.
    """
    sources = {number: of_split(data, number) for number in config.splits}
    results = []
    for number, source in sources.items():
        told = partial(_tell, progress, number)
        results.append(probe_runs(source, runs, config, device, told))
    first = results[0]
    shared = [name for name in first["targets"] if all(name in result["targets"] for result in results)]
    bad = {(b["path"], b["reason"]): b for result in results for b in result["bad"]}
    return {
        **{key: first[key] for key in ("runs", "seeds")},
        "splits": list(config.splits),
        "sizes": {part: round(np.mean([result["sizes"][part] for result in results])) for part in first["sizes"]},
        "bad": list(bad.values()),
        "targets": {name: _mean([result["targets"][name] for result in results]) for name in shared},
    }


def _tell(progress: Progress, number: int, message: str) -> None:
    progress(f"split {number}: {message}")


def _mean(parts: list[Any]) -> Any:
    """What several splits say in the same place, as one."""
    first = parts[0]
    if isinstance(first, dict) and "values" in first:
        return _over_splits(parts)
    if isinstance(first, dict):
        return {key: _mean([part[key] for part in parts]) for key in first if all(key in part for part in parts)}
    if isinstance(first, list):
        return [_mean(list(column)) for column in zip(*parts, strict=True)]
    same = all(part == first for part in parts)
    return first if same or isinstance(first, str) else float(np.mean(parts))


def _over_splits(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one contestant."""
    means = [cell["mean"] for cell in cells]
    told = {"mean": float(np.mean(means)), "std": float(np.std(means)), "values": means}
    if "interval" in cells[0]:
        told["interval"] = float(np.sqrt(sum(cell["interval"] ** 2 for cell in cells)) / len(cells))
    return told | {"seeds": [cell["values"] for cell in cells]}
