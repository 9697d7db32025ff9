from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.types import Mask, View
from st_ssl.encoders.base import ENCODERS, InputConfig
from st_ssl.encoders.video_vit import VideoViTConfig
from st_ssl.methods.base import METHODS
from st_ssl.methods.masked.videomae import VideoMAEConfig
from st_ssl.objectives.reconstruction import masked_mse, normalised_pixels
from st_ssl.parts.masked_decoder import DecoderConfig, MaskedDecoder
from tests.encoders import hf_videomae
from tests.weights.published import imported


def patches() -> torch.Tensor:
    return torch.rand(2, 3, 3 * 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4 + 1


def test_channels_are_normalised_each_on_its_own() -> None:
    x = patches()
    result = normalised_pixels(x, 3, "channel", eps=0.01).numpy()
    for b, m, c in np.ndindex(2, 3, 3):
        values = x[b, m, 8 * c : 8 * c + 8].numpy()
        expected = (values - values.mean()) / (values.std(ddof=1) + 0.01)
        np.testing.assert_allclose(result[b, m, 8 * c : 8 * c + 8], expected, rtol=1e-12)


def test_patches_are_normalised_as_a_whole() -> None:
    x = patches()
    result = normalised_pixels(x, 3, "patch", eps=0.01).numpy()
    for b, m in np.ndindex(2, 3):
        values = x[b, m].numpy()
        np.testing.assert_allclose(
            result[b, m], (values - values.mean()) / np.sqrt(values.var(ddof=1) + 0.01), rtol=1e-12
        )


def test_none_leaves_pixels_alone() -> None:
    assert torch.equal(normalised_pixels(patches(), 3, "none"), patches())


@pytest.mark.parametrize("kind", ["channel", "patch"])
def test_a_flat_patch_is_finite(kind: Any) -> None:
    assert torch.equal(normalised_pixels(torch.full((1, 1, 24), 0.5), 3, kind), torch.zeros(1, 1, 24))


def test_masked_mse() -> None:
    prediction, target = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3, dtype=torch.float64)
    prediction[0, 1, 2] = 3.0
    target[1] = 2.0
    error = masked_mse(prediction, target)
    assert error.dtype == torch.float64
    torch.testing.assert_close(error, torch.tensor([9 / 6, 4.0], dtype=torch.float64))


def test_decoder_predicts_in_the_order_of_the_masked_tokens() -> None:
    torch.manual_seed(0)
    decoder = MaskedDecoder(6, (2, 2, 2), out_dim=5, config=DecoderConfig(dim=8, depth=1, heads=2)).eval()
    tokens, keep, masked = torch.randn(2, 3, 6), torch.tensor([[0, 3, 5], [1, 2, 7]]), torch.tensor([[1, 2], [0, 6]])
    prediction = decoder(tokens, keep, masked)
    assert prediction.shape == (2, 2, 5)
    torch.testing.assert_close(decoder(tokens, keep, masked.flip(1)), prediction.flip(1))
    torch.testing.assert_close(decoder(tokens.flip(1), keep.flip(1), masked), prediction)
    assert not torch.allclose(decoder(tokens.flip(1), keep, masked), prediction)


@pytest.mark.parametrize("norm", [True, False])
def test_loss_agrees_with_transformers(norm: bool) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs: Any = hf_videomae.randomise(
        transformers.VideoMAEForPreTraining(transformers.VideoMAEConfig(**hf_videomae.SHAPE, norm_pix_loss=norm))
    )
    theirs.decoder.norm.eps = 1e-6  # of the paper's code; theirs has torch's default
    config = VideoMAEConfig.model_validate(
        {
            "mask": {"kind": "random", "ratio": 0.5},
            "target": "channel" if norm else "none",
            "decoder": {"dim": 16, "depth": 2, "heads": 2},
        }
    )
    encoder = ENCODERS.build(VideoViTConfig(dim=24, depth=2, heads=3, patch=8), InputConfig(num_frames=4, size=16))
    ours: Any = METHODS.build(config, encoder).eval()
    taken = imported(theirs.state_dict(), "hf-videomae", config=theirs.config.to_dict()).encoder
    encoder.load_state_dict(taken.state_dict())
    ours.decoder.load_state_dict(hf_videomae.decoder_weights(theirs))

    pixels = torch.rand(2, 3, 4, 16, 16)
    mean, std = (torch.tensor(v)[:, None, None, None] for v in (encoder.input.mean, encoder.input.std))
    clip = (pixels - mean) / std
    hidden = torch.zeros(2, 8, dtype=torch.bool)
    hidden[0, [0, 1, 4, 6]] = hidden[1, [2, 3, 5, 7]] = True
    index = torch.arange(8).expand(2, -1)
    mask = Mask(index[~hidden].view(2, 4), index[hidden].view(2, 4))
    view = View(clip, torch.zeros(2, 4, dtype=torch.int64), masks=(mask,))
    loss = ours([view]).loss
    expected = theirs(clip.transpose(1, 2), bool_masked_pos=hidden).loss
    assert expected > 0.1
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)

    loss.backward()
    expected.backward()
    torch.testing.assert_close(
        encoder.get_parameter("embed.weight").grad,
        theirs.videomae.embeddings.patch_embeddings.projection.weight.grad.flatten(1),
        rtol=1e-3,
        atol=1e-6,
    )
