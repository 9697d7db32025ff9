"""Figures of several repeats as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

R2, RANK = "R²", "rank correlation"
MEASURES = {"knn_r2": R2, "knn_rank": RANK, "ridge_r2": R2, "ridge_rank": RANK}
"""The measure of the rows of value targets, which are plain numbers. All other rows are in per cent."""

KINDS = {
    "knn": "kNN",
    "linear": "linear",
    "svm": "linear SVM",
    "attentive": "attentive",
    "few_shot": "few-shot",
    "curve": "label curve",
    "knn_r2": "kNN R²",
    "knn_rank": "kNN rank correlation",
    "ridge_r2": "ridge R²",
    "ridge_rank": "ridge rank correlation",
}
"""Kinds of probes as people call them; others, such as R@1, are called what they are."""


def decimals(key: str) -> int:
    """How many decimals the figures of a row are told with."""
    return 3 if key in MEASURES else 1


def extent(target: Mapping[str, Any]) -> str:
    """What there is to tell of a target of a probe: "8 classes", or "0.1 to 3.5" for values."""
    return f"{target['classes']} classes" if "classes" in target else " to ".join(f"{v:.4g}" for v in target["range"])


def plus_minus(figure: Mapping[str, Any], digits: int = 1) -> str:
    """The mean of a figure with its spread: half the 95 % ``interval`` where it has one, else the standard deviation
    ``std`` of its ``values``, which a single one does not have. A dash where there is none. ``digits``: decimals."""
    if figure["mean"] is None:
        return "–"
    single = len(figure.get("values", (0, 0))) == 1
    spread = figure.get("interval", None if single else figure["std"])
    return f"{figure['mean']:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}")


def times(count: int) -> str:
    """How often something was done."""
    return "once" if count == 1 else f"{count} times"


def null(value: float) -> float | None:
    """Ready for JSON, which has no NaN."""
    return None if math.isnan(value) else float(value)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Ready for JSON: ``mean`` and ``std`` of the ``values`` that are not NaN (null where there is none), and all of
    them."""
    import numpy as np

    there = [value for value in values if not math.isnan(value)]
    mean, std = (float(np.mean(there)), float(np.std(there))) if there else (None, None)
    return {"mean": mean, "std": std, "values": list(map(null, values))}
