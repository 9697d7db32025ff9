"""An encoder with a head on it: which part of the encoder is trained, or what is added to it; and such a network on
disk: the files of its encoder, as any encoder has them, and those of its head."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError, MissingDependencyError, UserError, nearest
from st_ssl.core.files import missing_folder, replace_text, write_atomically
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.encoders.base import Encoder, load_encoder, save_encoder
from st_ssl.training.optim import layer_numbers
from st_ssl.transfer.fitting.finetune_config import LoraConfig, Mode
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS, Task

FORMAT = 1
"""Of ``head.json``."""

TARGETS = ("attn.qkv", "attn.proj")
"""The layers that low-rank additions go to, unless others are named."""


class Tuned(nn.Module):
    """An encoder with a head on it. ``frozen``: whether all of the encoder stays as it is, or none of it; None: that
    which requires no gradient. What stays as it is stays in evaluation mode, batch norm too."""

    def __init__(self, encoder: Encoder, head: nn.Module, frozen: bool | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        if frozen is not None:
            encoder.requires_grad_(not frozen)
        self._encoder_learns = any(p.requires_grad for p in encoder.parameters())

    def train(self, mode: bool = True) -> Tuned:
        super().train(mode)
        if mode:
            _rest(self.encoder)
        return self

    def learned(self) -> dict[str, Tensor]:
        """What training changes, by its names in the state dict, of a network in training mode: the tensors themselves,
        as long as they are not moved to another device."""
        names = {name for name, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
        for path, module in self.named_modules(remove_duplicate=False):
            if module.training:
                names |= {f"{path}.{name}" for name in module._buffers}
        return {name: tensor for name, tensor in self.state_dict().items() if name in names}

    def forward(self, shown: Shown) -> Tensor:
        """Scores [R, K]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._encoder_learns):
            features = self.encoder(shown.view.content)
        return self.head(features, shown)


def _rest(module: nn.Module) -> None:
    """Parts of ``module`` that have weights none of which is trained go to evaluation mode."""
    weights = list(module.parameters())
    if weights and not any(p.requires_grad for p in weights):
        module.eval()
        return
    for child in module.children():
        _rest(child)


def tuned(encoder: Encoder, head: nn.Module, mode: Mode, last_blocks: int, lora: LoraConfig) -> Tuned:
    """``encoder`` with ``head``, of which ``mode`` says what is trained. Raises ``ConfigError`` where the encoder has
    not what that needs, and ``MissingDependencyError`` for "lora" without its package."""
    if mode == "last":
        _keep_below(encoder, last_blocks)
    elif mode == "lora":
        add_lora(encoder, lora)
    else:
        encoder.requires_grad_(mode != "frozen")
    return Tuned(encoder, head)


def _keep_below(encoder: Encoder, count: int) -> None:
    """Only the last ``count`` blocks, and what follows them, are trained."""
    layers, top = layer_numbers(name for name, _ in encoder.named_parameters())
    if count > top - 1:
        name = getattr(encoder.config, "name", type(encoder).__name__)
        has = f"has {top - 1} blocks" if top else "has no numbered blocks: leave the mode last out"
        raise ConfigError(f"last_blocks={count}: the encoder {name} {has}")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(layers[name] >= top - count)


def add_lora(encoder: Encoder, config: LoraConfig) -> None:
    """Low-rank adaptation (LoRA, Hu et al. 2022) by the package peft: give the layers that ``config`` names their
    additions, which are zero at first; all other weights are frozen. ``merge_lora`` undoes it. Raises ``ConfigError``
    that names the layers where one asked for is not there."""
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError("peft", "lora", "the mode lora") from error
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = [name for name, module in encoder.named_modules() if isinstance(module, kinds)]
    targets = config.targets or TARGETS
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            known = sorted({re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name) for name in layers})
            ends = {".".join(name.split(".")[-1 - target.count(".") :]) for name in layers}
            raise ConfigError(
                f"lora.targets: the encoder has no layer whose name ends in {target!r}{nearest(target, ends)} "
                f"(its layers: {', '.join(known)})"
            )
    own: Any = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
    settings = peft.LoraConfig(**own, target_modules=list(targets))
    # Within another module: peft before 0.19 takes the `config` of what it is given for one of transformers.
    peft.inject_adapter_in_model(settings, nn.ModuleDict({"encoder": encoder}))


