"""What layouts of plain video transformers share: names by block, the size told by shapes, and the three ways to keep
the queries, keys and values."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from st_ssl.augment.masking import Grid
from st_ssl.encoders.base import Encoder
from st_ssl.encoders.positions import resize_grid
from st_ssl.encoders.video_vit import SIZES, VideoViTConfig
from st_ssl.weights.base import Layout, LayoutConfig, WeightsError


@dataclass(frozen=True)
class Names:
    """How a repository names the parts of a transformer, without ``.weight`` and ``.bias``. ``qkv`` is one name for all
    three, or three names; ``block`` has ``{}`` for its number."""

    patches: str
    block: str
    qkv: tuple[str, ...]
    proj: str
    norm1: str = "norm1"
    norm2: str = "norm2"
    fc1: str = "mlp.fc1"
    fc2: str = "mlp.fc2"

    def part(self, ours: str) -> str:
        """Its name for a part of a block that we call ``ours``."""
        names = {"attn.proj": self.proj, "mlp.0": self.fc1, "mlp.2": self.fc2, "norm1": self.norm1, "norm2": self.norm2}
        return names[ours]


TIMM = Names("patch_embed.proj", "blocks.{}.", ("attn.qkv",), "attn.proj")
"""timm's names, which most repositories have."""


class ViTLayoutConfig(LayoutConfig):
    """``heads``: of attention, which no shape tells; null takes that of the published network of this width. ``depth``:
    the blocks that the file should have; null takes what the file says or that of the published network of this width.
    ``interpolate``: learned positions are resized where ``input.num_frames`` or ``input.size`` are not the file's."""

    heads: int | None = Field(default=None, gt=0)
    depth: int | None = Field(default=None, gt=0)
    interpolate: bool = False


