"""What a layout of published weights is: how a repository's names, shapes and habits become those of our encoders.

Three things add one: a file in ``layouts`` with a configuration model (``name: Literal["<name>"]``, and options if it
has any) and a ``Layout`` registered by decorator, and a test that compares its features with the original network's.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from st_ssl.core.config import Config
from st_ssl.core.errors import UserError, nearest
from st_ssl.core.registry import Registry
from st_ssl.encoders.base import Encoder


class WeightsError(UserError):
    """Weights that cannot be read, or are not those that they are taken for."""


class ForeignError(WeightsError):
    """Weights of another layout than the one that they are read by."""


class SeveralError(WeightsError):
    """A file with several networks where one is looked for, and no word of which it is to be."""


@dataclass(frozen=True)
class Published:
    """What is in a file of weights, or in a folder of them.

    ``groups`` are the state dicts in it by their place in the file: "" for its own level, "model", "model.module".
    ``about`` is what else it tells as plain data: settings of the training (``args``), numbers, ``config`` (the
    ``config.json`` of a folder). ``skipped`` are places that hold no weights of a network, and why.
    """

    path: Path
    groups: dict[str, dict[str, Tensor]]
    about: dict[str, Any]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Made:
    """The tensor of one of our keys, the published names it was made of, and what was done to it if anything was."""

    tensor: Tensor
    sources: tuple[str, ...]
    note: str = ""


class LayoutConfig(Config):
    """What all layouts can be told (``layout.<key>=value``): ``container`` is where in the file the network is, for
    files that hold several (null: where this layout expects it)."""

    name: str
    container: str | None = None


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""The types that weights are published in."""
WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)
"""What counters can be, besides."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of what networks are wrapped in to be trained: DistributedDataParallel, torch.compile."""


