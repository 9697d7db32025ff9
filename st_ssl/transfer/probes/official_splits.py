"""The official splits of a data set, each for itself, and the mean over them: how UCF101 and HMDB51 are reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st_ssl.core.config import Config
from st_ssl.core.errors import DataError
from st_ssl.core.summary import summary
from st_ssl.data.base import DataSource, of_split
from st_ssl.transfer.fitting import finetune as finetuning
from st_ssl.transfer.probes.probe import Progress, probe_source
from st_ssl.transfer.probes.probe_config import ProbeConfig
from st_ssl.transfer.probes.scores import add_verdicts, joined


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
    the splits. Verdicts are over the seeds and the test samples of all splits. Raises ``ConfigError`` where the data
    set has no such splits, before anything is decoded.
    """
    sources = {number: of_split(data, number) for number in config.splits}

    def told(number: int, message: str) -> None:
        progress(f"split {number}: {message}")

    probed = [probe_source(source, runs, config, device, partial(told, n)) for n, source in sources.items()]
    results = [result for result, _ in probed]
    first = results[0]
    each = [result["targets"] for result in results]
    shared = [  # by the same sort of labels: what has classes in one split may be a value in another
        name
        for name, own in first["targets"].items()
        if all(name in targets and ("classes" in targets[name]) == ("classes" in own) for targets in each)
    ]
    if not shared:
        raise DataError(f"probe.splits: the splits {', '.join(map(str, sources))} have no target in common")
    bad = {(b["path"], b["reason"]): b for result in results for b in result["bad"]}
    result = {
        **{key: first[key] for key in ("runs", "pretrainings", "seeds", "tested", "prepared")},
        "splits": list(config.splits),
        "sizes": _means([result["sizes"] for result in results]),
        "bad": list(bad.values()),
        "targets": {name: _mean([targets[name] for targets in each]) for name in shared},
    }
    add_verdicts(result, joined([scores for _, scores in probed]))
    return result


FitSplit = Callable[
    [DataSource, int | None, finetuning.Progress, finetuning.Finished, dict[str, Any] | None], dict[str, Any]
]
"""``finetune`` on the data set of one official split (None: the only one), with what it tells and is given of that one:
``progress``, ``finished`` and ``before``; all else is the same for others."""


def finetune_splits(
    data: Config,
    splits: Sequence[int],
    fit_split: FitSplit,
    progress: finetuning.Progress = lambda *_: None,
    finished: finetuning.Finished = lambda result: None,
    before: dict[str, Any] | None = None,
    told_of_all: Callable[[list[dict[str, Any]]], dict[str, Any]] = lambda results: {},
) -> dict[str, Any]:
    """Fine-tune on each of ``splits`` of the data set that ``data`` describes, as if it were the only one.

    The result has those of the splits, as ``finetune`` gives them, in ``by_split``, and of those done so far the rest
    as of one: ``values`` are the means of the splits that ``splits`` of each row names, ``mean`` and ``std`` are over
    them, ``seeds`` holds the values of each split's repetitions; ``told_of_all`` says what else there is to tell of
    these rows of all splits (see ``outcomes.told``). ``finished`` is given it after every fit, and as
    ``before`` it is gone on from there. Raises ``ConfigError`` where the data set has no such splits, before anything
    is trained.
    """
    sources = {number: of_split(data, number) for number in splits}
    done: dict[str, Any] = dict((before or {}).get("by_split", {}))

    def told(at: int, number: int, done: int, total: int, status: str) -> None:
        progress(at * total + done, len(splits) * total, f"split {number}: {status}")

    def joined() -> dict[str, Any]:
        result = _joined(done)
        return result | told_of_all(result["results"])

    def keep(number: int, result: dict[str, Any]) -> None:
        done[str(number)] = dict(result)
        finished(joined())

    for at, (number, source) in enumerate(sources.items()):
        earlier = done.get(str(number))
        done[str(number)] = fit_split(source, number, partial(told, at, number), partial(keep, number), earlier)
    return joined()


def _joined(done: dict[str, Any]) -> dict[str, Any]:
    """The results of some splits as one."""
    first = next(iter(done.values()))
    cells: dict[tuple[str, float], dict[int, dict[str, Any]]] = {}
    for number, result in done.items():
        for row in result["results"]:
            cells.setdefault((row["mode"], row["fraction"]), {})[int(number)] = row
    bad = {(b["path"], b["reason"]): b for result in done.values() for b in result["bad"]}
    return {
        **{key: first[key] for key in ("runs", "metric", "classes", "tested") if key in first},
        "splits": [int(number) for number in done],
        "sizes": _means([result["sizes"] for result in done.values()]),
        "results": [
            {
                **{"mode": mode, "fraction": share, "splits": list(rows)},
                "repeats": next(iter(rows.values()))["repeats"],
                "labels": _means([row["labels"] for row in rows.values()]),
                **_curve(list(rows.values())),
                "epochs": [epoch for row in rows.values() for epoch in row["epochs"]],
                "metrics": _metrics([row["metrics"] for row in rows.values()]),
            }
            for (mode, share), rows in cells.items()
        ],
        "starved": [{"split": int(n), **one} for n, result in done.items() for one in result["starved"]],
        "bad": list(bad.values()),
        "by_split": dict(done),
    }


def _curve(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The steps and the curves of all splits; nothing where they took other steps each."""
    if len({row["steps"] for row in rows}) > 1:
        return {}
    if not all("curve" in row for row in rows):
        return {"steps": rows[0]["steps"]}
    values = [curve for row in rows for curve in row["curve"]["values"]]
    return {"steps": rows[0]["steps"], "curve": {"steps": rows[0]["curve"]["steps"], "values": values}}


def _metrics(splits: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: _over_splits([own[name] for own in splits if name in own]) for name in splits[0]}


def _means(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: round(np.mean([count[name] for count in counts])) for name in counts[0]}


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
    told = summary([math.nan if cell["mean"] is None else cell["mean"] for cell in cells])
    if "interval" in cells[0]:
        told["interval"] = float(np.sqrt(sum(cell["interval"] ** 2 for cell in cells)) / len(cells))
    return told | {"seeds": [cell["values"] for cell in cells]}
