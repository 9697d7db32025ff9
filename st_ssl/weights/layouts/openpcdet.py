"""SECOND's network as OpenPCDet publishes it, alone or in a detector: github.com/open-mmlab/OpenPCDet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from st_ssl.encoders.base import Encoder
from st_ssl.weights.base import LAYOUTS, Layout, LayoutConfig, WeightsError

_DETECTOR = "of the detector, of which the encoder is imported"
_RANGES: dict[int, dict[str, Any]] = {
    1: {},  # KITTI's
    2: {"range": (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), "voxel": (0.1, 0.1, 0.2)},  # nuScenes'
}


class OpenPCDetLayoutConfig(LayoutConfig):
    """Files do not tell the range and the voxels: without ``encoder.range`` and ``encoder.voxel`` they are KITTI's, or
    of weights for five numbers a point nuScenes'."""

    name: Literal["openpcdet"] = "openpcdet"


@LAYOUTS.register(OpenPCDetLayoutConfig)
class OpenPCDetLayout(Layout):
    """Kernels are as spconv has them: [out, z, y, x, in] from 2.2 on, [z, y, x, in, out] in 1.x, and [z, y, x, out, in]
    of some in between. Which it is is told by the first convolution, whose two widths differ, for all of them."""

    config: OpenPCDetLayoutConfig
    summary = "VoxelBackBone8x and VoxelResBackBone8x, alone or in SECOND, CenterPoint … (open-mmlab/OpenPCDet)"
    prefixes: ClassVar[tuple[str, ...]] = ("backbone_3d.", "model.")
    left: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"(vfe|backbone_2d|map_to_bev_module|dense_head|pfe|point_head|roi_head)\..*", _DETECTOR),
        (r"global_step", "how long it was trained"),
    )
    governs: ClassVar[tuple[tuple[str, str], ...]] = ((r"conv\d|conv_out", "encoder.widths, encoder.out"),)

    def settings(self) -> dict[str, Any]:
        self.expect("conv_input.0.weight", "conv_input.1.weight", "conv_out.1.weight", "conv2.0.1.weight")
        first = len(self.state["conv_input.1.weight"])
        stages = 1 + self.count(r"conv([2-9])\.0\.1\.weight")
        widths = [len(self.state[f"conv{number}.0.1.weight"]) for number in range(2, stages + 1)]
        extra = self._first_kernel()[0] - 3
        if extra not in _RANGES:
            told = f"is for {3 + extra} numbers a point: expected 4 (with intensity) or 5 (with time, too)"
            raise WeightsError(f"{self.published.path}: {told}")
        return {
            "encoder": {
                "name": "second",
                "widths": [first, *widths],
                "out": len(self.state["conv_out.1.weight"]),
                "residual": "conv1.0.conv1.weight" in self.state,
                **_RANGES[extra],
            },
            "input": {
                "num_points": None,
                "unit_sphere": False,
                "centre": False,
                "attributes": ["intensity", "time"][:extra],
            },
        }

    def _first_kernel(self) -> tuple[int, tuple[int, ...]]:
        """How many numbers a point has, and the order of axes that makes a kernel ours."""
        shape, out = tuple(self.state["conv_input.0.weight"].shape), len(self.state["conv_input.1.weight"])
        if len(shape) == 5 and shape[1:4] == (3, 3, 3) and shape[0] == out:
            return shape[4], (0, 1, 2, 3, 4)
        if len(shape) == 5 and shape[:3] == (3, 3, 3) and out in shape[3:] and shape[3] != shape[4]:
            return (shape[3], (4, 0, 1, 2, 3)) if shape[4] == out else (shape[4], (3, 0, 1, 2, 4))
        raise WeightsError(
            f"{self.published.path}: {self.names['conv_input.0.weight']!r} is {list(shape)}, which is no kernel of "
            f"spconv for {out} channels: expected [{out}, 3, 3, 3, in] or [3, 3, 3, in, {out}]"
        )

    def sources(self, key: str) -> tuple[str, ...]:
        return (key,)

    def make(self, key: str, found: Sequence[Tensor], encoder: Encoder) -> tuple[Tensor, str]:
        (tensor,), axes = found, self._first_kernel()[1]
        if tensor.dim() != 5 or axes == (0, 1, 2, 3, 4):
            return tensor, ""
        return tensor.permute(axes).contiguous(), f"axes {axes}"
