"""What every export shares: the network that is exported, where it is written, and the check of what was.

Two things add a format: a file in this folder with a configuration (``name: Literal["<name>"]``) and an ``Export``
registered by decorator, and a row in the tests.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, OutputError, UserError
from st_ssl.core.files import check_writable, sync
from st_ssl.core.random import keyed_seed
from st_ssl.core.registry import Registry
from st_ssl.encoders.base import Encoder, description

FORMAT = 1
TOLERANCE = 1e-4
"""The largest difference that an export may have, as a share of the largest number in the output."""
TRACED, CHECKED = 2, (1, 3)
"""Clips in the batch that a network is traced with, and in those that the result is checked with: sizes that differ, or
a size that was traced would not be noticed."""


class Network(nn.Module):
    """What is exported of a run: normalised clips [B, 3, T, H, W] to ``pooled`` [B, D], ``map`` [B, D, T', H', W'] or
    ``tokens`` [B, L, D], and of a fine-tuned network the ``scores`` [B, K] of its ``classes``.

    ``head`` is called with the features and what was shown, of which a head for clips makes no use.
    """

    def __init__(self, encoder: Encoder, head: nn.Module | None = None, classes: Sequence[str] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.classes = list(classes)
        self.eval().requires_grad_(False)

    def forward(self, clip: Tensor) -> dict[str, Tensor]:
        features = self.encoder(clip)
        named = {"pooled": features.pooled, "map": features.map, "tokens": features.tokens}
        if self.head is not None:
            named["scores"] = self.head(features, None)
        return {name: value for name, value in named.items() if value is not None}

    def clips(self, batch: int) -> Tensor:
        """Clips of noise as the encoder takes them, the same for the same ``batch``."""
        input = self.encoder.input
        generator = torch.Generator().manual_seed(keyed_seed("export", batch))
        return torch.randn(batch, 3, input.num_frames, input.size, input.size, generator=generator)


class Export(ABC):
    """A format. ``suffix`` is that of the file, "" where it is a folder; ``clouds``: whether encoders of clouds can be
    exported, too; ``heads``: whether a head is."""

    suffix: ClassVar[str]
    summary: ClassVar[str]
    clouds: ClassVar[bool] = False
    heads: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        self.config = config

    def require(self, network: Network) -> None:
        """Raise ``ConfigError`` where the format has no place for this network, ``MissingDependencyError`` where it
        needs a package that is not there."""
        return

    @abstractmethod
    def write(self, network: Network, place: Path, about: dict[str, Any]) -> None:
        """Write the file (or files beside it), or the folder, ``place``; ``about``: what is to be told of it."""

    @abstractmethod
    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        """What is at ``place``, the export of ``network``, read as its users would, given each of ``clips``: outputs by
        name."""


EXPORTS: Registry[Export] = Registry("format of exports", "st_ssl.weights.exporting")


@dataclass(frozen=True)
class Checked:
    """How far an export is from the network, over the batches of ``CHECKED``: the ``largest`` absolute difference of
    each output, and that as a share of the largest number in it."""

    largest: dict[str, float]
    share: dict[str, float]

    @property
    def worst(self) -> float:
        return reduce(_larger, self.share.values())


def export_network(network: Network, name: str, output: Path) -> dict[str, Any]:
    """Export ``network`` to the format ``name`` at ``output``, which must not be there yet.

    What was written is read again and compared with the network on random clips, of batches of another size than the
    one it was traced with. Returns, ready for JSON, what is kept beside it: the encoder, its input, the outputs and
    the differences. Raises ``UserError``, and leaves nothing behind, where they are above ``TOLERANCE``, or the format
    cannot have this network.
    """
    export = EXPORTS.build(EXPORTS.config(name)())
    if network.encoder.modality != "video" and not export.clouds:
        able = [other for other in EXPORTS.names() if EXPORTS.registered(other).clouds]
        raise ConfigError(
            f"--to {name}: is for encoders of clips, and this one ({_name(network.encoder)}) is fed clouds of any "
            f"size; there is --to {', '.join(able)}"
        )
    if network.head is not None and not export.heads:
        network = Network(network.encoder)
    export.require(network)
    about = {"format": FORMAT, "exported": name, **_described(network), "st_ssl": description(network.encoder)}
    with _placed(output, export.suffix) as place:
        with _explained(output, name, network):
            export.write(network, place, about)
            checked = _check(export, network, place)
        about["check"] = {
            "batches": list(CHECKED),
            "largest_difference": checked.largest,
            "share_of_largest_output": checked.share,
        }
        if not checked.worst <= TOLERANCE:  # NaN is not
            raise UserError(
                f"{output}: not kept: what was exported differs from the network by {checked.worst:.1e} of its largest "
                f"output (at most {TOLERANCE:.0e}): {_told(checked)}"
            )
        record = place / "export.json" if place.is_dir() else place.with_name(f"{place.name}.json")
        record.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return about


@contextmanager
def _explained(output: Path, name: str, network: Network) -> Iterator[None]:
    """Raise ``UserError`` in place of whatever the exporters and runtimes of others raise."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # they share no base class
        first = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{output}: not kept: {_name(network.encoder)} could not be exported by --to {name}: "
            f"{type(error).__name__}: {first}"
        ) from error


