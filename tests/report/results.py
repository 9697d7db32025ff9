"""Results of probes written by hand: who is ahead of whom and by how much is given, to hold a page against it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from st_ssl.core.verdict import Difference, Verdict

VIDEOS = ("raw", "frames", "differences", "metadata")
CLOUDS = ("coordinates", "occupancy", "histograms", "metadata")
FACTORS = {"shape": 8, "material_of_surface": 4, "pose": 12}
KINDS = ("knn", "linear", "svm", "attentive")


def figure(mean: float, seeds: int = 3) -> dict[str, Any]:
    values = [mean + step for step in range(-(seeds // 2), seeds - seeds // 2)]
    return {"mean": mean, "std": 1.2, "values": values}


def verdict(random: float, rival: str, lead: float, samples: int = 240, seeds: int = 3) -> dict[str, Any]:
    """Of a network that is ``random`` points ahead of itself untrained, and ``lead`` ahead of ``rival``; each interval
    is two points wide."""
    against = [Difference(name, by, by - 1, by + 1) for name, by in (("random", random), (rival, lead))]
    return Verdict(tuple(against), samples, seeds).as_json()


def cells(ours: float, random: float, rival: str, lead: float, baselines: Sequence[str], seeds: int = 3) -> Any:
    means = {"pretrained": ours, "random": ours - random} | dict.fromkeys(baselines, 15.5)
    return {who: figure(mean, seeds) for who, mean in {**means, rival: ours - lead}.items() if who != "chance"}


def probe_result(
    leads: Mapping[str, float] | float, rival: str = "occupancy", baselines: Sequence[str] = CLOUDS, **more: Any
) -> dict[str, Any]:
    """Pretraining is 9.1 points ahead of itself untrained everywhere, and ``leads`` points ahead of ``rival`` in each
    factor (of one number: in all); over all factors by their mean."""
    by = dict.fromkeys(FACTORS, leads) if isinstance(leads, float) else dict(leads)
    targets: dict[str, Any] = {}
    for (name, classes), lead in zip(FACTORS.items(), by.values(), strict=True):
        told = verdict(9.1, rival, lead)
        asked = cells(64.5, 9.1, rival, lead, baselines)
        targets[name] = {
            "classes": classes,
            "chance": 12.5,
            "probes": dict.fromkeys(KINDS, asked),
            "verdicts": dict.fromkeys(KINDS, told),
            "retrieval": {
                "chance": {"R@1": 12.5, "R@5": 40.0},
                "probes": dict.fromkeys(("R@1", "R@5"), asked),
                "verdicts": dict.fromkeys(("R@1", "R@5"), told),
            },
            "few_shot": {
                **{"ways": 4, "shots": 5, "queries": 15, "episodes": 100, "chance": 25.0},
                "probes": {"centroid": {who: cell | {"interval": 0.7} for who, cell in asked.items()}},
                "verdicts": {"centroid": told},
            },
            "curve": {
                **{"fractions": [0.01, 1.0], "samples": [4, 480], "chance": 12.5},
                "probes": dict.fromkeys(("1 %", "100 %"), asked),
                "verdicts": dict.fromkeys(("1 %", "100 %"), told),
            },
        }
    mean = sum(by.values()) / len(by)
    kinds = (*KINDS, "R@1")
    overall = {
        "probes": dict.fromkeys(kinds, cells(64.5, 9.1, rival, mean, baselines)),
        "verdicts": dict.fromkeys(kinds, verdict(9.1, rival, mean)),
    }
    scores = "standard scores of the training features"
    prepared = {"knn": "centred on the training features", "linear": scores, "svm": scores}
    told = {"runs": ["run"], "seeds": 3, "pretrainings": 1, "sizes": {"train": 480, "test": 240}, "prepared": prepared}
    return {**told, "tested": "the split test of the data", "bad": [], "targets": targets, "overall": overall, **more}


def write_run(folder: Path, config: Path, result: Mapping[str, Any]) -> Path:
    """A run that has nothing but its ``config`` and the ``result`` of a probe."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.read_text())
    (folder / "probe.json").write_text(json.dumps(result))
    return folder
