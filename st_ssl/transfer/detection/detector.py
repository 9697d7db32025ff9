"""A detector on an encoder's volume: it is folded into a map, and a network on the map and a head find boxes in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from st_ssl.core.boxes import BoxBatch
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.encoders.base import ENCODERS, Encoder
from st_ssl.encoders.volume_encoder import VolumeEncoder
from st_ssl.ops.volumes import Volume
from st_ssl.parts.bev_network import BevNetwork, BevNetworkConfig
from st_ssl.transfer.detection.anchor_head import AnchorHead, AnchorHeadConfig
from st_ssl.transfer.detection.centre_head import CentreHead, CentreHeadConfig
from st_ssl.transfer.detection.head import Ground, Head, within


class DetectorConfig(Config):
    """By default the small one: five layers of 64 channels, and CenterPoint's head at half its width."""

    bev: BevNetworkConfig = BevNetworkConfig()
    head: Annotated[CentreHeadConfig | AnchorHeadConfig, Field(discriminator="name")] = CentreHeadConfig(width=32)


LARGE = BevNetworkConfig(layers=(5, 5), strides=(1, 2), widths=(128, 256), up_strides=(1, 2), up_widths=(256, 256))
PRESETS = {
    "small": DetectorConfig(),
    "second": DetectorConfig(bev=LARGE, head=AnchorHeadConfig()),
    "centerpoint": DetectorConfig(bev=LARGE, head=CentreHeadConfig()),
}
"""``second`` and ``centerpoint`` are those of OpenPCDet on an encoder of the name ``second``."""


class Detector(nn.Module):
    """``detector(encoder.volume(points))`` gives the predictions that ``loss`` and ``decode`` take."""

    def __init__(self, encoder: Encoder[Any, Any], config: DetectorConfig, classes: Sequence[str]) -> None:
        """The ``encoder`` whose volumes it is for, which stays outside, and the ``classes`` in their order. Raises
        ``ConfigError`` where the encoder has no volume, or its cells do not fill its range."""
        super().__init__()
        if not isinstance(encoder, VolumeEncoder):
            able = [name for name in ENCODERS.names() if issubclass(ENCODERS.registered(name), VolumeEncoder)]
            name = encoder.config.model_dump()["name"]
            raise ConfigError(f"encoder.name {name!r} gives no volume to detect in: expected one of {able}")
        self.config, self.classes, self.range = config, tuple(classes), encoder.range
        width, depth = encoder.embed_dim, encoder.depth
        self.bev = BevNetwork(config.bev, width * depth)
        cell_x, cell_y, _ = encoder.lattices[-1].cell
        ground = Ground(encoder.range, (cell_x / self.bev.resolution, cell_y / self.bev.resolution))
        _check_filled(ground)
        self.head = _head(config.head, self.bev.out_width, self.classes, ground)

    def forward(self, volume: Volume) -> Any:
        """The encoder's volume of clouds to the head's predictions."""
        return self.head(self.bev(volume.bev()))

    def loss(self, predictions: Any, boxes: BoxBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its parts by name. Boxes of class -1, and those without a corner in the range, do not count."""
        return self.head.loss(predictions, self.head.targets(within(boxes, self.range)))

    def decode(self, predictions: Any) -> BoxBatch:
        """The boxes found in each cloud, with their ``score`` among the facts."""
        return self.head.decode(predictions)


def _head(config: CentreHeadConfig | AnchorHeadConfig, width: int, classes: Sequence[str], ground: Ground) -> Head:
    if isinstance(config, AnchorHeadConfig):
        return AnchorHead(config, width, classes, ground)
    return CentreHead(config, width, classes, ground)


def _check_filled(ground: Ground) -> None:
    low, high = ground.range[:2], ground.range[3:5]
    for axis, start, end, cell in zip("xy", low, high, ground.cell, strict=True):
        number = (end - start) / cell
        if abs(number - round(number)) > 1e-3:
            raise ConfigError(
                f"encoder.range from {start:g} to {end:g} along {axis} is {number:g} cells of the detector's map "
                f"({cell:g} m): expected a whole number"
            )
