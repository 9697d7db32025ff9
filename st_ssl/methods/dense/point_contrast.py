"""PointContrast (Xie et al., ECCV 2020): the same point of a scene in two views must look the same to the network."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from st_ssl.augment.point_blank import BlankColour
from st_ssl.augment.point_colour import Probability
from st_ssl.augment.points import Range
from st_ssl.core.config import Config
from st_ssl.core.exhibits import Exhibit
from st_ssl.core.inputs import Modality
from st_ssl.core.types import View
from st_ssl.data.points.views import point_views
from st_ssl.data.views import each
from st_ssl.encoders.base import CloudEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Outputs, Paper
from st_ssl.objectives.contrastive import Negatives, point_info_nce
from st_ssl.parts.point_matching import (
    SceneAugmentConfig,
    SweepPairConfig,
    links,
    match,
    point_features,
    require_points,
    scene_augment,
    two_views,
)


class PointContrastAugmentConfig(SceneAugmentConfig):
    """What PointContrast does to a scene: it turns each view about any axis, by any angle, and changes nothing else of
    the part that the view shows."""

    rotation: Literal["none", "y", "z", "so3", "axis"] = "axis"
    scale: Range = (1.0, 1.0)
    flip: tuple[Probability, Probability, Probability] = (0.0, 0.0, 0.0)
    jitter: float = 0.0


class PointContrastConfig(Config):
    """Two views of a scene; ``num_pairs`` points of each scene that both show are matched with each other, all other
    matches of the batch being the negatives: of ``all`` processes, or as published of each ``process`` alone.
    ``blank_colour``: the network sees ones with a little noise where colours would be, as published. ``sweeps``: the
    views are of two sweeps of a drive, as papers on LiDAR have it."""

    name: Literal["point_contrast"] = "point_contrast"
    augment: PointContrastAugmentConfig = PointContrastAugmentConfig()
    output_dim: int = Field(default=32, gt=0)
    num_pairs: int = Field(default=1024, gt=0)
    temperature: float = Field(default=0.4, gt=0)
    negatives: Negatives = "all"
    blank_colour: bool = False
    sweeps: SweepPairConfig | None = None


@METHODS.register(PointContrastConfig)
class PointContrast(Method[PointContrastConfig]):
    """PointInfoNCE between the features that the points of a scene have in two views of it."""

    paper = Paper(
        "PointContrast: unsupervised pre-training for 3D point cloud understanding",
        "Xie et al.",
        "ECCV 2020",
        "the same point of a scene looks the same in two views of it",
    )
    modality: ClassVar[Modality] = "points"

    def __init__(self, config: PointContrastConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        require_points(encoder, config.name)
        augment = scene_augment(config.augment, encoder)
        blank = [BlankColour()] if config.blank_colour else []
        self.views = point_views(encoder.input, each(two_views(config.sweeps), augment, *blank))
        self.head = nn.Linear(encoder.embed_dim, config.output_dim)

    def outputs(self, views: list[View]) -> Outputs:
        """Two views of B scenes to the features of matched points, ``first`` and ``second`` [B, ``num_pairs``,
        ``output_dim``]; where a scene has fewer matches the rows are 0, and ``valid`` [B, ``num_pairs``] is false."""
        first, second = point_features(self.encoder, self.head, views)
        pairs, valid = match(views[0], views[1], self.config.num_pairs, self.config.sweeps)
        features = {"first": first[pairs[..., 0]], "second": second[pairs[..., 1]]}
        return Outputs({name: x * valid[..., None] for name, x in features.items()}, {"valid": valid})

    def losses(self, outputs: Outputs) -> Losses:
        first, second, valid = (outputs[name].flatten(0, 1) for name in ("first", "second", "valid"))
        loss, accuracy = point_info_nce(first, second, valid, self.config.temperature, self.config.negatives)
        return Losses(loss, {"match_accuracy": accuracy, "matched": valid.float().mean()})

    def exhibits(self, views: list[View]) -> list[Exhibit]:
        """Which points of the first view find themselves in the second."""
        return [links(self.encoder, self.head, views, self.config.sweeps)]
