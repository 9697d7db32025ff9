"""What a view declares is what is cut: instants, transforms, masks and labels, of one stream or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from st_ssl.augment.masking import MaskConfig, TokenMask
from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.augment.video import VideoAugment, VideoAugmentConfig
from st_ssl.core.errors import UnfitError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry, Mask, PointCloud, VideoMeta, View
from st_ssl.data.clip_plans import ClipPair, Draw, EvenClips, Plan, RandomClips, Still
from st_ssl.data.loading.sample_dataset import SampleDataset, collate
from st_ssl.data.streams.base import Recording, Stream
from st_ssl.data.views import CutView, Views, ViewSpec, each, stack

AUGMENT = VideoAugment(VideoAugmentConfig(jitter=1.0), size=8)
KEY = (5, 0, 3)


class Frames:
    """Frames in memory at ``fps``; ``asked`` notes what was read."""

    def __init__(self, num_frames: int = 40, fps: float = 20.0, seed: int = 0) -> None:
        self.meta = VideoMeta(num_frames, fps, 24, 16)
        self.images = keyed_rng("frames", seed).integers(0, 256, (num_frames, 16, 24, 3), dtype=np.uint8)
        self.asked: list[list[int]] = []

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        self.asked.append(list(at))
        return ((index, self.images[index]) for index in at)

    def times(self) -> np.ndarray:
        return np.arange(self.meta.num_frames) / self.meta.fps

    def close(self) -> None:
        """Nothing is open."""


class Sweeps(Frames):
    """Clouds of a vehicle on its way, at 10 Hz, half a period after the frames begin; their poses turn and move."""

    def __init__(self, num_frames: int = 12, seed: int = 0) -> None:
        super().__init__(num_frames, 10.0, seed)
        rng = keyed_rng("sweeps", seed)
        self.clouds = []
        for index in range(num_frames):
            pose = np.eye(4)
            pose[:3, :3] = Rotation.from_euler("z", 0.2 * index + seed).as_matrix()
            pose[:3, 3] = rng.normal(size=3) * 20
            count = 30 + 5 * index
            xyz, labels = rng.normal(size=(count, 3)).astype(np.float32), {"sweep": np.full(count, index)}
            self.clouds.append(PointCloud(xyz, {}, labels, pose, index / 10))

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, Any]]:
        return ((index, self.clouds[index]) for index in at)

    def times(self) -> np.ndarray:
        return super().times() + 0.05


def cut(views: Views, recording: Recording | None = None, key: tuple[Any, ...] = KEY, step: int = 0) -> list[CutView]:
    return views.cut(recording or Recording.of(Frames()), key, step)


def same(a: CutView, b: CutView) -> bool:
    pairs = [(a.content, b.content), (a.at, b.at), *((a.params[name], b.params[name]) for name in a.params)]
    pairs += [(x, y) for one, other in zip(a.masks, b.masks, strict=True) for x, y in zip(one, other, strict=True)]
    return a.params.keys() == b.params.keys() and all(np.array_equal(x, y) for x, y in pairs)


# --- plans


def test_views_of_a_plan_that_draws_several_draw_together() -> None:
    pair, alone = ClipPair(3, 1, "constant", interval=7), RandomClips(3, 1)
    views = Views((ViewSpec(pair), ViewSpec(alone), ViewSpec(pair), *[ViewSpec(pair)] * 2))
    firsts = set[tuple[int, ...]]()
    for sample in range(20):
        starts = [int(view.at[0]) for view in cut(views, key=(0, 0, sample))]
        assert abs(starts[0] - starts[2]) == abs(starts[3] - starts[4]) == 7
        firsts.add((min(starts[0], starts[2]), min(starts[3], starts[4])))
    assert any(a != b for a, b in firsts)  # two pairs, each of its own draw


def test_views_of_a_plan_that_draws_one_draw_alone() -> None:
    frames = Frames()
    views = Views((ViewSpec(RandomClips(3, 2)),) * 2)
    drawn = [[int(view.at[0]) for view in cut(views, Recording.of(frames), (0, 0, sample))] for sample in range(20)]
    assert sum(a != b for a, b in drawn) > 15
    assert len(frames.asked) == 20  # each stream is read once for all views
    assert frames.asked[0] == sorted({drawn[0][view] + 2 * i for view in (0, 1) for i in range(3)})


def test_a_plan_of_several_needs_as_many_views() -> None:
    with pytest.raises(AssertionError, match="1 views of a plan that draws 2"):
        cut(Views((ViewSpec(ClipPair(3, 1)),)))


def test_an_equal_plan_of_another_stream_draws_for_that_stream() -> None:
    recording = Recording({"video": lambda: Frames(40), "short": lambda: Frames(9)})
    pair = ClipPair(3, 1)
    views = Views(tuple(ViewSpec(pair, stream=stream) for stream in ("video", "short", "video", "short")))
    found = [[view.at.max() for view in cut(views, recording, (0, 0, sample))] for sample in range(20)]
    assert max(max(row[1], row[3]) for row in found) < 9
    assert max(max(row[0], row[2]) for row in found) > 20


def test_a_view_more_moves_no_draw_of_the_others() -> None:
    mask = TokenMask(MaskConfig(kind="random", ratio=0.5), (3, 2, 2))
    few = Views(each(ClipPair(3, 1), AUGMENT, masks=[mask]))
    more = Views((*few.specs, ViewSpec(RandomClips(3, 1), (AUGMENT,), (mask, mask))))
    for a, b in zip(cut(few), cut(more)[:2], strict=True):
        assert same(a, b)
    assert not same(cut(few)[0], cut(few, key=(5, 1, 3))[0])


def test_a_view_that_is_not_drawn_is_the_same_in_every_epoch() -> None:
    fixed = ViewSpec(RandomClips(3, 1), (AUGMENT,), (TokenMask(MaskConfig(ratio=0.5), (3, 2, 2)),), drawn=False)
    views = Views((fixed, replace(fixed, drawn=True)))
    first, *others = [
        cut(views, key=(seed, epoch, sample)) for seed, epoch, sample in ((0, 0, 0), (0, 1, 0), (1, 0, 9))
    ]
    assert all(same(first[0], other[0]) and not same(first[1], other[1]) for other in others)


@dataclass(frozen=True)
class Reversed:
    """A clip that is played backwards in half of all samples, which ``backwards`` tells."""

    num_clips: int = 1

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        backwards = int(rng.integers(2))
        at = np.arange(4)[:: -1 if backwards else 1] + epoch
        return [Draw(at, {"backwards": np.array(backwards), "weights": np.full(3, 0.5 * backwards)})]


def test_what_a_plan_did_arrives_as_labels() -> None:
    plan: Plan = Reversed()
    views = Views((ViewSpec(plan, (AUGMENT,), name="clip"), ViewSpec(plan, (AUGMENT,), shares="clip")))
    frames = Frames()
    samples = [cut(views, Recording.of(frames), (0, 2, sample)) for sample in range(12)]
    for view in views.prepare(stack(samples)):
        backwards = view.labels["backwards"]
        assert backwards.shape == (12,) and set(backwards.tolist()) == {0, 1}
        assert view.labels["weights"].tolist() == [[0.5 * int(b)] * 3 for b in backwards]
        assert view.at.tolist() == [[5, 4, 3, 2] if b else [2, 3, 4, 5] for b in backwards]  # the epoch is 2
        assert view.clip.shape == (12, 3, 4, 8, 8)


# --- one view shares what another has drawn


def test_a_view_shares_instants_and_geometry_but_no_colours() -> None:
    recording = Recording.of(Frames())
    views = Views(
        (ViewSpec(RandomClips(4, 2), (AUGMENT,), name="one"), ViewSpec(Still(), (AUGMENT,), shares="one")),
    )
    for sample in range(5):
        one, other = cut(views, recording, (0, 0, sample))
        np.testing.assert_array_equal(one.at, other.at)
        np.testing.assert_array_equal(one.content, other.content)  # the same square of the same frames
        assert all(np.array_equal(one.params[name], other.params[name]) for name in ("box", "flip"))
        assert not np.array_equal(one.params["brightness"], other.params["brightness"])


def test_a_view_of_another_stream_shares_by_the_nearest_time() -> None:
    frames, sweeps = Frames(), Sweeps()
    recording = Recording({"video": lambda: frames, "points": lambda: sweeps})
    views = Views((ViewSpec(RandomClips(4, 3), name="rgb"), ViewSpec(Still(), stream="points", shares="rgb")))
    seen = set[int]()
    for sample in range(20):
        rgb, points = cut(views, recording, (0, 0, sample))
        distance = np.abs(sweeps.times()[None] - frames.times()[rgb.at][:, None])
        np.testing.assert_allclose(distance[np.arange(4), points.at], distance.min(1))
        assert [int(cloud.labels["sweep"][0]) for cloud in points.content] == points.at.tolist()
        seen.update(points.at.tolist())
    assert len(seen) == 12
    assert len(frames.asked) == 20 and all(len(asked) == 4 for asked in frames.asked)


def test_views_of_clouds_share_the_points_that_were_chosen() -> None:
    augment = PointAugment(PointAugmentConfig(rotation="so3", crop="sphere"), num_points=20)
    specs = (
        ViewSpec(Still(), (augment,), name="one"),
        ViewSpec(Still(), (augment,), shares="one"),
        ViewSpec(Still(), (augment,)),
    )
    one, shared, other = cut(Views(specs), Recording.of(Sweeps(1)))
    np.testing.assert_array_equal(one.content[0].source, shared.content[0].source)
    np.testing.assert_array_equal(one.params["affine"], shared.params["affine"])
    assert not np.array_equal(one.content[0].source, other.content[0].source)


# --- masks


def test_a_view_may_have_several_masks_each_of_its_own_size() -> None:
    grid = (3, 4, 4)
    few, many = (TokenMask(MaskConfig(kind="random", ratio=ratio), grid) for ratio in (0.25, 0.75))
    views = Views((ViewSpec(EvenClips(3, 1), (AUGMENT,), (few, many, many)),))
    samples = [cut(views, key=(0, 0, sample)) for sample in range(4)]
    (view,) = stack(samples)
    assert [tuple(mask.keep.shape) for mask in view.masks] == [(4, 36), (4, 12), (4, 12)]
    assert [tuple(mask.masked.shape) for mask in view.masks] == [(4, 12), (4, 36), (4, 36)]
    assert not torch.equal(view.masks[1].keep, view.masks[2].keep)  # each has a draw of its own
    assert len({tuple(row) for row in view.masks[1].keep.tolist()}) == 4
    (alone,) = stack([cut(Views((replace(views.specs[0], masks=(few,)),)), key=(0, 0, i)) for i in range(4)])
    assert torch.equal(alone.mask.keep, view.masks[0].keep)
    with pytest.raises(ValueError, match="too many values"):
        _ = view.mask


@dataclass(frozen=True)
class SizeOfTheBatch:
    """Of ten tokens so many are hidden as the batch says; which ones each sample draws itself."""

    def draw(self, rng: np.random.Generator, batch_rng: np.random.Generator, recording: Recording) -> Mask:
        hidden = int(batch_rng.integers(1, 9))
        order = rng.permutation(10)
        return Mask(np.sort(order[hidden:]), np.sort(order[:hidden]))


def test_the_samples_of_a_step_share_a_draw() -> None:
    views = Views((ViewSpec(EvenClips(3, 1), (AUGMENT,), (SizeOfTheBatch(), SizeOfTheBatch())),))
    dataset = SampleDataset([Entry(str(i)) for i in range(6)], views, lambda entry: Recording.of(Frames()), seed=4)
    sizes = []
    for step in range(20):
        (view,) = collate([dataset[0, index, step] for index in range(6)]).views  # or they would not stack
        first, second = view.masks
        assert len({tuple(row) for row in first.keep.tolist()}) > 1
        (alone,) = collate([dataset[7, 2, step]]).views
        assert alone.masks[0].keep.shape[1] == first.keep.shape[1]
        sizes.append((first.masked.shape[1], second.masked.shape[1]))
    assert len({a for a, _ in sizes}) > 3 and any(a != b for a, b in sizes)
    other = SampleDataset([Entry("0")], views, lambda entry: Recording.of(Frames()), seed=5)
    assert [other[0, 0, step].views[0].masks[0].masked.shape[0] for step in range(20)] != [a for a, _ in sizes]  # type: ignore[index]


# --- transforms


@dataclass(frozen=True)
class Fade:
    """Makes a clip darker, in the worker by the share ``dark``, and on the device by ``fade``."""

    dark: str = "dark"

    def sample(self, rng: np.random.Generator, meta: Any, num_frames: int) -> dict[str, np.ndarray]:
        return {self.dark: rng.random((1, 1)), "fade": rng.random((1, 1))}

    def cut(self, items: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
        return (items * params[self.dark][0, 0]).astype(np.uint8)

    def apply(self, content: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return content * params["fade"].view(-1, 1, 1, 1, 1).float()


def test_a_second_transform_adds_its_own_parameters() -> None:
    alone, both = (Views((ViewSpec(RandomClips(3, 1), steps),)) for steps in ((AUGMENT,), (AUGMENT, Fade())))
    (one,), (two,) = cut(alone), cut(both)
    assert two.params.keys() == {*one.params, "dark", "fade"}
    assert all(np.array_equal(one.params[name], two.params[name]) for name in one.params)
    np.testing.assert_array_equal(two.content, (one.content * two.params["dark"][0, 0]).astype(np.uint8))
    raw = stack([[two], cut(both, key=(5, 0, 4))])
    (done,) = both.prepare(raw)
    expected = AUGMENT.apply(raw[0].clip, raw[0].params) * done.params["fade"].view(2, 1, 1, 1, 1).float()
    torch.testing.assert_close(done.clip, expected)
    assert 0 < float(done.params["fade"].min()) < 1


def test_views_of_the_same_transforms_may_be_joined_before_they_are_prepared() -> None:
    views = Views(each(RandomClips(3, 1, 3), AUGMENT))
    raw = stack([cut(views, key=(0, 0, sample)) for sample in range(2)])
    (joined,) = views.prepare([raw[0].joined(raw[1:])])
    first, *others = views.prepare(raw)
    assert torch.equal(joined.clip, first.joined(others).clip) and len(joined) == 6
    mixed = Views((*views.specs, ViewSpec(EvenClips(3, 1), (Fade(),))))
    with pytest.raises(AssertionError, match="only views that are made alike can be joined"):
        mixed.prepare(raw[:1])


def test_two_transforms_that_draw_the_same_are_told() -> None:
    with pytest.raises(AssertionError, match=r"two transforms draw \['fade'\]"):
        cut(Views((ViewSpec(EvenClips(3, 1), (AUGMENT, Fade(), Fade("darker"))),)))


# --- several clouds a sample


def world(view: View) -> list[np.ndarray]:
    """The points of each cloud, in the world: float64 [N, 3]."""
    poses, bounds = view.labels["pose"].reshape(-1, 4, 4), view.points.offsets.tolist()
    assert len(poses) == len(bounds) - 1
    parts = zip(poses, [view.points.xyz[a:b].double() for a, b in pairwise(bounds)], strict=True)
    return [(xyz @ pose[:3, :3].T + pose[:3, 3]).numpy() for pose, xyz in parts]


SWEEPS = [Sweeps(seed=seed) for seed in range(3)]
WILD = PointAugmentConfig(rotation="so3", scale=(0.5, 2.0), anisotropic=True, translation=0.5, flip=(0.5, 0.5, 0.5))


def drive_views(**settings: Any) -> tuple[Views, list[View]]:
    views = Views((ViewSpec(RandomClips(4, 2), (PointAugment(WILD, **settings),)),))
    return views, stack([views.cut(Recording.of(s), (0, 0, i)) for i, s in enumerate(SWEEPS)], [7, 8, 9])


@pytest.mark.parametrize("unit_sphere", [False, True])
def test_poses_take_moved_clouds_to_the_world(unit_sphere: bool) -> None:
    views, raw = drive_views(num_points=25, unit_sphere=unit_sphere)
    for view in (raw[0], *views.prepare(raw)):
        assert len(view) == 3 and len(view.points) == 12 and view.at.shape == (3, 4)
        assert view.labels["pose"].shape == (3, 4, 4, 4) and view.labels["pose"].dtype == torch.float64
        assert view.sample is not None and view.sample.tolist() == [7, 8, 9]
        source, sweeps = view.points.source, view.points.labels["sweep"].view(12, 25)
        assert source is not None and torch.equal(sweeps[:, 0], view.at.flatten())
        for number, found in enumerate(world(view)):
            own = SWEEPS[number // 4].clouds[int(view.at.flatten()[number])]
            assert own.pose is not None
            places = own.xyz[source.view(12, 25)[number].numpy()].astype(np.float64)
            np.testing.assert_allclose(found, places @ own.pose[:3, :3].T + own.pose[:3, 3], atol=1e-4)
    assert not torch.allclose(raw[0].points.xyz, views.prepare(raw)[0].points.xyz, atol=0.1)


def test_all_sweeps_of_a_sample_have_one_transform() -> None:
    views, raw = drive_views(num_points=None, unit_sphere=False)
    (moved,) = views.prepare(raw)
    assert raw[0].params["affine"].shape == (3, 4, 4)
    bounds = raw[0].points.offsets.tolist()
    for number, (a, b) in enumerate(pairwise(bounds)):
        affine = raw[0].params["affine"][number // 4]
        expected = raw[0].points.xyz[a:b] @ affine[:3, :3].T + affine[:3, 3]
        torch.testing.assert_close(moved.points.xyz[a:b], expected, rtol=1e-4, atol=1e-5)


def test_samples_of_several_clouds_are_parted_joined_and_prepared_alone() -> None:
    views, (raw,) = drive_views(num_points=None)
    (whole,) = views.prepare([raw])
    parts = [views.prepare([raw.part(start, start + 1)])[0] for start in range(3)]
    assert [len(part.points) for part in parts] == [4, 4, 4]
    joined = parts[0].joined(parts[1:])
    assert torch.equal(joined.points.offsets, whole.points.offsets) and torch.equal(joined.at, whole.at)
    torch.testing.assert_close(joined.points.xyz, whole.points.xyz)
    torch.testing.assert_close(joined.labels["pose"], whole.labels["pose"])
    assert joined.sample is not None and joined.sample.tolist() == [7, 8, 9]
    back = parts[2].joined([whole.part(0, 2)])
    assert torch.equal(
        back.points.labels["sweep"],
        torch.cat([parts[2].points.labels["sweep"], whole.part(0, 2).points.labels["sweep"]]),
    )
    assert back.labels["pose"].shape == (3, 4, 4, 4) and back.sample is not None and back.sample.tolist() == [9, 7, 8]


# --- recordings


def test_only_streams_that_a_view_asks_for_are_opened() -> None:
    opened: list[str] = []

    def opener(name: str) -> Any:
        def open_stream() -> Frames:
            opened.append(name)
            return Frames()

        return open_stream

    with Recording({name: opener(name) for name in ("video", "flow", "depth")}) as recording:
        cut(Views((ViewSpec(EvenClips(3, 1)), ViewSpec(EvenClips(3, 1), stream="flow"))), recording)
    assert opened == ["video", "flow"]


def test_a_stream_that_is_not_there_makes_a_broken_sample() -> None:
    views = Views((ViewSpec(EvenClips(3, 1), (AUGMENT,), stream="flo"),))
    dataset = SampleDataset([Entry("a")], views, lambda _: Recording({"video": Frames, "flow": Frames}))
    sample = dataset[0, 0]
    assert sample.views is None
    assert "no stream named 'flo'; did you mean 'flow'? (the recording has: video, flow)" in sample.bad[0].reason


def test_what_is_done_first_is_done_once_to_each_item() -> None:
    done: list[int] = []

    def labelled(cloud: PointCloud) -> PointCloud:
        done.append(int(cloud.labels["sweep"][0]))
        return replace(cloud, labels=cloud.labels | {"row": np.arange(len(cloud))})

    augment = PointAugment(PointAugmentConfig(), num_points=10)
    views = Views((*each(Still(2), augment), ViewSpec(EvenClips(3, 1), (augment,))), (labelled,))
    for view in stack([cut(views, Recording.of(Sweeps(4)))]):
        assert torch.equal(view.points.labels["row"], view.points.source)  # type: ignore[arg-type]
    assert done == [0, 1, 2, 3]


def test_what_cannot_be_used_is_told_as_it_stands() -> None:
    def unfit(cloud: PointCloud) -> PointCloud:
        raise UnfitError("has no floor")

    views = Views((ViewSpec(Still()),), (unfit,))
    assert SampleDataset([Entry("a")], views, lambda _: Recording.of(Sweeps(1)))[0, 0].bad[0].reason == "has no floor"


def test_the_sample_of_a_view_is_the_one_that_is_shown() -> None:
    def opened(entry: Entry) -> Recording:
        if entry.path == "2":
            raise UnfitError("broken")
        return Recording.of(Frames(seed=int(entry.path)))

    dataset = SampleDataset([Entry(str(i)) for i in range(4)], Views((ViewSpec(EvenClips(3, 1), (AUGMENT,)),)), opened)
    batch = collate([dataset[0, index] for index in (3, 2, 0)])
    (view,) = batch.views
    assert view.sample is not None and view.sample.tolist() == batch.indices.tolist()
    assert batch.wanted.tolist() == [3, 2, 0] and batch.indices[1] != 2
    again = dataset[0, 2].views
    assert again is not None
    np.testing.assert_array_equal(again[0].content, view.clip[1])
