"""``torchvision.models.video``: the state dicts that torchvision publishes and its reference scripts save."""

from __future__ import annotations

from typing import Any, Literal

from st_ssl.encoders.r3d import BLOCKS
from st_ssl.weights.base import LAYOUTS, Layout, LayoutConfig, WeightsError

KINETICS = {"mean": (0.43216, 0.394666, 0.37645), "std": (0.22803, 0.22145, 0.216989)}
"""The statistics of pixels that torchvision's presets for its networks of 112 pixels and S3D normalise by."""
HALF = {"mean": (0.45, 0.45, 0.45), "std": (0.225, 0.225, 0.225)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class TorchvisionLayoutConfig(LayoutConfig):
    """No options of its own."""

    name: Literal["torchvision"] = "torchvision"


@LAYOUTS.register(TorchvisionLayoutConfig)
class TorchvisionLayout(Layout):
    """R3D, MC3 and R(2+1)D of any of torchvision's shapes and S3D become ``r3d``, ``r2plus1d`` and ``s3d``, which have
    the same keys; MViT and Swin3D become ``torchvision``. Input as the presets of the published weights have it."""

    summary = "torchvision.models.video: R3D, MC3, R(2+1)D, S3D, MViT, Swin3D"
    containers = ("model", "state_dict", "module", "")
    left = ((r"(fc|head|head\.\d+|classifier\.\d+(\.\d+)?)\.(weight|bias)", "the classifier of its own labels"),)
    governs = (
        (r"pos_encoding|rel_pos", "input.num_frames and input.size"),
        (r"^stem\.0\.weight", "encoder.width and encoder.stem_kernel"),
        (r"\.weight", "encoder.width, encoder.depth, encoder.temporal_kernels or encoder.model"),
    )

    def sources(self, key: str) -> tuple[str, ...]:
        return (key,)

    def settings(self) -> dict[str, Any]:
        if "stem.0.weight" in self.state:
            return self._resnet()
        if "features.0.0.0.weight" in self.state:
            width = self.state["features.0.0.0.weight"].shape[0]
            return {
                "encoder": {"name": "s3d", "width": width},
                "input": {"num_frames": 128, "stride": 2, "size": 224, **KINETICS},
            }
        if "conv_proj.weight" in self.state:
            return self._mvit()
        if "features.0.0.norm1.weight" in self.state:
            self.expect("patch_embed.proj.weight")
            return self._swin()
        raise self.foreign("stem.0, features.0 or conv_proj")

    def _resnet(self) -> dict[str, Any]:
        blocks = tuple(self.count(rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
        kind = "bottleneck" if "layer1.0.conv3.0.weight" in self.state else "basic"
        depth = next((d for d, shape in BLOCKS.items() if shape == (kind, blocks)), None)
        if depth is None:
            raise WeightsError(f"{self.published.path}: a ResNet of {kind} blocks {list(blocks)}: r3d has none such")
        apart = "stem.3.weight" in self.state
        stem = self.state["stem.0.weight"]
        encoder: dict[str, Any] = {"name": "r2plus1d" if apart else "r3d", "depth": depth}
        if apart:
            encoder["width"] = self.state["stem.3.weight"].shape[0]
        else:
            encoder["width"] = stem.shape[0]
            encoder["temporal_kernels"] = kernels = tuple(self._over_time(stage, kind) for stage in (1, 2, 3, 4))
            # A stage that does not span time does not halve it either, in all of torchvision's networks
            encoder["temporal_strides"] = (1, *(2 if kernel > 1 else 1 for kernel in kernels[1:]))
        return {"encoder": encoder, "input": {"num_frames": 16, "stride": 2, "size": 112, **KINETICS}}

    def _over_time(self, stage: int, kind: str) -> int:
        """The frames that the convolutions of a stage span."""
        name = f"layer{stage}.0.conv{2 if kind == 'bottleneck' else 1}.0.weight"
        self.expect(name)
        return int(self.state[name].shape[2])

    def _mvit(self) -> dict[str, Any]:
        learned = self.state.get("pos_encoding.spatial_pos")
        if learned is not None:
            side = round(learned.shape[0] ** 0.5)
            model, time = "mvit_v1_b", self.state["pos_encoding.temporal_pos"].shape[0]
        else:
            self.expect("blocks.0.attn.rel_pos_h", "blocks.0.attn.rel_pos_t")
            rows, frames = (self.state[f"blocks.0.attn.rel_pos_{axis}"].shape[0] for axis in "ht")
            model, time, side = "mvit_v2_s", (frames + 1) // 2, (rows + 1) // 2
        clip = {"num_frames": 2 * time, "stride": 4, "size": 4 * side}
        return {"encoder": {"name": "torchvision", "model": model}, "input": {**clip, **HALF}}

    def _swin(self) -> dict[str, Any]:
        models = {(96, 6): "swin3d_t", (96, 18): "swin3d_s", (128, 18): "swin3d_b"}
        shape = (self.state["patch_embed.proj.weight"].shape[0], self.count(r"features\.4\.(\d+)\."))
        if shape not in models:
            raise WeightsError(
                f"{self.published.path}: a Swin3D of width {shape[0]} with {shape[1]} blocks in its third stage: "
                f"torchvision's are {', '.join(f'{n} ({w}, {b})' for (w, b), n in models.items())}"
            )
        return {
            "encoder": {"name": "torchvision", "model": models[shape]},
            "input": {"num_frames": 32, "stride": 2, "size": 224, **IMAGENET},
        }
