"""What is probed and how: the section ``probe`` of a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from st_ssl.core.config import Config, once
from st_ssl.core.inputs import Modality
from st_ssl.transfer.fitting.label_fractions import Share
from st_ssl.transfer.probes.few_labels import EpisodeConfig

Kind = Literal["knn", "linear", "svm", "attentive", "retrieval", "few_shot", "curve"]


class ProbeConfig(Config):
    """What is probed and how. ``seeds``: how often everything random is drawn anew (the moment of each video that is
    looked at, the random initialisation, the classifiers); ``limit``: the most videos of a split that are used;
    ``clips``: how many clips of a video are looked at, their features averaged (all are held in memory); ``recall``:
    the numbers of neighbours that retrieval looks at; ``svm_strengths``: C of the linear SVM, of several the one that
    does best on training samples held out.

    How features are prepared holds for encoders and baselines alike. ``centre``: kNN and retrieval take the mean of the
    training features off first; ``svm_standardise``: the SVM is fed standard scores. Papers often take features as they
    are, and one C, 0.012 say.

    ``values``: which targets are values, to be predicted as numbers, where the labels alone would not say so:
    ``{age: true, year: false}``. By themselves numbers with fractions are values, and whole numbers are classes (see
    ``value_targets``). Of a value target ``knn`` is the mean of the neighbours and ``linear`` is ridge regression, told
    by R² and rank correlation; the other kinds leave it out. ``ridge_strengths``: penalties of ridge regression, of
    several the one that does best on training samples held out.

    Two kinds that take long are off unless named: ``few_shot`` are the episodes of ``few_shot``, ``curve`` the linear
    probe with ``label_fractions`` of the training samples. ``splits``: official splits of the data set (UCF101 and
    HMDB51 have 1, 2, 3), each probed for itself; figures are then the mean ± std over them."""

    kinds: tuple[Kind, ...] = Field(default=("knn", "linear", "attentive", "retrieval"), min_length=1)
    seeds: int = Field(default=3, gt=0)
    limit: int = Field(default=2000, gt=1)
    clips: int = Field(default=1, gt=0)
    test_share: float = Field(default=0.25, gt=0, lt=1)
    batch_size: int = Field(default=32, gt=0)
    knn_k: int = Field(default=20, gt=0)
    knn_temperature: float = Field(default=0.07, gt=0)
    centre: bool = True
    recall: tuple[PositiveInt, ...] = Field(default=(1, 5, 10, 20, 50), min_length=1)
    values: dict[str, bool] = Field(default_factory=dict)
    linear_strengths: tuple[PositiveFloat, ...] = Field(default=(0.001, 0.01, 0.1, 1.0), min_length=1)
    ridge_strengths: tuple[PositiveFloat, ...] = Field(default=(0.001, 0.01, 0.1, 1, 10, 100, 1000), min_length=1)
    svm_strengths: tuple[PositiveFloat, ...] = Field(default=(0.0001, 0.001, 0.012, 0.1, 1.0), min_length=1)
    svm_standardise: bool = True
    attentive_epochs: int = Field(default=20, gt=0)
    attentive_lr: float = Field(default=3e-3, gt=0)
    few_shot: EpisodeConfig = EpisodeConfig()
    label_fractions: tuple[Share, ...] = Field(default=(0.01, 0.05, 0.1, 0.2, 0.5, 1.0), min_length=1)
    splits: tuple[PositiveInt, ...] = ()

    _once = field_validator("kinds", "recall", "label_fractions", "splits")(once)


class PointProbeConfig(ProbeConfig):
    """As ``ProbeConfig``, with what is customary for clouds."""

    kinds: tuple[Kind, ...] = Field(default=("knn", "linear", "svm"), min_length=1)


PROBES: dict[Modality, type[ProbeConfig]] = {"video": ProbeConfig, "points": PointProbeConfig}
