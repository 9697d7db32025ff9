from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from st_ssl.data.clip_plans import ClipPair
from st_ssl.data.streams.base import Recording
from st_ssl.methods.base import METHODS
from st_ssl.objectives.contrastive import info_nce
from tests.methods.steps import NoiseReader, build, raw_views, recipe

SMALL: dict[str, Any] = {
    "encoder": {"name": "r3d", "depth": 10, "width": 4},
    "method": {"hidden_dim": 32, "output_dim": 16},
}


def small(**settings: Any) -> Any:
    return build("cvrl", **settings)


def test_defaults_are_those_of_the_paper() -> None:
    config: Any = METHODS.config("cvrl")()
    assert config.interval.distribution == "decreasing"
    assert (config.temperature, config.hidden_dim, config.output_dim, config.projector_layers) == (0.1, 2048, 128, 3)
    augment = config.augment
    assert (augment.area, augment.aspect, augment.flip) == ((0.3, 1.0), (0.5, 2.0), 0.5)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0.8, 0.8, 0.8, 0.2)
    assert (augment.jitter, augment.grayscale, augment.blur, augment.per_frame) == (0.8, 0.2, 1.0, False)
    assert (augment.jitter_order, augment.solarize) == ("random", 0.0)
    assert (config.second.blur, config.second.solarize) == (0.1, 0.2)
    told: Any = METHODS.config("cvrl").model_validate(recipe("contrast/cvrl")["method"])
    assert (told.augment, told.second) == (augment, config.second)
    assert told.projector_layers == 4  # three hidden ones


def test_the_views_are_blurred_and_solarized_differently() -> None:
    method, count = small(), 400
    video = Recording.of(NoiseReader(0))
    cut = [method.views.cut(video, (0, 0, i)) for i in range(count)]
    shares = [[np.mean([pair[v].params[name] != 0 for pair in cut]) for v in (0, 1)] for name in ("blur", "solarize")]
    assert shares[0][0] == 1 and shares[1][0] == 0
    assert abs(shares[0][1] - 0.1) < 0.06 and abs(shares[1][1] - 0.2) < 0.08
    orders = {int(view.params["colour_order"].item()) for pair in cut for view in pair}
    assert orders == set(range(24))
    assert {pair[0].at[0] < pair[1].at[0] for pair in cut} == {True, False}  # which is the earlier one is drawn
    old = small(augment={"blur": 0.5, "jitter_order": "fixed"}, second={"blur": 0.5, "solarize": 0.0})
    first, second = (spec.transforms[0].config for spec in old.views.specs)
    assert first == second


@pytest.mark.parametrize("distribution", ["decreasing", "uniform", "constant"])
def test_the_interval_reaches_the_plan(distribution: Any) -> None:
    method: Any = small(interval={"distribution": distribution, "frames": 5})
    assert {spec.plan for spec in method.views.specs} == {ClipPair(4, 2, distribution, 5)}
    raw = raw_views(method, batch=8)
    distance = (raw[0].at[:, 0] - raw[1].at[:, 0]).abs()
    assert (distance <= 13).all()  # 20 frames, clips of 7
    assert (distance == 5).all() == (distribution == "constant")


def test_a_clip_has_one_augmentation_for_all_frames() -> None:
    method: Any = small()
    reader = NoiseReader(0)
    reader.pixels[:] = reader.pixels[0]  # a still: what differs between frames would be the augmentation's doing
    seen = set()
    for key in range(8):
        cut = method.views.cut(Recording.of(reader), (0, 0, key))
        for view, spec in zip(cut, method.views.specs, strict=True):
            (augment,) = spec.transforms
            assert (view.content == view.content[:1]).all()
            clip = augment.apply(
                torch.from_numpy(view.content)[None], {n: torch.from_numpy(p)[None] for n, p in view.params.items()}
            )
            torch.testing.assert_close(clip, clip[:, :, :1].expand_as(clip))
            seen.add(round(float(clip.mean()), 4))
    assert len(seen) == 16  # while views differ

    broken: Any = small(augment={"per_frame": True})
    clips = [view.content for key in range(4) for view in broken.views.cut(Recording.of(reader), (0, 0, key))]
    assert not any((frames == frames[:1]).all() for frames in clips)


def test_swapped_views_have_the_same_loss() -> None:
    method = small()
    views = method.views.prepare(raw_views(method))
    loss = method(views)["loss"]
    torch.testing.assert_close(method(views[::-1])["loss"], loss)
    shifted = [views[0], method.views.prepare(raw_views(method, first=100))[1]]
    assert abs(method(shifted)["loss"].item() - loss.item()) > 1e-3  # views of other videos are not


def test_the_loss_is_info_nce_of_the_projections() -> None:
    method: Any = small(temperature=0.3)
    method.eval()
    views = method.views.prepare(raw_views(method))
    outputs = method.outputs(views)
    assert outputs["first"].shape == outputs["second"].shape == (4, 16)
    expected = method.projector(method.encoder(views[1].clip).pooled)
    torch.testing.assert_close(outputs["second"], expected)
    loss, accuracy = info_nce(outputs["first"], outputs["second"], 0.3)
    result = method(views)
    torch.testing.assert_close(result["loss"], loss)
    assert result["contrast_accuracy"] == accuracy
    assert abs(loss.item() - info_nce(outputs["first"], outputs["second"], 0.1)[0].item()) > 1e-4


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_projector(layers: int) -> None:
    method: Any = small(projector_layers=layers)
    linear = [m for m in method.projector if isinstance(m, torch.nn.Linear)]
    assert [m.out_features for m in linear] == [32] * (layers - 1) + [16]
    assert sum(isinstance(m, torch.nn.BatchNorm1d | torch.nn.ReLU) for m in method.projector) == 2 * (layers - 1)
    assert linear[0].in_features == method.encoder.embed_dim


def test_any_encoder_will_do() -> None:
    method = small(encoder={"name": "video_vit", "dim": 24, "depth": 1, "heads": 3, "patch": 4})
    assert method(method.views.prepare(raw_views(method)))["loss"].isfinite()


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        small(temperature=0)
