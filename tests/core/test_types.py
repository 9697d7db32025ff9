from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from st_ssl.core.types import Entry, Mask, PointBatch, PointCloud, View


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
    masks = (Mask(keep, 100 + keep), Mask(None, torch.arange(4)[:, None]))
    labels = {"speed": torch.tensor([1, 2, 4, 8])}
    content = torch.arange(4 * 6).view(4, 1, 1, 2, 3) if kind == "video" else clouds(2, 0, 3, 1)
    view = View(content, torch.arange(4)[:, None], labels, params, masks, torch.tensor([7, 5, 3, 1]))
    assert len(view) == 4
    part = view.part(1, 3)
    assert len(part) == len(part.content) == 2
    assert part.at.tolist() == [[1], [2]]
    assert part.params["box"].tolist() == [[2, 3], [4, 5]]
    assert part.labels["speed"].tolist() == [2, 4]
    assert part.sample is not None and part.sample.tolist() == [5, 3]
    assert part.masks[0].keep.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert part.masks[0].masked.tolist() == [[103, 104, 105], [106, 107, 108]]
    assert part.masks[1].keep is None and part.masks[1].masked.tolist() == [[1], [2]]
    seen: list[Tensor] = []

    def see(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    view.map(see)
    assert len(seen) == 7 + (1 if kind == "video" else 4)
    joined = part.joined([view.part(3, 4)])
    assert joined.params["box"].tolist() == [[2, 3], [4, 5], [6, 7]]
    assert joined.labels["speed"].tolist() == [2, 4, 8] and joined.at.tolist() == [[1], [2], [3]]
    assert joined.sample is not None and joined.sample.tolist() == [5, 3, 1]
    assert joined.masks[0].keep.tolist() == keep[1:].tolist()
    assert joined.masks[1].keep is None and joined.masks[1].masked.tolist() == [[1], [2], [3]]
    if kind == "points":
        assert joined.points.offsets.tolist() == [0, 0, 3, 4]
    else:
        assert torch.equal(joined.clip, view.clip[1:])


@pytest.mark.parametrize("kind", ["video", "points"])
def test_a_view_names_what_it_holds(kind: str) -> None:
    view = View(clouds(2, 4) if kind == "points" else torch.zeros(2, 1, 3, 4, 3), torch.zeros(2, 1))
    assert str(view) == ("2 clouds of 3 points" if kind == "points" else "(2, 1, 3, 4, 3) (B, T, H, W, C)")
    with pytest.raises(AssertionError):
        _ = view.clip if kind == "points" else view.points
    with pytest.raises(ValueError, match="unpack"):
        _ = view.mask


def test_several_clouds_a_sample_stay_together() -> None:
    """Three samples of two clouds each."""
    view = View(clouds(2, 1, 3, 1, 1, 4), torch.arange(6).view(3, 2), {"pose": torch.eye(4).expand(3, 2, 4, 4)})
    assert len(view) == 3 and len(view.points) == 6
    part = view.part(1, 2)
    assert part.points.offsets.tolist() == [0, 3, 4] and part.points.labels["segment"].tolist() == [3, 4, 5, 6]
    assert part.labels["pose"].shape == (1, 2, 4, 4)
    joined = part.joined([view.part(2, 3), view.part(0, 1)])
    assert joined.points.offsets.tolist() == [0, 3, 4, 5, 9, 11, 12]
    assert joined.at.tolist() == [[2, 3], [4, 5], [0, 1]]
    assert torch.equal(joined.points.xyz, torch.cat([view.points.xyz[3:], view.points.xyz[:3]]))


def test_views_of_several_kinds_are_not_joined() -> None:
    one = View(torch.zeros(1, 2), torch.zeros(1, 1))
    for other in (View(one.content, one.at, sample=torch.tensor([0])), View(one.content, one.at, masks=(Mask(0, 0),))):
        with pytest.raises(AssertionError, match="views of several kinds"):
            one.joined([other])


def test_points_are_taken_with_all_that_belongs_to_them() -> None:
    xyz = np.arange(12, dtype=np.float32).reshape(4, 3)
    cloud = PointCloud(xyz, {"normal": -xyz}, {"part": np.arange(4)}, np.eye(4), 2.0)
    taken = cloud.take(np.array([3, 1]))
    assert taken.labels["part"].tolist() == [3, 1]
    assert (taken.attributes["normal"] == -taken.xyz).all()
    assert taken.time == 2.0
    assert taken.source is not None and taken.source.tolist() == [3, 1]
    again = taken.take(np.array([1, 1, 0])).source
    assert again is not None and again.tolist() == [1, 1, 3]  # of the first cloud, not of the one before
    assert len(cloud.take(np.array([True, False, True, True]))) == 3


def test_people_know_a_packed_sample_by_the_file_that_was_packed() -> None:
    packed = Entry("/packs/a/shard-00000.tar/00000-000007.mp4", source="jump/07.avi")
    assert (packed.shown, packed.name) == ("jump/07.avi", "07.avi")
    plain = Entry("/videos/jump/07.avi")
    assert (plain.shown, plain.name) == ("/videos/jump/07.avi", "07.avi")
