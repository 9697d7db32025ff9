"""The contract of every encoder, and the two files that carry one from pretraining to transfer."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, UserError
from st_ssl.core.files import missing_folder, replace_text, write_atomically
from st_ssl.core.inputs import INPUTS, CloudNeeds, InputConfig, Modality, PointInputConfig
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.core.registry import Registry
from st_ssl.core.types import Features, PointBatch
from st_ssl.data.base import DataSource

if TYPE_CHECKING:
    from st_ssl.augment.masking import Grid

FORMAT = 1


AnyInput = InputConfig | PointInputConfig
InputT = TypeVar("InputT", bound=AnyInput)
ContentT = TypeVar("ContentT", bound=Tensor | PointBatch)


class Encoder(nn.Module, ABC, Generic[InputT, ContentT]):
    """A network from clips, or clouds, to ``Features``. ``embed_dim`` is known without running it.

    ``input`` says what it is fed. It is a ``ClipEncoder`` or a ``CloudEncoder``.
    """

    modality: ClassVar[Modality] = "video"
    per_point: ClassVar[bool] = False
    """Whether its features of clouds have ``points``, one for each point."""
    config: Config
    input: InputT
    embed_dim: int
    grid: Grid | None = None
    """The token grid (T', H', W') of encoders that can be fed a part of their tokens, else None."""

    def __init__(self, config: Config, input: InputT) -> None:
        super().__init__()
        self.config = config
        self.input = input
        self.prepared: dict[str, Any] = {}
        """How the data that it was trained on were read, as plain data (ranges of intensities and colours, say): other
        data are read in the same way."""
        self.frozen = False

    def freeze(self) -> Self:
        """From now on it is in evaluation mode, whatever is around it, and without gradients."""
        self.frozen = True
        return self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """As always, but a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def resized(self, name: str, value: Tensor, source: ClipEncoder | CloudEncoder) -> Tensor | None:
        """The tensor ``name`` of ``source``, an encoder of another input, for this one: positions interpolated; None
        where that makes no sense."""
        return None

    @classmethod
    def needs(cls, config: Any, input: Any) -> CloudNeeds:
        """What an encoder of this configuration needs of each cloud: one with less is a broken sample."""
        return CloudNeeds()

    @abstractmethod
    def forward(self, clip: ContentT, keep: Tensor | None = None) -> Features:
        """Clips float [B, C, T, H, W], or a ``PointBatch`` of B clouds, to features; ``keep`` int64 [B, K]: the tokens
        to see, for encoders that can be shown a part of them."""


ClipEncoder = Encoder[InputConfig, Tensor]
CloudEncoder = Encoder[PointInputConfig, PointBatch]

ENCODERS: Registry[Encoder[Any, Any]] = Registry("encoder", "st_ssl.encoders")


def description(encoder: Encoder) -> dict[str, Any]:
    """What ``encoder.json`` has of an encoder, as JSON: all but its weights."""
    config, input = (part.model_dump(mode="json") for part in (encoder.config, encoder.input))
    told = {"data": encoder.prepared} if encoder.prepared else {}
    return {"format": FORMAT, "encoder": config, "input": input} | told


def parse_description(description: dict[str, Any], where: str) -> tuple[Config, AnyInput]:
    """The configurations in a ``description``. Raises ``UserError``, that names ``where`` it is from, where it is not
    understood."""
    try:
        if description["format"] > FORMAT:
            raise ValueError(f"format {description['format']} is newer than this st_ssl understands ({FORMAT})")
        encoder = ENCODERS.config(description["encoder"]["name"]).model_validate(description["encoder"])
        modality = ENCODERS.registered(description["encoder"]["name"]).modality
        return encoder, INPUTS[modality].model_validate(description["input"])
    except (*NOT_PLAIN, RecursionError) as error:  # also those of pydantic and of an unknown name
        raise UserError(f"{where}: not an encoder description: {error}") from error


def prepared_of(directory: Path) -> dict[str, Any]:
    """How the data of the encoder in ``directory`` were read, as its ``encoder.json`` says; {} where it does not.
    Raises ``UserError`` where that is nothing that can be understood."""
    file = Path(directory) / "encoder.json"
    try:
        told = load_json(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except NOT_PLAIN as error:
        raise UserError(f"{file}: not an encoder description: {error}") from error
    return parse_prepared(told, str(file))


def parse_prepared(description: dict[str, Any], where: str) -> dict[str, Any]:
    """The key ``data`` of a ``description``: ranges by name, each a lowest and a highest number, and what is true.
    Raises ``UserError``, that names ``where`` it is from, for anything else."""
    try:
        told = description.get("data", {})
        facts = {str(name): True for name, value in told.items() if value is True}
        ranges = ((str(name), ends) for name, ends in told.items() if name not in facts)
        return facts | {name: [float(low), float(high)] for name, (low, high) in ranges}
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{where}: data: expected [lowest, highest] by names: {error}") from error


def serve(source: DataSource, directory: Path, described: tuple[Config, AnyInput] | None = None) -> DataSource:
    """``source``, set to read its samples as those of the encoder in ``directory`` were, and to take those that have
    less than it needs (as ``described``, where that differs) for broken."""
    config, input = described or describe_encoder(directory)
    source.follow(prepared_of(directory), ENCODERS.registered(config.name).needs(config, input))  # type: ignore[attr-defined]
    return source


def save_encoder(encoder: Encoder, directory: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write ``encoder.safetensors`` and ``encoder.json``, all that is needed to use the encoder elsewhere.

    ``state`` replaces the encoder's own weights (e.g. by their moving average).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    weights = {name: t.detach().cpu().contiguous() for name, t in (state or encoder.state_dict()).items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with write_atomically(directory / "encoder.safetensors", alone=True) as unfinished:
            save_file(weights, unfinished)
        replace_text(directory / "encoder.json", json.dumps(description(encoder), indent=2) + "\n", alone=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{directory}: the encoder could not be written: {error}") from error


def describe_encoder(directory: Path) -> tuple[Config, AnyInput]:
    """The configurations in ``encoder.json``. Raises ``ConfigError`` where there is none, ``UserError`` where it is not
    understood."""
    file = Path(directory) / "encoder.json"
    if not file.is_file():
        inside = sorted(path.parent.name for path in Path(directory).glob("*/encoder.json"))
        hint = f" (but these in it are: {', '.join(inside)})" if inside else ""
        why = missing_folder(Path(directory)) or f"this is not the folder of a pretrained encoder{hint}"
        raise ConfigError(f"{directory}: no encoder.json: {why}")
    try:
        described = load_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not an encoder description: {error}") from error
    return parse_description(described, str(file))


def load_encoder(directory: Path, described: tuple[Config, AnyInput] | None = None) -> Encoder:
    """The encoder that ``save_encoder`` wrote, in eval mode on the CPU; built from ``described`` where that is given,
    which may differ in what its weights do not depend on, as the number of points.

    Raises ``UserError`` naming the file where it is missing, damaged, or its keys are not those of the encoder.
    """
    config, input = described or describe_encoder(directory)
    encoder = ENCODERS.build(config, input)
    file = Path(directory) / "encoder.safetensors"
    found = load_weights(file)
    try:
        encoder.load_state_dict(found)
    except RuntimeError as error:
        raise UserError(f"{file}: cannot be loaded: {error}") from error
    encoder.prepared = prepared_of(directory)
    return encoder.eval()


def load_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name. Raises ``UserError`` where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be loaded: {error}") from error
    return found


def count_parameters(module: nn.Module) -> int:
    """The number of trainable scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def random_encoder(config: Config, input: AnyInput, seed: int) -> Encoder:
    """The same network at random initialisation, in eval mode: the baseline of every probe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ENCODERS.build(config, input).eval()
