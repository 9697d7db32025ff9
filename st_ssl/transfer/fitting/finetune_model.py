"""An encoder with a head on it, and which part of the encoder is trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError
from st_ssl.encoders.base import Encoder
from st_ssl.training.optim import layer_numbers
from st_ssl.transfer.fitting.fit_config import LoraConfig, Mode
from st_ssl.transfer.tasks.base import Shown


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
        from st_ssl.transfer.fitting.lora import add_lora

        add_lora(encoder, lora)
    else:
        encoder.requires_grad_(mode != "frozen")
    return Tuned(encoder, head)


def _keep_below(encoder: Encoder, count: int) -> None:
    """Only the last ``count`` blocks, and what follows them, are trained."""
    layers, top = layer_numbers(name for name, _ in encoder.named_parameters())
    if count > top - 1:
        name = encoder.config.model_dump().get("name", type(encoder).__name__)
        has = f"has {top - 1} blocks" if top else "has no numbered blocks: leave the mode last out"
        raise ConfigError(f"last_blocks={count}: the encoder {name} {has}")
    for name, parameter in encoder.named_parameters():
        parameter.requires_grad_(layers[name] >= top - count)
