"""What the kept checkpoints of a run are worth, one after the other: would more pretraining help?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.summary import MEASURES
from st_ssl.core.verdict import judge
from st_ssl.data.base import DataSource
from st_ssl.encoders.base import Encoder, describe_encoder, random_encoder, serve
from st_ssl.engine.building import averaged, with_checkpoint
from st_ssl.engine.run_files import load_run_config
from st_ssl.training.checkpoint import load_checkpoint
from st_ssl.transfer.features.features import split_entries
from st_ssl.transfer.fitting.outcomes import sample_name
from st_ssl.transfer.probes.probe import chance_level, probe_baselines, probe_encoder, read_sets, unprobed
from st_ssl.transfer.probes.probe_config import ProbeConfig
from st_ssl.transfer.probes.scores import FIRST, VALUE_ROWS, Scores
from st_ssl.transfer.probes.sets import find_targets

PRETRAINED, UNTRAINED = FIRST
MANY_ROWS = {"retrieval", "few_shot", "curve"}
"""Kinds of probes that have several rows for a target: they are left out."""


def kept_steps(run: Path) -> list[int]:
    """The steps of the checkpoints of a run."""
    folders = (path.name[5:] for path in (run / "checkpoints").glob("step_*"))
    return sorted(int(step) for step in folders if step.isdigit())


def encoder_at(run: Path, step: int) -> Encoder:
    """The encoder that a run would have left at a step whose checkpoint is kept. Of several it is the first."""
    config = load_run_config(run)
    loaded = load_checkpoint(run / "checkpoints" / f"step_{step:08d}")
    method = with_checkpoint(config, loaded)
    encoder = next(iter(method.exports().values()))
    slow = averaged(method, encoder, loaded.tensors["ema"]) if "ema" in loaded.tensors else None
    if slow is not None:
        encoder.load_state_dict(slow)
    return encoder.eval()


def learning_curve(
    source: DataSource,
    runs: Sequence[Path],
    config: ProbeConfig,
    device: torch.device,
    progress: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Probe the encoders of ``runs`` at each step of which all of them have a checkpoint.

    With one run, seeds differ in all that the probe draws; with several, each is one seed. Returns, ready for JSON: the
    ``steps``; for each target its chance level, and for each row of a probe the figures of ``pretrained`` at each step,
    those of the untrained network and the baselines, and the ``trend``: the paired difference, with its 95 % interval
    over seeds and test samples, of the last step to the step nearest to half of it. Raises ``ConfigError`` for fewer
    than two steps.
    """
    steps = sorted(set.intersection(*(set(kept_steps(run)) for run in runs)))
    if len(steps) < 2:
        raise ConfigError(
            f"--steps needs two kept checkpoints at least, and {runs[0]} has {len(steps)}: pretrain with "
            "engine.keep_at=[0.1,0.25,0.5] to keep those of these shares of the run"
        )
    kinds = tuple(kind for kind in config.kinds if kind not in MANY_ROWS)
    if not kinds:
        raise ConfigError(f"probe.kinds: --steps knows no {', '.join(config.kinds)}: expected knn, linear, svm")
    config = config.model_copy(update={"kinds": kinds})
    described, input = describe_encoder(runs[0])
    serve(source, runs[0])
    entries = source.entries()
    if (why := unprobed(entries, config)) is not None:
        raise DataError(why)
    splits = split_entries(entries, config.test_share, config.limit)
    classes, _, values = find_targets(splits, config)
    names = [sample_name(entry) for entry in splits[1].entries]
    floor, at = Scores(names), {step: Scores(names) for step in steps}
    chances: dict[str, float] = {}
    seeds = len(runs) if len(runs) > 1 else config.seeds
    for seed in range(seeds):
        progress(f"probe {seed + 1} of {seeds}: reading {source.items}")
        sets = read_sets(source, splits, classes, values, input, config, seed)
        chances |= {name: chance_level(*sets.labels(name)) for name in classes}
        probe_baselines(source, sets, floor)
        probe_encoder(random_encoder(described, input, seed), UNTRAINED, sets, device, floor)
        for step in steps:
            progress(f"probe {seed + 1} of {seeds}: step {step}")
            probe_encoder(encoder_at(runs[seed % len(runs)], step), PRETRAINED, sets, device, at[step])
    half = min(steps[:-1], key=lambda step: abs(step - steps[-1] / 2))
    targets = {}
    for name in [*classes, *values]:
        keys = [key for kind in kinds for key in (VALUE_ROWS.get(kind, ()) if name in values else (kind,))]
        rows = {}
        for key in keys:
            if (name, key, PRETRAINED) not in at[steps[0]].cells:
                continue
            rows[key] = {
                PRETRAINED: [at[step].row(name, key)[PRETRAINED] for step in steps],
                **floor.row(name, key),
                "trend": None if key in MEASURES else _trend(at[steps[-1]], at[half], name, key),
            }
        targets[name] = {"chance": chances.get(name, 0.0), "probes": rows}
    return {"runs": [str(run) for run in runs], "seeds": seeds, "steps": steps, "half": half, "targets": targets}


def _trend(last: Scores, half: Scores, target: str, key: str) -> dict[str, float]:
    """How far the last step is ahead of the one at half of the run."""
    ours, theirs = (scores.outcomes([target], key, PRETRAINED) for scores in (last, half))
    assert ours is not None and theirs is not None
    (found,) = judge(ours, {"": theirs}).against
    return {"mean": found.mean, "low": found.low, "high": found.high}


def told_trend(trend: dict[str, float] | None, half: int, last: int) -> str:
    """A trend in words."""
    if trend is None:
        return ""
    figures = f"{trend['mean']:+.1f}, {trend['low']:+.1f} to {trend['high']:+.1f}, from step {half} to {last}"
    if trend["low"] > 0:
        return f"still improving ({figures}): more pretraining may help"
    if trend["high"] < 0:
        return f"falling ({figures}): more pretraining does harm"
    return f"level ({figures})"
