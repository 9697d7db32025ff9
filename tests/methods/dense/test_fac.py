from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from st_ssl.augment.point_segments import oversegment
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import PointCloud
from st_ssl.methods.base import METHODS
from st_ssl.methods.dense.fac import FAC, FACConfig, _means
from st_ssl.methods.dense.point_contrast import PointContrast, PointContrastAugmentConfig, PointContrastConfig
from st_ssl.parts.correspondence import SiameseCorrespondence
from tests.methods.dense.test_point_contrast import PerPoint, prepared

SMALL: dict[str, Any] = {
    "input": {"num_points": None, "unit_sphere": False, "voxel_size": 0.1},
    "encoder": {"name": "sparse_unet", "variant": "tiny", "stem": 4},
    "method": {"num_pairs": 32, "output_dim": 8, "num_foreground": 6, "num_background": 5, "points_per_segment": 4},
}
PLAIN = {"num_foreground": 6, "num_background": 5, "points_per_segment": 4}


def build(**settings: Any) -> Any:
    torch.manual_seed(0)
    return FAC(FACConfig(**{**PLAIN, **settings}), PerPoint())


def scene(seed: int, num_boxes: int = 3) -> PointCloud:
    """A floor of 3 m with boxes on it, coloured at random."""
    rng = np.random.default_rng(seed)
    parts = [np.stack([*rng.uniform(0, 3, (2, 2000)), np.zeros(2000)], 1)]
    for number in range(num_boxes):
        corner = np.array([0.2 + number, rng.uniform(0.2, 2.2), 0.1])
        parts.append(corner + rng.uniform(0, 0.5, (150, 3)))
    xyz = np.concatenate(parts).astype(np.float32)
    return PointCloud(xyz, {"color": rng.random((len(xyz), 3), dtype=np.float32)})


SCENES = [scene(0), scene(1), scene(2, num_boxes=0)]


def test_chosen_points_are_of_the_segment_that_both_views_share() -> None:
    method = build()
    views = prepared(method, SCENES)
    chosen = method.choose(*views)
    assert chosen.valid.shape == (3, 11)
    assert chosen.valid[:2, :6].any(1).all()  # foreground in the first two
    assert not chosen.valid[2, :6].any()  # none on a bare floor
    assert chosen.valid[:, 6:].any(1).all()
    for row, cloud in enumerate(SCENES):
        region, foreground = oversegment(cloud.xyz, method.config.segments)
        seen = []
        for view, rows, there, slot in zip(views, chosen.rows, chosen.there, chosen.slot, strict=True):
            assert not there[row][~chosen.valid[row]].any()
            for number in chosen.valid[row].nonzero().flatten().tolist():
                own = rows[row, number][there[row, number]]
                assert len(own.unique()) == len(own) == 4
                assert ((own >= view.points.offsets[row]) & (own < view.points.offsets[row + 1])).all()
                names = np.unique(region[view.points.source[own]])
                assert len(names) == 1
                assert foreground[view.points.source[own]].all() == (number < 6)
                # the slot has all points of the segment that the view shows
                inside = view.points.source[slot == row * 11 + number].numpy()
                begin, end = view.points.offsets[row : row + 2].tolist()
                assert np.array_equal(inside, [p for p in view.points.source[begin:end].tolist() if region[p] == names])
                seen.append(int(names[0]))
        half = len(seen) // 2
        assert seen[:half] == seen[half:]
        assert len(set(seen)) == half