class ViTLayout(Layout):
    """A plain video transformer, whatever its names are."""

    config: ViTLayoutConfig
    parts: Names = TIMM
    last_norm: str = "norm"
    heads: ClassVar[Mapping[int, int]] = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
    """The heads of the published networks, by their width."""
    depths: ClassVar[Mapping[int, int]] = {**{dim: depth for dim, depth, _ in SIZES.values()}, 1408: 40}
    """The blocks of the published networks, by their width: what tells a file that was cut off from a whole one."""
    governs: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^pos_embed_time$", "input.num_frames (layout.interpolate=true resizes learned positions)"),
        (r"^pos_embed_space$", "input.size (layout.interpolate=true resizes learned positions)"),
        (r"^pos_embed$", "input.num_frames or input.size (layout.interpolate=true resizes learned positions)"),
        (r"^embed\.weight$", "encoder.dim, encoder.patch or encoder.tubelet"),
        (r"mlp", "encoder.mlp_ratio"),
    )

    @abstractmethod
    def settings(self) -> dict[str, Any]: ...

    # What the shapes tell

    def size(self) -> dict[str, Any]:
        """The encoder's settings that shapes tell, and the heads."""
        self.expect(f"{self.parts.patches}.weight", f"{self.parts.block.format(0)}{self.parts.norm1}.weight")
        patches = self.state[f"{self.parts.patches}.weight"]
        if patches.ndim != 5 or patches.shape[1] != 3 or patches.shape[3] != patches.shape[4]:
            raise WeightsError(
                f"{self.published.path}: {self.names[f'{self.parts.patches}.weight']!r} has the size "
                f"{list(patches.shape)}: expected [D, 3, frames, pixels, pixels], of square tubelets of colour video"
            )
        dim, _, tubelet, patch, _ = patches.shape
        first = self.parts.block.format(0)
        self.expect(f"{first}{self.parts.fc1}.weight")
        hidden = len(self.state[f"{first}{self.parts.fc1}.weight"])
        heads, depth = self._told_together(dim)
        variant = next((name for name, shape in SIZES.items() if shape == (dim, depth, heads)), None)
        shape = {"variant": variant} if variant else {"dim": dim, "depth": depth, "heads": heads}
        ratio = mlp_ratio(hidden, dim)
        return {"name": "video_vit", **shape, "patch": patch, "tubelet": tubelet, "mlp_ratio": ratio}

    def _told_together(self, dim: int) -> tuple[int, int]:
        """Heads and blocks. One error tells all that has to be told of both."""
        (heads, wrong), (depth, lacking) = self._heads(dim), self._depth(dim)
        if wrong or lacking:
            raise WeightsError(f"{self.published.path}: {'; and it '.join(filter(None, (wrong, lacking)))}")
        return heads, depth

    def _heads(self, dim: int) -> tuple[int, str]:
        """The number of heads, and what is wrong with it."""
        told = self.config.heads or self.told("config", "num_attention_heads")
        heads = told or self.heads.get(dim, 0)
        if not heads:
            known = ", ".join(f"{width} ({number} heads)" for width, number in self.heads.items())
            return 0, (
                f"a network of width {dim}, whose heads no size tells; the published ones of {self.config.name} are "
                f"{known}: give layout.heads=NUMBER"
            )
        return heads, f"{heads} heads (layout.heads) do not divide the width {dim}" if dim % heads else ""

    def _depth(self, dim: int) -> tuple[int, str]:
        """The number of blocks, and what is wrong with it where it is not the one that the network should have: a file
        without its last blocks would make a smaller network that nobody has trained."""
        pattern = re.compile(re.escape(self.parts.block).replace(r"\{\}", r"(\d{1,6})"))
        numbers = {int(match[1]) for name in self.state if (match := pattern.match(name))}
        found = len(numbers)
        if lost := sorted(set(range(max(numbers))) - numbers):
            return found, f"has blocks up to {max(numbers)}, but not {', '.join(map(str, lost[:5]))}"
        known = (
            (self.config.depth, "layout.depth"),
            (self.told("config", "num_hidden_layers"), "num_hidden_layers of config.json"),
            (self.depths.get(dim), f"the published network of width {dim}"),
        )
        told, who = next(((depth, who) for depth, who in known if depth), (None, ""))
        if told is None:
            return found, (
                f"has {found} blocks of width {dim}, a width of no published network, so that nothing tells whether "
                f"these are all: give layout.depth={found} if they are"
            )
        wrong = f"has {found} blocks, and {who} has {told}: is the file whole? If it is: layout.depth={found}"
        return found, wrong if told != found else ""

    def told(self, place: str, key: str) -> int | None:
        """A whole number above 0 that the file tells beside its tensors; of a square, one."""
        value = self._beside(place).get(key)
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    def hub_config(self) -> dict[str, Any]:
        """The ``config.json`` beside a file of transformers. ``WeightsError`` where it is of another activation."""
        config = self._beside("config")
        if (activation := config.get("hidden_act", "gelu")) != "gelu":
            raise WeightsError(
                f"{self.published.path}: config.json: hidden_act {activation!r}: video_vit has gelu alone"
            )
        return config

    def hub_colours(self) -> dict[str, Any]:
        """The mean and deviation of colours that a file of transformers has beside it, where it has."""
        beside = self._beside("preprocessor")
        names = {"mean": "image_mean", "std": "image_std"}
        return {ours: tuple(beside[theirs]) for ours, theirs in names.items() if isinstance(beside.get(theirs), list)}

    def _beside(self, place: str) -> dict[str, Any]:
        """A file of settings beside the weights; {} where there is none, or files hold something else there."""
        about = self.published.about.get(place)
        return dict(about) if isinstance(about, Mapping) else {}

    def agree(self, **found: Any) -> None:
        """Raise ``WeightsError`` where ``config.json`` has another value of a key than was ``found`` in tensors."""
        config = self._beside("config")
        for key, value in found.items():
            if (told := config.get(key)) is not None and told != value:
                raise WeightsError(
                    f"{self.published.path}: config.json: {key} is {told!r}, and by the names and sizes of the tensors "
                    f"it is {value!r}: is the file whole, and the configuration its own?"
                )

    # Names

    def sources(self, key: str) -> tuple[str, ...]:
        if match := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", key):
            block = self.parts.block.format(match[1])
            if match[2] == "attn.qkv":
                return tuple(block + name for name in self.qkv(match[3]))
            return (f"{block}{self.parts.part(match[2])}.{match[3]}",)
        part, _, kind = key.rpartition(".")
        renamed = {"embed": self.parts.patches, "norm": self.last_norm}
        return (f"{renamed[part]}.{kind}",) if part in renamed else (key,)

    def qkv(self, kind: str) -> tuple[str, ...]:
        """The names in a block that the ``weight`` or ``bias`` of queries, keys and values are made of: all in one,
        three, or those of queries and values alone."""
        return tuple(f"{name}.{kind}" for name in self.parts.qkv)

    def make(self, key: str, found: Sequence[Tensor], encoder: Encoder) -> tuple[Tensor, str]:
        if key == "embed.weight":
            self._check_tubelets(tuple(found[0].shape[1:]), encoder)
            return found[0].flatten(1), "a convolution over tubelets as a linear layer"
        if key.endswith("attn.qkv.bias") and len(found) == 2:
            query, value = found
            return torch.cat([query, torch.zeros_like(query), value]), "keys have no bias: zeros"
        if key.endswith("attn.qkv.weight") or key.endswith("attn.qkv.bias"):
            return torch.cat(list(found)), "joined" if len(found) > 1 else ""
        return found[0], ""

    def _check_tubelets(self, found: tuple[int, ...], encoder: Encoder) -> None:
        """Raise ``WeightsError`` where tubelets [3, frames, pixels, pixels] are not the encoder's, which may have the
        same number of values."""
        own = encoder.config
        if isinstance(own, VideoViTConfig) and found != (3, own.tubelet, own.patch, own.patch):
            raise WeightsError(
                f"{self.published.path}: the tubelets of {self.names[f'{self.parts.patches}.weight']!r} are "
                f"{list(found[1:])} (frames, rows, columns), and those of encoder.tubelet and encoder.patch "
                f"{[own.tubelet, own.patch, own.patch]}"
            )

    # Learned positions

    def resized(self, table: Tensor, grid: Grid, encoder: Encoder, *, of: tuple[bool, bool]) -> tuple[Tensor, str]:
        """Learned positions [L, D] of ``grid`` for the encoder's, where that is asked for; else as they are. ``of``:
        whether they are positions in time, and in space."""
        assert encoder.grid is not None
        whole = encoder.grid
        target: Grid = (whole[0] if of[0] else 1, *(whole[1:] if of[1] else (1, 1)))
        if not self.config.interpolate or grid == target:
            return table, ""
        return resize_grid(table, grid, target), f"resized from {grid} to {target} (time, rows, columns)"

    def side(self, name: str, places: int) -> int:
        """The rows of a square of ``places``. ``WeightsError`` where they make none."""
        side = math.isqrt(max(places, 0))
        if side * side != places or not side:
            raise WeightsError(f"{self.published.path}: {self.names[name]!r} has {places} places, which make no square")
        return side


def mlp_ratio(hidden: int, dim: int) -> float:
    """The ratio by which ``int(dim * ratio)`` is ``hidden``: 48 / 11 times 1408 may be a hair below 6144."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)