def _name(encoder: Encoder) -> str:
    return str(encoder.config.model_dump()["name"])


def _described(network: Network) -> dict[str, Any]:
    """Input and outputs, for those who have nothing but the file."""
    if network.encoder.modality != "video":
        return {"input": network.encoder.input.model_dump()}
    input = network.encoder.input
    with torch.no_grad():
        outputs = network(network.clips(1))
    return {
        "input": {
            "name": "clip",
            "shape": ["batch", 3, input.num_frames, input.size, input.size],
            "axes": "batch, RGB, frames, rows, columns",
            "values": "float32: RGB in 0 … 1, less the mean, over the standard deviation",
            "frames": input.num_frames,
            "stride": input.stride,
            "size": input.size,
            "mean": list(input.mean),
            "std": list(input.std),
        },
        "outputs": {name: ["batch", *value.shape[1:]] for name, value in outputs.items()},
        **({"classes": network.classes} if network.classes else {}),
    }


def _check(export: Export, network: Network, place: Path) -> Checked:
    if network.encoder.modality != "video":  # the format has compared the weights themselves
        return Checked({"weights": 0.0}, {"weights": 0.0})
    clips = [network.clips(batch) for batch in CHECKED]
    largest: dict[str, float] = {}
    share: dict[str, float] = {}
    with torch.no_grad():
        for clip, found in zip(clips, export.run(network, place, clips), strict=True):
            for name, value in network(clip).items():
                if found[name].shape != value.shape:
                    raise UserError(
                        f"{place.name}: not kept: what was exported gives {name} of the size "
                        f"{list(found[name].shape)}, and the network {list(value.shape)}"
                    )
                difference = float((found[name] - value).abs().max())
                size = max(float(value.abs().max()), torch.finfo(value.dtype).tiny)
                largest[name] = _larger(largest.get(name, 0.0), difference)
                share[name] = _larger(share.get(name, 0.0), difference / size)
    return Checked(largest, share)


def _larger(one: float, other: float) -> float:
    """The larger of two; NaN if one of them is."""
    return other if other != other or other > one else one


def _told(checked: Checked) -> str:
    return ", ".join(f"{name} by {value:.1e}" for name, value in checked.largest.items())


@contextmanager
def _placed(output: Path, suffix: str) -> Iterator[Path]:
    """A place in a hidden folder beside ``output`` to write to: where the block ends well all that is in that folder
    moves beside ``output``, else it is removed."""
    if suffix and output.suffix != suffix:
        raise ConfigError(f"--output {output}: the name of such a file ends in {suffix}: {output.with_suffix(suffix)}")
    check_writable(output.parent, "--output ")
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        place = Path(folder) / output.name
        if not suffix:
            place.mkdir()
        _refuse_present(output.parent, output.name, f"{output.name}.json")
        yield place
        made = sorted(Path(folder).iterdir())
        _refuse_present(output.parent, *(path.name for path in made))
        for path in made:
            for file in path.iterdir() if path.is_dir() else [path]:
                sync(file)
            path.rename(output.parent / path.name)


def _refuse_present(folder: Path, *names: str) -> None:
    for name in names:
        if (folder / name).exists():
            raise OutputError(f"{folder / name} is there already: nothing was changed, choose another name")
