from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from st_ssl.augment.block_masking import BlockMaskConfig
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import View
from st_ssl.encoders.video_vit import tubelets, untubelets
from st_ssl.methods.base import METHODS, Moment
from tests.methods.steps import TINY_ENCODERS, build, noise_recording, raw_views
from tests.runs import tiny, train, weights

SMALL: dict[str, Any] = {
    "encoder": {
        **{"name": "video_vit", "dim": 24, "depth": 2, "heads": 3, "patch": 2, "positions": "sincos_3d"},
        "drop_path": 0.3,
    },
    "method": {
        "masks": [{"blocks": 4, "scale": 0.15}, {"blocks": 2, "scale": 0.5}],
        "momentum": {"start": 0.5, "end": 0.9},
        "predictor": {"dim": 12, "depth": 1, "heads": 2},
    },
}


def small(**settings: Any) -> Any:
    return build("vjepa", **settings).double().eval()


def prepared(method: Any) -> View:
    (view,) = method.views.prepare(raw_views(method))
    return view.map(lambda t: t.double() if t.is_floating_point() else t)


def apart(method: Any) -> Any:
    """``method`` with a teacher that is not its student, and mask tokens that are not 0."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in [*method.teacher.parameters(), method.predictor.mask_tokens]:
            parameter.add_(0.2 * torch.randn_like(parameter))
    return method


def test_defaults_are_those_of_the_paper() -> None:
    config: Any = METHODS.config("vjepa")()
    assert config.masks == (BlockMaskConfig(blocks=8, scale=0.15), BlockMaskConfig(blocks=2, scale=0.7))
    assert all((mask.aspect, mask.truncate, mask.references) == ((0.75, 1.5), "first", 24) for mask in config.masks)
    assert (config.predictor.dim, config.predictor.depth, config.predictor.heads) == (384, 12, 16)
    assert config.exponent == 1
    augment = config.augment
    assert (augment.crop, augment.area, augment.aspect, augment.flip) == ("random_resized", (0.3, 1), (0.75, 1.35), 0.5)
    assert augment.jitter == augment.grayscale == augment.blur == 0
    for step in (0, 1, 5000, 89_999):  # 300 updates an epoch, 300 epochs
        assert config.momentum.at(step, 90_000) == pytest.approx(0.998 + step * 0.002 / (90_000 * 1.25), abs=1e-12)


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_loss_and_gradients_are_those_of_the_slow_reference(exponent: float) -> None:
    method = apart(small(exponent=exponent))
    view = prepared(method)
    result = method([view])
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(result["loss"], list(parameters.values()))

    def run(encoder: Any, patches: Tensor, places: Tensor) -> Tensor:
        x = (encoder.embed(patches) + encoder.pos_embed[places])[None]
        for block in encoder.blocks:
            x = block(x)
        return encoder.norm(x[0])

    patches, losses = tubelets(view.clip, 2, 2), []
    for number in (0, 1):
        mask, total, count = view.masks[number], torch.zeros((), dtype=torch.float64), 0
        for sample in range(4):
            keep, masked = mask.keep[sample], mask.masked[sample]
            taught = run(method.teacher, patches[sample], torch.arange(128)).detach()
            seen = run(method.encoder, patches[sample, keep], keep)
            net = method.predictor
            x = torch.cat([net.embed(seen) + net.pos_embed[keep], net.mask_tokens[number] + net.pos_embed[masked]])
            for block in net.blocks:
                x = block(x[None])[0]
            predicted = net.head(net.norm(x))[len(keep) :]
            for token, place in zip(predicted, masked, strict=True):
                target = taught[place] - taught[place].mean()
                target = target / (target.square().mean() + 1e-5).sqrt()
                total = total + ((token - target).abs() ** exponent).sum() / exponent
                count += 24
        losses.append(total / count)
    assert view.masks[0].masked.shape != view.masks[1].masked.shape  # each mask weighs the same, whatever it hides
    expected = (losses[0] + losses[1]) / 2
    torch.testing.assert_close(result["loss"], expected)
    for name, found, truth in zip(
        parameters, gradients, torch.autograd.grad(expected, list(parameters.values())), strict=True
    ):
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-9, msg=name)
        assert found.abs().sum() > 0, name


def test_hidden_tokens_reach_the_targets_alone() -> None:
    method = apart(small())
    view = prepared(method)
    for number, mask in enumerate(view.masks):
        patches = tubelets(view.clip, 2, 2)
        index = mask.masked[..., None].expand(-1, -1, patches.shape[-1])
        patches = patches.scatter(1, index, torch.randn(index.shape, dtype=torch.float64))
        other = View(untubelets(patches, method.encoder.grid, 2, 2), view.at, masks=view.masks)
        (made, target), (same, moved) = method.compared(view)[number], method.compared(other)[number]
        assert torch.equal(made, same)
        assert not torch.allclose(target, moved)
    seen: list[int] = []
    method.encoder.register_forward_hook(lambda module, args, output: seen.append(output.tokens.shape[1]))
    method([view])
    assert seen == [mask.keep.shape[1] for mask in view.masks]  # one pass a mask, of what it shows


def test_masks_differ_by_sample_and_their_counts_by_update() -> None:
    method = build("vjepa")
    (view,) = raw_views(method, batch=8)
    for mask in view.masks:
        assert len({tuple(row.tolist()) for row in mask.masked}) > 1
    counts = [
        [len(mask.keep) for mask in method.views.cut(noise_recording("video", sample), (0, 0, sample), step)[0].masks]
        for step in range(4)
        for sample in range(2)
    ]
    assert counts[::2] == counts[1::2]
    assert len({tuple(count) for count in counts}) > 1


def test_targets_are_standardised_and_have_no_gradient() -> None:
    method = apart(small())
    targets = method.targets(prepared(method).clip)
    assert targets.shape == (4, 128, 24)
    assert not targets.requires_grad
    torch.testing.assert_close(targets.mean(-1), torch.zeros(4, 128, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        targets.std(-1, correction=0), torch.ones(4, 128, dtype=torch.float64), rtol=0, atol=1e-3
    )
    method.train()
    assert torch.equal(method.targets(prepared(method).clip), targets)  # the teacher drops nothing


def test_collapse_shows_in_the_logs() -> None:
    method = apart(small())
    view = prepared(method)
    pairs = method.compared(view)
    made, target = (torch.cat([pair[i].reshape(-1, 24) for pair in pairs]).std(0).mean() for i in (0, 1))
    result = method([view])
    torch.testing.assert_close(result["prediction_std"], made.detach())
    torch.testing.assert_close(result["target_std"], target)
    with torch.no_grad():
        method.teacher.norm.weight.zero_()
    assert method([view])["target_std"] < 1e-6


def test_the_teacher_starts_as_the_student_and_follows_by_hand() -> None:
    method = small(momentum={"start": 0.5, "end": 0.9})
    student, teacher = method.encoder.embed.weight, method.teacher.embed.weight
    assert torch.equal(student, teacher)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    expected = teacher.clone()
    for step, momentum in [(0, 0.5), (1, 0.6), (2, 0.7), (3, 0.8)]:
        with torch.no_grad():
            student.add_(1.0)
        method.after_update(Moment(step, 4), {})
        expected = momentum * expected + (1 - momentum) * student
        torch.testing.assert_close(teacher, expected)


def test_the_teacher_is_exported_also_with_a_moving_average_of_all(videos: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"engine": {"epochs": 1, "ema": 0.9}, "encoder": {"patch": 4}}
    train(tiny(videos, tmp_path / "run", "vjepa", **changes))
    saved = weights(tmp_path / "run")
    exported = saved["encoder/blocks.0.mlp.0.weight"]
    assert torch.equal(exported, saved["model/teacher.blocks.0.mlp.0.weight"])
    assert not torch.equal(exported, saved["model/encoder.blocks.0.mlp.0.weight"])


def test_pictures_show_what_each_mask_leaves() -> None:
    method = build("vjepa").eval()
    (view,) = method.views.prepare(raw_views(method))
    pictures = method.pictures([view])
    assert list(pictures) == ["input", "visible 1", "visible 2"]
    whole = tubelets(pictures["input"], 2, 2)
    for mask, name in zip(view.masks, list(pictures)[1:], strict=True):
        shown = (tubelets(pictures[name], 2, 2) - whole).abs().amax(-1) == 0
        assert shown.gather(1, mask.keep).all()
        assert not shown.gather(1, mask.masked).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"vjepa needs an encoder .*: video_vit"):
        build("vjepa", encoder=TINY_ENCODERS[0])
    with pytest.raises(ConfigError, match=r"method\.masks: a block of scale=0\.9 may cover all of a \(2, 8, 8\)"):
        build("vjepa", masks=[{"scale": 0.9}])
    with pytest.raises(ValidationError, match="at least 1 item"):
        build("vjepa", masks=[])