def slow_losses(method: Any, views: list[Any]) -> dict[str, Tensor]:
    """The formulas of the docstrings, segment by segment, from the labels of the points."""
    chosen, temperature = method.choose(*views), method.config.temperature
    features = [method.head(method.encoder.net(view.points.attributes["color"])) for view in views]
    slots = chosen.valid.flatten().nonzero().flatten().tolist()
    in_front = [s for s in slots if s % 11 < 6]

    def score(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(a @ b / a.norm() / b.norm() / temperature)

    def points(view: int, slot: int) -> list[Tensor]:
        rows, there = chosen.rows[view].flatten(0, 1)[slot], chosen.there[view].flatten(0, 1)[slot]
        return [features[view][row] for row in rows[there]]

    def against(own: Tensor, others: list[Tensor]) -> Tensor:
        return -torch.log(own / (own + torch.stack(others).sum()))

    region = []
    for slot in in_front:
        for a in points(0, slot):
            negative = [score(a, b) for other in slots if other != slot for b in points(1, other)]
            region.append(torch.stack([against(score(a, b), negative) for b in points(1, slot)]).mean())
    means = [{s: x[slot == s].mean(0) for s in slots} for x, slot in zip(features, chosen.slot, strict=True)]
    net, found = method.correspondence, []
    for x, other in (means, means[::-1]):
        out = {}
        for s in slots:
            own = [t for t in slots if t // 11 == s // 11]
            heads = []
            for y in (x, other):
                weights = torch.stack([net.query(x[s]) @ net.key(y[t]) / len(x[s]) ** 0.5 for t in own]).softmax(0)
                heads.append(sum(w * net.value(y[t]) for w, t in zip(weights, own, strict=True)))
            out[s] = x[s] + net.out(torch.cat(heads))
        found.append(out)
    background = [x[s] for x in found for s in slots if s not in in_front]
    segment = [
        against(score(a[s], b[s]), [score(a[s], k) for k in background])
        for a, b in (found, found[::-1])
        for s in in_front
    ]
    return {"region_loss": torch.stack(region).mean(), "segment_loss": torch.stack(segment).mean()}


def test_the_losses_are_those_of_the_formulas() -> None:
    method = build(region_weight=0.7, segment_weight=1.3, temperature=0.3).double()
    views = prepared(method, SCENES)
    for view in views:
        view.points.attributes["color"] = view.points.attributes["color"].double()
    losses, expected = method(views), slow_losses(method, views)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-9, atol=1e-9)
    whole = 0.7 * expected["region_loss"] + 1.3 * expected["segment_loss"]
    torch.testing.assert_close(losses["loss"], whole)
    weights = list(method.parameters())
    for a, b in zip(torch.autograd.grad(losses["loss"], weights), torch.autograd.grad(whole, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_its_plain_case_is_pointcontrast() -> None:
    settings: dict[str, Any] = {"num_pairs": 32, "temperature": 0.2}
    method = build(point_weight=1.0, region_weight=0.0, segment_weight=0.0, **settings)
    torch.manual_seed(0)
    same = PointContrastAugmentConfig(**method.config.augment.model_dump())
    plain = PointContrast(PointContrastConfig(**settings, augment=same), PerPoint())
    assert method.state_dict().keys() == plain.state_dict().keys()
    found, expected = (m(prepared(m, SCENES)) for m in (method, plain))
    assert torch.equal(found["loss"], expected["loss"])
    for name, value in expected.logs.items():
        assert torch.equal(found[name], value), name
    assert len(method.exhibits(prepared(method, SCENES))) == 1  # nor does it pay for segments


@pytest.mark.parametrize("off", ["point_weight", "region_weight", "segment_weight"])
def test_what_weighs_nothing_is_left_out(off: str) -> None:
    method = build(**{"point_weight": 0.5, off: 0.0})
    losses = method(prepared(method, SCENES))
    kind = {"point_weight": "match_accuracy", "region_weight": "region_loss", "segment_weight": "segment_loss"}
    assert {name for weight, name in kind.items() if name in losses.logs} == {v for k, v in kind.items() if k != off}
    losses["loss"].backward()
    assert all(p.grad is not None for p in method.parameters())


def test_scenes_without_foreground_cost_nothing_and_break_nothing() -> None:
    method = build()
    bare = [scene(3, 0), scene(4, 0)]
    losses = method(prepared(method, bare))
    assert losses["loss"] == 0
    losses["loss"].backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in method.parameters())
    empty = PointCloud(np.eye(3, dtype=np.float32), {"color": np.eye(3, dtype=np.float32)})
    assert method(prepared(method, [empty, SCENES[0]]))["loss"].isfinite()


def test_what_other_scenes_show_does_not_reach_a_segment() -> None:
    torch.manual_seed(0)
    net = SiameseCorrespondence(8)
    x, y = torch.randn(2, 3, 5, 8)
    valid = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    first, second = net(x, y, valid)
    assert (first[~valid] == 0).all()
    alone = net(x[:1, :3], y[:1, :3], valid[:1, :3])
    torch.testing.assert_close(first[:1, :3], alone[0])
    torch.testing.assert_close(net(y, x, valid)[0], second)  # the same weights both ways round
    changed = net(x, y + valid[..., None], valid)[0]
    assert (changed - first)[valid].abs().min() > 0  # but what the other view shows does


def test_pictures_show_segments_in_their_colours() -> None:
    method = build()
    views = prepared(method, SCENES)
    points = method.exhibits(views)[0].points
    colours = points.attributes["color"]
    front = views[0].points.labels["foreground"] == 1
    grey = (colours.amax(1) - colours.amin(1)) < 1e-6
    assert grey[~front].all()
    assert not grey[front].any()
    assert 0 <= colours.min() <= colours.max() <= 1


def test_settings_that_learn_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing would be learned"):
        FACConfig(region_weight=0, segment_weight=0)
    encoder = PerPoint()
    encoder.per_point = False  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"method\.name=fac needs"):
        METHODS.build(FACConfig(), encoder)
    assert len(build().views.first) == 2  # the attributes, and the segments


def test_means_over_many_points_are_exact_in_bfloat16() -> None:
    slot = torch.zeros(4096, dtype=torch.int64)
    found = _means(torch.ones(4096, 2, dtype=torch.bfloat16), slot, torch.tensor([[True, False]]))
    assert found.tolist() == [[[1.0, 1.0], [0.0, 0.0]]]