class Layout(ABC):
    """One way to publish weights. It is built from its configuration and what is in a file, and tells the encoder that
    the file is for and which of its names make each of our keys. ``WeightsError`` where the file is not of this layout.

    ``state`` is the chosen state dict under the names that are left once prefixes are taken off.
    """

    summary: ClassVar[str]
    """For ``--list``: which files these are."""
    certain: ClassVar[bool] = False
    """Whether a file that can be of this layout is of no other one."""
    follows: ClassVar[str | None] = None
    """The layout that a file is taken for where it can be of both: one with the same names."""
    containers: ClassVar[tuple[str, ...]] = ("model_state", "state_dict", "model", "module", "")
    """Where in a file the network may be, the best first. "" is the file's own level. What is deeper in one of these
    (``model.module``) counts as in it."""
    prefixes: ClassVar[tuple[str, ...]] = ("backbone.", "encoder.", "model.")
    """Taken off the beginnings of names, in any number and order, besides ``WRAPPERS``."""
    left: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Names that are left over on purpose (a pattern that the whole name has to match), and why."""
    governs: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Which settings decide the shape of one of our keys (a pattern that is searched for in it), for errors."""

    def __init__(self, config: LayoutConfig, published: Published) -> None:
        self.config = config
        self.published = published
        self.container = self._choose(published.groups, config.container)
        self.names = stripped(published.groups[self.container], (*WRAPPERS, *self.prefixes), published.path)
        group = published.groups[self.container]
        self.state: dict[str, Tensor] = {short: group[name] for short, name in self.names.items()}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """``{"encoder": {"name": …}, "input": {…}}``: what the names and shapes of the file tell, on which the user's
        overrides are laid. ``WeightsError`` where they tell of another network."""

    @abstractmethod
    def sources(self, key: str) -> tuple[str, ...]:
        """The names in ``state`` that our ``key`` is made of; names that are not there make it a missing key."""

    def make(self, key: str, found: Sequence[Tensor], encoder: Encoder) -> tuple[Tensor, str]:
        """The tensor of our ``key`` from those of its ``sources``, and what was done ("" for a new name alone)."""
        return found[0], ""

    def why_left(self, name: str) -> str | None:
        """Why a name of ``state`` that no key was made of is left over; None where nothing explains it."""
        return next((why for pattern, why in self.left if re.fullmatch(pattern, name)), None)

    def translate(self, encoder: Encoder) -> dict[str, Made]:
        """Every key of ``encoder`` that the file has, in the encoder's order. Raises ``WeightsError`` for numbers of a
        type that is no weight's, as of quantised networks: taken as they are they would be others."""
        made = {}
        for key, own in encoder.state_dict().items():
            sources = self.sources(key)
            if all(name in self.state for name in sources):
                allowed = FLOATS if own.is_floating_point() else (*WHOLE, *FLOATS)
                if odd := [name for name in sources if self.state[name].dtype not in allowed]:
                    kind, *types = (str(t).removeprefix("torch.") for t in (self.state[odd[0]].dtype, *allowed))
                    told = f"{self.names[odd[0]]!r} holds {kind}: expected one of {', '.join(types)}"
                    raise WeightsError(f"{self.published.path}: {told}")
                tensor, note = self.make(key, [self.state[name] for name in sources], encoder)
                made[key] = Made(tensor, sources, note)
            elif key.endswith("num_batches_tracked"):  # old files have none, and it decides nothing
                made[key] = Made(torch.zeros_like(own, device="cpu"), (), "zero: the file has none")
        return made

    def _choose(self, groups: Mapping[str, Mapping[str, Tensor]], told: str | None) -> str:
        """The group that is the network, by the names of its containers. Raises ``SeveralError`` where several are in
        the same, as a teacher and a student."""
        containers = self.containers if told is None else (told,)
        for container in containers:
            within = [place for place in groups if container and place.startswith(f"{container}.")]
            if container in groups:
                return container
            if len(within) > 1:
                raise SeveralError(
                    f"{self.published.path}: has tensors in {', '.join(within)}, of which {self.config.name} expects "
                    f"one: name it by layout.container={within[0]}"
                )
            if within:
                return within[0]
        places = ", ".join(place or "its own level" for place in groups) or "no place"
        if told is not None:
            raise WeightsError(f"{self.published.path}: layout.container={told}: it has tensors in {places}")
        expected = ", ".join(container or "its own level" for container in containers)
        raise ForeignError(
            f"{self.published.path}: has tensors in {places}; {self.config.name} looks for them in {expected} (another "
            "place is named by layout.container=PLACE)"
        )

    def expect(self, *names: str) -> None:
        """Raise ``ForeignError`` where ``state`` lacks one of these names, by which the layout is told."""
        for name in names:
            if name not in self.state:
                raise self.foreign(f"{name!r}{nearest(name, self.state)}")

    def foreign(self, lacks: str) -> ForeignError:
        """The error that a file is not of this layout, as it has no ``lacks``."""
        first = ", ".join(list(self.state)[:3])
        return ForeignError(
            f"{self.published.path}: is not of the layout {self.config.name}: it has no {lacks} (its {len(self.state)} "
            f"names begin with {first})"
        )

    def count(self, pattern: str) -> int:
        """How many different numbers stand where ``pattern`` has its group, in names that begin like it: of blocks."""
        return len({match[1] for name in self.state if (match := re.match(pattern, name))})


def stripped(names: Iterable[str], prefixes: Sequence[str], path: Path) -> dict[str, str]:
    """Names without ``prefixes``, which may be nested in any order, and the names that they come from. Raises
    ``ForeignError`` where two names become one."""
    result: dict[str, str] = {}
    for name in names:
        short = name
        while prefix := next((p for p in prefixes if short.startswith(p) and len(short) > len(p)), None):
            short = short.removeprefix(prefix)
        if short in result:
            raise ForeignError(f"{path}: {result[short]!r} and {name!r} are both {short!r} once prefixes are taken off")
        result[short] = name
    return result


LAYOUTS: Registry[Layout] = Registry("layout of weights", "st_ssl.weights.layouts")