def merge_lora(encoder: Encoder) -> None:
    """Add what was learned to the weights it belongs to: the encoder is as plain as before ``add_lora``."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for path, module in list(encoder.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent, _, name = path.rpartition(".")
            setattr(encoder.get_submodule(parent), name, module.get_base_layer())


def save_tuned(model: Tuned, task: Task, classes: Sequence[str], about: dict[str, Any], folder: Path) -> None:
    """Write ``encoder.safetensors`` and ``encoder.json``, ``head.safetensors``, and ``head.json``: the configuration of
    the task, which the head is built from, the names of its classes, and ``about``, which fit it was."""
    from safetensors.torch import save_file

    save_encoder(model.encoder, folder)
    with write_atomically(folder / "head.safetensors") as unfinished:
        save_file({name: t.detach().cpu().contiguous() for name, t in model.head.state_dict().items()}, unfinished)
    described = {"format": FORMAT, "task": task.saved().model_dump(mode="json"), "classes": list(classes), "fit": about}
    replace_text(folder / "head.json", json.dumps(described, indent=2) + "\n")


def find_tuned(folder: Path) -> Path:
    """``folder`` where ``save_tuned`` wrote there, or the only one of the folders below it where it did. Raises
    ``ConfigError`` where there is none, or a choice."""
    if (folder / "head.json").is_file():
        return folder
    inside = sorted(file.parent for file in folder.glob("**/head.json"))
    if len(inside) > 1:
        raise ConfigError(f"{folder} holds several fine-tuned networks: name one of {', '.join(map(str, inside))}")
    if not inside:
        check_finished(folder)
        why = missing_folder(folder) or "expected the folder of a fit, such as RUN/finetune/NAME/full_100_0"
        raise ConfigError(f"{folder}: no head.json: {why}; `finetune` keeps one unless save=none")
    return inside[0]


def check_finished(folder: Path) -> None:
    """Raise ``ConfigError`` where a fine-tuning was stopped that has its fits in ``folder``, or would write it."""
    states = list(folder.glob("**/*_unfinished*"))
    for place in (folder, folder.parent):
        states += place.parent.glob(f"{glob.escape(place.name)}_unfinished*")
    found = sorted(state.name for state in states if (state / "about.json").is_file())
    if found:
        name = found[0].partition("_unfinished")[0]
        raise ConfigError(f"{folder}: its fine-tuning {name!r} is not finished; run the same command to go on")


def load_tuned(folder: Path) -> tuple[Tuned, Task, list[str]]:
    """The network that ``save_tuned`` wrote, in eval mode on the CPU, its task, and the names of its classes.

    Raises ``UserError`` naming the file where one is damaged or does not fit the others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    encoder = load_encoder(folder)
    file = folder / "head.json"
    try:
        described = load_json(file.read_text(encoding="utf-8"))
        if described["format"] > FORMAT:
            raise ValueError(f"format {described['format']} is newer than this st_ssl understands ({FORMAT})")
        task: Task = TASKS.build(TASKS.config(described["task"]["name"]).model_validate(described["task"]))
        classes = [str(name) for name in described["classes"]]
    except (OSError, *NOT_PLAIN, RecursionError) as error:  # also those of JSON, of pydantic and of unknown names
        raise UserError(f"{file}: not the description of a head: {error}") from error
    task.restore(classes)
    head = task.head(encoder)
    file = folder / "head.safetensors"
    try:
        head.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{file}: cannot be loaded: {error}") from error
    return Tuned(encoder, head, True).eval(), task, classes
