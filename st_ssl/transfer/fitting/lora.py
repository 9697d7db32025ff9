"""Low-rank adaptation of an encoder (LoRA, Hu et al. 2022), by the package peft."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from st_ssl.core.errors import ConfigError, MissingDependencyError, nearest
from st_ssl.encoders.base import Encoder
from st_ssl.transfer.fitting.fit_config import LoraConfig

TARGETS = ("attn.qkv", "attn.proj")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependencyError("peft", "lora", "the mode lora") from error
    return peft


def add_lora(encoder: Encoder, config: LoraConfig) -> None:
    """Give the layers that ``config`` names their low-rank additions, which are zero at first; all other weights are
    frozen. ``merge_lora`` undoes it. Raises ``ConfigError`` that names the layers where one asked for is not there."""
    peft = _peft()
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
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(targets)
    )
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
