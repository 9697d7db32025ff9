"""SlowFast and its relatives: the model zoos of facebookresearch/SlowFast (``.pyth``, and ``.pkl`` of Caffe2) and of
pytorchvideo (Feichtenhofer et al. 2019)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from st_ssl.core.yaml_text import YAMLTextError, load_yaml
from st_ssl.encoders.base import Encoder
from st_ssl.encoders.r3d import BLOCKS
from st_ssl.weights.base import LAYOUTS, Layout, LayoutConfig, Made, Published, WeightsError

POOLED = ("c2d_r50", "i3d_r50")
"""Networks of pytorchvideo with a pooling over time as their third block: their stages are numbered otherwise."""
CLIPS = {  # frames, stride and pixels that the published weights were trained with
    "slow": (8, 8, 224),
    "c2d_r50": (8, 8, 224),
    "i3d_r50": (8, 8, 224),
    "slowfast_r50": (32, 2, 224),
    "slowfast_r101": (32, 2, 224),
    "slowfast_16x8_r101_50_50": (64, 2, 224),
    "x3d_m": (16, 5, 224),
    "x3d_l": (16, 5, 312),
    "csn_r101": (32, 2, 224),
    "r2plus1d_r50": (16, 4, 224),
}


class SlowfastLayoutConfig(LayoutConfig):
    """``arch`` tells what no size does where convolutions over time are missing: ``c2d`` pools over time, ``slow`` does
    not. Needed where a file does not have its configuration in it."""

    name: Literal["slowfast"] = "slowfast"
    arch: Literal["slow", "c2d"] | None = None


@LAYOUTS.register(SlowfastLayoutConfig)
class SlowfastLayout(Layout):
    """Slow networks become ``slow``, all others the network of ``pytorchvideo`` by their names and sizes.

    Files hold no size of clips, or in a configuration that not all of them have: the input is that of the published
    weights, which for X3D-XS and S (``encoder.model``), the same network as M, is to be told.
    """

    summary = "facebookresearch/SlowFast (.pyth, Caffe2's .pkl) and pytorchvideo: Slow, SlowFast, I3D, C2D, CSN, X3D"
    containers = ("model_state", "blobs", "state_dict", "model", "")
    prefixes = ("model.", "backbone.")
    left = (
        (r"head\..*|blocks\.\d+\.(proj|pool\.post_conv)\..*", "the classifier of its own labels, or the projection"),
        (r"backbone_hist\..*", "the momentum encoder"),
        (
            r"ptr|iter|queue\w*|memory\..*|knn_mem\..*|swav_prototypes.*",
            "the queue, memory or prototypes of pretraining",
        ),
        (r".*_momentum|lr|model_iter", "the optimiser's"),
    )
    governs = (
        (r"multipathway_fusion", "encoder.model: slowfast_r50 joins its pathways over 7 frames, slowfast_r101 over 5"),
        (r"", "encoder.width, encoder.depth, encoder.temporal_kernels or encoder.model"),
    )
    config: SlowfastLayoutConfig

    def __init__(self, config: LayoutConfig, published: Published) -> None:
        super().__init__(config, published)
        if self.container.split(".")[0] == "blobs":
            self.names = {slowfast_name(blob) or blob: name for blob, name in self.names.items()}
            self.state = {slowfast_name(blob) or blob: tensor for blob, tensor in self.state.items()}
        self.zoo = any(name.startswith("blocks.0.") for name in self.state)
        self.pooled = False
        self.sizes: dict[str, torch.Size] = {}

    def settings(self) -> dict[str, Any]:
        name = self._model()
        frames, stride, size = CLIPS[name]
        clip: dict[str, Any] = {"num_frames": frames, "stride": stride, "size": size}
        clip |= {"mean": (0.45,) * 3, "std": (0.225,) * 3} | self._told_clip()
        if name == "slow":
            return {"encoder": self._slow(), "input": clip}
        encoder: dict[str, Any] = {"name": "pytorchvideo", "model": name}
        alpha = self._told("SLOWFAST", "ALPHA")
        if name.startswith("slowfast") and isinstance(alpha, int):
            encoder["alpha"] = alpha
        return {"encoder": encoder, "input": clip}

    def translate(self, encoder: Encoder) -> dict[str, Made]:
        self.pooled = getattr(encoder.config, "model", "") in POOLED
        self.sizes = {key: own.shape for key, own in encoder.state_dict().items()}
        return super().translate(encoder)

    def sources(self, key: str) -> tuple[str, ...]:
        zoo = key if key.startswith("blocks.") else zoo_name(key)
        return (zoo if self.zoo else published_name(zoo, self.pooled),)

    def make(self, key: str, found: Sequence[Tensor], encoder: Encoder) -> tuple[Tensor, str]:
        tensor, own = found[0], self.sizes[key]
        long = [[n for n in shape if n > 1] for shape in (tensor.shape, own)]
        if tensor.ndim < len(own) and long[0] == long[1]:  # of Caffe2, which leaves out ends of length 1
            return tensor.reshape(own), "axes of length 1 added"
        return tensor, ""

    def _tensor(self, zoo: str) -> Tensor | None:
        """A tensor of one pathway by its name in pytorchvideo."""
        return self.state.get(zoo if self.zoo else published_name(zoo, False))

    def _model(self) -> str:
        """ "slow", or the name of the network in pytorchvideo."""
        if self._tensor("blocks.0.multipathway_blocks.1.conv.weight") is not None:
            return self._slowfast()
        if "s1.pathway0_stem.conv_xy.weight" in self.state:
            raise WeightsError(
                f"{self.published.path}: X3D of facebookresearch/SlowFast has a norm in a shortcut that pytorchvideo's "
                "has not: import the weights that pytorchvideo published"
            )
        if "blocks.0.conv.conv_t.weight" in self.state:
            return "x3d_l" if self.count(r"blocks\.4\.res_blocks\.(\d+)\.") > 7 else "x3d_m"
        self.expect("blocks.0.conv.weight" if self.zoo else "s1.pathway0_stem.conv.weight")
        if "blocks.1.res_blocks.0.branch2.conv_b.conv_t.weight" in self.state:
            return "r2plus1d_r50"
        middle = self._tensor("blocks.1.res_blocks.0.branch2.conv_b.weight")
        if middle is not None and middle.shape[1] == 1:
            return "csn_r101"
        return self._resnet()

    def _resnet(self) -> str:
        pooled = self.zoo and not any(name.startswith("blocks.2.") for name in self.state)
        kernels = self._kernels(pooled)
        if any(len(set(stage)) > 1 for stage in kernels):
            return "i3d_r50"
        if pooled:
            return "c2d_r50"
        if self.zoo or {stage[0] for stage in kernels} != {1}:
            return "slow"
        arch = self.config.arch or self._told("MODEL", "ARCH")
        arches = {"slow": "slow", "slow_c2d": "slow", "c2d": "c2d_r50"}
        if arch not in arches:
            raise WeightsError(
                f"{self.published.path}: has no convolution over time, and may be C2D, which pools over time, or a "
                "slow network, which does not: say which by layout.arch=c2d or layout.arch=slow"
            )
        return arches[arch]

    def _slowfast(self) -> str:
        third = "blocks.3.multipathway_blocks.0.res_blocks.{}.branch2.conv_a.weight"
        blocks = sum(self._tensor(third.format(block)) is not None for block in range(50))
        late = self._tensor(third.format(blocks - 1))
        if blocks not in (6, 23) or late is None:
            raise WeightsError(f"{self.published.path}: a SlowFast of {blocks} blocks in its third stage, not 6 or 23")
        if blocks == 6:
            return "slowfast_r50"
        return "slowfast_r101" if late.shape[2] > 1 else "slowfast_16x8_r101_50_50"

    def _kernels(self, pooled: bool = False) -> list[list[int]]:
        """The frames that the first convolution of every block spans, by stage."""
        kernels: list[list[int]] = []
        for stage in (1, 3, 4, 5) if pooled else (1, 2, 3, 4):
            names = (f"blocks.{stage}.res_blocks.{block}.branch2.conv_a.weight" for block in range(50))
            found = [tensor.shape[2] for name in names if (tensor := self._tensor(name)) is not None]
            if not found:
                raise self.foreign(f"blocks of its stage {len(kernels) + 1}")
            kernels.append(found)
        return kernels

    def _slow(self) -> dict[str, Any]:
        kernels = self._kernels()
        counts = tuple(map(len, kernels))
        depth = next((d for d, shape in BLOCKS.items() if shape == ("bottleneck", counts)), None)
        stem = self._tensor("blocks.0.conv.weight")
        if depth is None or stem is None:
            raise WeightsError(f"{self.published.path}: a ResNet of {list(counts)} blocks: slow has none such")
        return {
            "name": "slow",
            "depth": depth,
            "width": stem.shape[0],
            "stem_kernel": tuple(stem.shape[2:]),
            "temporal_kernels": tuple(stage[0] for stage in kernels),
        }

    def _told(self, section: str, key: str) -> Any:
        """A setting of the configuration in the file, which is YAML in text; None where there is none."""
        text = self.published.about.get("cfg")
        try:
            told = load_yaml(text)[0] if isinstance(text, str) else None
            return told[section][key] if isinstance(told, dict) else None
        except (KeyError, TypeError, YAMLTextError):
            return None

    def _told_clip(self) -> dict[str, Any]:
        names = {"num_frames": "NUM_FRAMES", "stride": "SAMPLING_RATE", "size": "TRAIN_CROP_SIZE", "mean": "MEAN"}
        told = {ours: self._told("DATA", theirs) for ours, theirs in (names | {"std": "STD"}).items()}
        return {key: value for key, value in told.items() if value is not None}


def zoo_name(key: str) -> str:
    """A key of ``slow`` as pytorchvideo calls it."""
    part, _, rest = key.partition(".")
    if part == "stem":
        number, _, what = rest.partition(".")
        return f"blocks.0.{'conv' if number == '0' else 'norm'}.{what}"
    block, where, number, what = rest.split(".", 3)
    kind = "conv" if number == "0" else "norm"
    inside = f"branch1_{kind}" if where == "downsample" else f"branch2.{kind}_{'abc'[int(where[-1]) - 1]}"
    return f"blocks.{part.removeprefix('layer')}.res_blocks.{block}.{inside}.{what}"


def published_name(zoo: str, pooled: bool) -> str:
    """A name of pytorchvideo as facebookresearch/SlowFast has it; ``pooled``: of a network that is in ``POOLED``."""
    match = re.fullmatch(r"blocks\.(\d+)\.(?:multipathway_blocks\.(\d)\.)?(.*)", zoo)
    assert match, zoo
    number, pathway, rest = int(match[1]), match[2] or "0", match[3]
    stage = number if pooled and number > 1 else number + 1
    if rest.startswith("multipathway_fusion."):
        rest = rest.removeprefix("multipathway_fusion.").replace("conv_fast_to_slow", "conv_f2s").replace("norm", "bn")
        return f"s{stage}_fuse.{rest}"
    if number == 0:
        return f"s1.pathway{pathway}_stem.{rest.replace('norm', 'bn')}"
    rest = re.sub(r"^res_blocks\.(\d+)\.", rf"pathway{pathway}_res\1.", rest)
    rest = rest.replace("branch1_conv", "branch1").replace("branch1_norm", "branch1_bn")
    rest = re.sub(r"norm_([abc])", r"\1_bn", re.sub(r"conv_([abc])", r"\1", rest))
    return f"s{stage}.{rest}"


_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_CONV = {"w": "weight", "b": "bias"}
_BLOBS = (  # a pattern with what is before the last underscore but for "bn", and what it becomes
    (r"conv1|res_conv1", "s1.pathway{p}_stem.{conv}"),
    (r"pool1_subsample", "s1_fuse.{f2s}"),
    (r"res(\d)_\d+_branch2c_bn_subsample", "s{0}_fuse.{f2s}"),
    (r"res(\d)_(\d+)_branch1", "s{0}.pathway{p}_res{1}.branch1{bn}"),
    (r"res(\d)_(\d+)_branch2([abc])", "s{0}.pathway{p}_res{1}.branch2.{2}{bn}"),
    (r"pred", "head.projection"),
)


def slowfast_name(blob: str) -> str | None:
    """A blob of Caffe2 as facebookresearch/SlowFast calls it in torch; None for what is no weight."""
    fast = blob.startswith("t_")
    match = re.fullmatch(r"(.+?)(_bn)?_(s|b|rm|riv|w)", blob.removeprefix("t_"))
    if match is None or match[3] not in (ends := _NORM if match[2] else _CONV):
        return None
    for pattern, name in _BLOBS:
        if found := re.fullmatch(pattern, match[1]):
            bn = match[2] is not None
            words = {"p": int(fast), "conv": "bn" if bn else "conv", "f2s": "bn" if bn else "conv_f2s"}
            return f"{name.format(*found.groups(), bn='_bn' if bn else '', **words)}.{ends[match[3]]}"
    return None
