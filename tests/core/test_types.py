from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from st_ssl.core.types import Entry, PointBatch, PointCloud, RawPointView, RawView


def clouds(*counts: int) -> PointBatch:
    xyz = torch.arange(3 * sum(counts), dtype=torch.float32).view(-1, 3)
    offsets = torch.tensor([0, *np.cumsum(counts)])
    return PointBatch(xyz, offsets, {"normal": -xyz}, {"segment": torch.arange(len(xyz))})


def equal(a: PointBatch, b: PointBatch) -> bool:
    pairs = [(a.xyz, b.xyz), (a.offsets, b.offsets), *((a.attributes[n], b.attributes[n]) for n in a.attributes)]
    return all(torch.equal(x, y) for x, y in [*pairs, *((a.labels[n], b.labels[n]) for n in a.labels)])


def test_a_part_of_a_batch_of_clouds() -> None:
    part = clouds(2, 0, 3, 1).part(1, 3)
    assert len(part) == 2
    assert part.offsets.tolist() == [0, 0, 3]
    assert part.labels["segment"].tolist() == [2, 3, 4]
    assert torch.equal(part.attributes["normal"], -part.xyz)
    assert part.source is None


def test_parts_joined_are_the_whole() -> None:
    whole = clouds(2, 0, 3, 1)
    assert equal(whole.part(0, 1).joined([whole.part(1, 3), whole.part(3, 4)]), whole)


def test_a_dense_batch_has_clouds_of_one_size() -> None:
    assert clouds(2, 2).dense().shape == (2, 2, 3)
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        clouds(2, 3).dense()


@pytest.mark.parametrize("kind", ["video", "points"])
def test_views_are_mapped_parted_and_joined(kind: str) -> None:
    params, keep = {"box": torch.arange(8).view(4, 2)}, torch.arange(12).view(4, 3)
    view: Any
    if kind == "video":
        view = RawView(torch.arange(4 * 6).view(4, 1, 1, 2, 3), params, torch.arange(4)[:, None], keep=keep)
    else:
        view = RawPointView(clouds(2, 0, 3, 1), params, keep=keep)
    assert len(view) == 4
    part = view.part(1, 3)
    assert len(part) == 2
    assert part.params["box"].tolist() == [[2, 3], [4, 5]]
    assert part.keep is not None
    assert part.keep.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert part.masked is None
    seen: list[Tensor] = []

    def see(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    view.map(see)
    assert len(seen) == (4 if kind == "video" else 6)
    joined = part.joined([view.part(3, 4)])
    assert joined.params["box"].tolist() == [[2, 3], [4, 5], [6, 7]]
    if isinstance(joined, RawPointView):
        assert joined.points.offsets.tolist() == [0, 0, 3, 4]


def test_points_are_taken_with_all_that_belongs_to_them() -> None:
    xyz = np.arange(12, dtype=np.float32).reshape(4, 3)
    cloud = PointCloud(xyz, {"normal": -xyz}, {"part": np.arange(4)}, np.eye(4), 2.0)
    taken = cloud.take(np.array([3, 1]))
    assert taken.labels["part"].tolist() == [3, 1]
    assert (taken.attributes["normal"] == -taken.xyz).all()
    assert taken.time == 2.0
    assert len(cloud.take(np.array([True, False, True, True]))) == 3


def test_people_know_a_packed_sample_by_the_file_that_was_packed() -> None:
    packed = Entry("/packs/a/shard-00000.tar/00000-000007.mp4", source="jump/07.avi")
    assert (packed.shown, packed.name) == ("jump/07.avi", "07.avi")
    plain = Entry("/videos/jump/07.avi")
    assert (plain.shown, plain.name) == ("/videos/jump/07.avi", "07.avi")
