"""What every export shares: the network that is exported, where it is written, and the check of what was.

Two things add a format: a file in this folder with an ``Export``, and a row in the tests.
"""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError, OutputError, UserError
from st_ssl.core.files import check_writable, sync
from st_ssl.core.random import keyed_seed
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
    """A format, by its ``name``. ``suffix`` is that of the file, "" where it is a folder; ``clouds``: whether encoders
    of clouds can be exported, too; ``heads``: whether a head is."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    clouds: ClassVar[bool] = False
    heads: ClassVar[bool] = True

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


@cache
def exports() -> dict[str, type[Export]]:
    """The formats by name: every ``Export`` in a module of this folder."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"st_ssl.weights.exporting.{module.name}")
    return {kind.name: kind for kind in sorted(Export.__subclasses__(), key=lambda kind: kind.name)}


def export_network(network: Network, name: str, output: Path) -> dict[str, Any]:
    """Export ``network`` to the format ``name`` at ``output``, which must not be there yet.

    What was written is read again and compared with the network on random clips, of batches of another size than the
    one it was traced with. Returns, ready for JSON, what is kept beside it: the encoder, its input, the outputs and
    the differences. Raises ``UserError``, and leaves nothing behind, where they are above ``TOLERANCE``, or the format
    cannot have this network.
    """
    export = exports()[name]()
    if network.encoder.modality != "video" and not export.clouds:
        able = [other for other, kind in exports().items() if kind.clouds]
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
            largest, share = _check(export, network, place)
        about["check"] = {
            "batches": list(CHECKED),
            "largest_difference": largest,
            "share_of_largest_output": share,
        }
        worst = max(share.values(), key=_badness)
        if not worst <= TOLERANCE:  # NaN is not
            told = ", ".join(f"{name} by {value:.1e}" for name, value in largest.items())
            raise UserError(
                f"{output}: not kept: what was exported differs from the network by {worst:.1e} of its largest output "
                f"(at most {TOLERANCE:.0e}): {told}"
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


def _check(export: Export, network: Network, place: Path) -> tuple[dict[str, float], dict[str, float]]:
    """How far an export is from the network, over the batches of ``CHECKED``: the largest absolute difference of each
    output, and that as a share of the largest number in it."""
    if network.encoder.modality != "video":  # the format has compared the weights themselves
        return {"weights": 0.0}, {"weights": 0.0}
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
                largest[name] = max(largest.get(name, 0.0), difference, key=_badness)
                share[name] = max(share.get(name, 0.0), difference / size, key=_badness)
    return largest, share


def _badness(difference: float) -> float:
    """What orders differences: NaN is the worst."""
    return math.inf if math.isnan(difference) else difference


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
        _refuse_present(output, output.with_name(f"{output.name}.json"))
        yield place
        made = sorted(Path(folder).iterdir())
        _refuse_present(*(output.parent / path.name for path in made))
        for path in made:
            for file in path.iterdir() if path.is_dir() else [path]:
                sync(file)
            path.rename(output.parent / path.name)


def _refuse_present(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise OutputError(f"{path} is there already: nothing was changed, choose another name")
