"""Probes of clouds: the linear SVM of the papers among them, for encoders with tokens and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from st_ssl.core.errors import ConfigError
from st_ssl.encoders.base import load_encoder, random_encoder, save_encoder
from st_ssl.engine.run_config import run_model
from st_ssl.transfer.features.features import collect_clips, encode, split_entries
from st_ssl.transfer.probes.classifiers import svm_predict
from st_ssl.transfer.probes.probe import probe_runs
from st_ssl.transfer.probes.probe_config import PROBES, PointProbeConfig
from tests.transfer.clouds import INPUT, TinyDataConfig, TinyEncoderConfig, TinySource, tiny_registered

__all__ = ["tiny_registered"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("tokens", [0, 24])
def test_the_svm_is_that_of_the_papers(tokens: int, tmp_path: Path) -> None:
    """On the maximum and the mean of the tokens beside each other; where there are none, on pooled features."""
    save_encoder(random_encoder(TinyEncoderConfig(tokens=tokens), INPUT, 7), tmp_path)
    source = TinySource(TinyDataConfig(train=20, test=20))
    config = PointProbeConfig(seeds=1, svm_strengths=(0.012,), svm_standardise=False)
    result = probe_runs(source, [tmp_path], config, CPU)
    probes = result["targets"]["kind"]["probes"]
    assert list(probes) == ["knn", "linear", "svm"]
    assert list(probes["svm"]) == ["pretrained", "random", "raw", "metadata"]

    sides = []
    for part, split in enumerate(split_entries(source.entries(), 0.25, 100)):
        clips = collect_clips(source, split, {"kind": ["ball", "disc", "rod"]}, INPUT, part)
        pooled, local = encode(load_encoder(tmp_path), clips, 32, CPU)
        features = torch.cat([local.float().amax(1), local.float().mean(1)], 1) if tokens else pooled
        sides.append((features.numpy(), clips.targets["kind"]))
    (x, labels), (y, truth) = sides
    right = np.mean(SVC(C=0.012, kernel="linear").fit(x, labels).predict(y) == truth)
    assert probes["svm"]["pretrained"]["mean"] == pytest.approx(100 * right)


@pytest.mark.parametrize("standardise", [False, True])
def test_encoders_and_baselines_meet_the_svm_on_the_same_terms(
    standardise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), tmp_path)
    widths, terms = [], set()

    def recorded(x: np.ndarray, labels: np.ndarray, y: np.ndarray, *rule: Any) -> tuple[np.ndarray, float]:
        widths.append(x.shape[1])
        terms.add(rule)
        return svm_predict(x, labels, y, *rule)

    monkeypatch.setattr("st_ssl.transfer.probes.probe.svm_predict", recorded)
    config = PointProbeConfig(seeds=1, svm_strengths=(0.01, 1.0), svm_standardise=standardise)
    probe_runs(TinySource(), [tmp_path], config, CPU)
    assert sorted(widths) == [2, 16, 16, 216]  # metadata, pretrained and random, occupancy
    assert terms == {(0, (0.01, 1.0), standardise)}


def test_attentive_probes_need_local_features(tmp_path: Path) -> None:
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), tmp_path)
    with pytest.raises(ConfigError, match="attentive needs tokens"):
        probe_runs(TinySource(), [tmp_path], PointProbeConfig(seeds=1, kinds=("attentive",)), CPU)
    with pytest.warns(UserWarning, match="no attentive probe: this encoder gives neither tokens nor a map"):
        result = probe_runs(TinySource(), [tmp_path], PointProbeConfig(seeds=1, kinds=("attentive", "knn")), CPU)
    assert list(result["targets"]["kind"]["probes"]) == ["knn"]


def test_runs_on_clouds_have_probes_of_clouds() -> None:
    assert PROBES["points"]().kinds == run_model("points").model_fields["probe"].default.kinds
    assert PROBES["points"]().kinds == ("knn", "linear", "svm")
    assert run_model("video").model_fields["probe"].default.kinds == ("knn", "linear", "attentive", "retrieval")
