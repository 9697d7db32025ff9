"""Methods and data that only tests have, to show that the contract carries them: registered while a test runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, normalize

from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.augment.video import VideoAugment, VideoAugmentConfig, centre_crop
from st_ssl.core.config import Config
from st_ssl.core.random import Key
from st_ssl.core.types import Entry, PointCloud, View
from st_ssl.data.base import DATA, CutsViews, DataSource
from st_ssl.data.clip_plans import Draw, EvenClips, RandomClips
from st_ssl.data.loading.sample_dataset import SampleDataset
from st_ssl.data.streams.base import Recording, Stream
from st_ssl.data.views import Views, ViewSpec, each
from st_ssl.encoders.base import Encoder
from st_ssl.engine.run_config import run_model
from st_ssl.methods.base import METHODS, Look, Losses, Method, Moment, Outputs
from st_ssl.objectives.contrastive import info_nce
from tests.methods.steps import NoiseReader


@contextmanager
def registered(*pairs: tuple[Any, type[Any], type[Config]]) -> Iterator[None]:
    """Classes, each in a registry by its configuration, until the end."""
    assert METHODS.names() and DATA.names()  # what is to be found is found before
    registries: tuple[Any, ...] = (METHODS, DATA)
    before = [(registry, dict(registry._classes), dict(registry._configs)) for registry in registries]
    try:
        for registry, cls, config in pairs:
            registry.register(config)(cls)
        run_model.cache_clear()
        yield
    finally:
        for registry, classes, configs in before:
            registry._classes, registry._configs = classes, configs
        run_model.cache_clear()


# -------------------------------------------------------------------- two streams, two encoders (as CoCLR has them)


class TwoStreamsConfig(Config):
    """Twelve recordings of two streams of noise: the second has half the rate."""

    name: Literal["two_streams"] = "two_streams"
    root: str | None = None
    num_workers: int = 0


class Slow(NoiseReader):
    """Every other instant of a video, inverted."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.pixels = 255 - self.pixels[::2]
        self.meta = type(self.meta)(len(self.pixels), self.meta.fps / 2, self.meta.width, self.meta.height)


class TwoStreams(DataSource):
    num_workers, epoch_size, max_bad_share = 0, None, 0.1

    def entries(self) -> Sequence[Entry]:
        return [Entry(str(number)) for number in range(12)]

    def dataset(self, entries: Sequence[Entry], views: CutsViews, seed: Key = 0) -> SampleDataset:
        return SampleDataset(entries, views, _two, seed=seed)

    def evaluation(self, input: Any, num_views: int = 1, span: Any = (0.0, 1.0), jitter: float = 0.0) -> Views:
        return Views(each(EvenClips(input.num_frames, input.stride, num_views), centre_crop(input.size)))

    def raw_features(self, view: View) -> dict[str, np.ndarray]:
        return {}


def _two(entry: Entry) -> Recording:
    seed = int(entry.path)
    return Recording({"rgb": partial(NoiseReader, seed), "flow": partial(Slow, seed)})


class CoTrainingConfig(Config):
    """Clips of two streams of the same moment, each with an encoder of its own, agree."""

    name: Literal["co_training"] = "co_training"


class CoTraining(Method[CoTrainingConfig]):
    """The encoder of the flow is a further one, and both are exported."""

    def __init__(self, config: CoTrainingConfig, encoder: Encoder, flow: Encoder) -> None:
        super().__init__(config, encoder)
        self.flow = flow
        clip = encoder.input
        augment = VideoAugment(VideoAugmentConfig(), clip.size)
        plan = RandomClips(clip.num_frames, clip.stride)
        self.views = Views(
            (
                ViewSpec(plan, (augment,), name="rgb"),
                ViewSpec(plan, (augment,), stream="flow", shares="rgb"),
            )
        )
        self.projector = nn.Linear(encoder.embed_dim, 8)

    def outputs(self, views: list[View]) -> Outputs:
        rgb, flow = views
        found = {"rgb": self.encoder(rgb.clip).pooled, "flow": self.flow(flow.clip).pooled}
        return Outputs({name: self.projector(x) for name, x in found.items()})

    def losses(self, outputs: Outputs) -> Losses:
        return Losses(info_nce(outputs["rgb"], outputs["flow"], 0.1)[0])

    def exports(self) -> dict[str, Encoder]:
        return {"rgb": self.encoder, "flow": self.flow}


# -------------------------------------------------------------------- sweeps with poses (as TREND has them)


class DrivesConfig(Config):
    """Twelve drives past one static scene, five sweeps each."""

    name: Literal["toy_drives"] = "toy_drives"
    root: str | None = None
    num_workers: int = 0


class Meta:
    num_frames = 5


class Drive:
    """Sweeps of a static scene from a sensor that moves and turns."""

    meta = Meta()

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.world = rng.uniform(-4, 4, (80, 3))
        self.speed, self.turn = rng.uniform(0.2, 1.0), rng.uniform(-0.2, 0.2)

    def pose(self, index: int) -> np.ndarray:
        angle = self.turn * index
        pose = np.eye(4)
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose[0, 3] = self.speed * index
        return pose

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, PointCloud]]:
        for index in at:
            pose = self.pose(index)
            xyz = (self.world - pose[:3, 3]) @ pose[:3, :3]
            yield index, PointCloud(xyz.astype(np.float32), pose=pose)

    def times(self) -> np.ndarray:
        return np.arange(5) / 10

    def close(self) -> None:
        """Nothing is open."""


class Drives(TwoStreams):
    modality = "points"

    def dataset(self, entries: Sequence[Entry], views: CutsViews, seed: Key = 0) -> SampleDataset:
        return SampleDataset(entries, views, lambda entry: Recording.of(Drive(int(entry.path)), "sweeps"), seed=seed)


class Consecutive:
    """Three sweeps in a row."""

    num_clips = 1

    def draw(self, rng: np.random.Generator, stream: Stream, epoch: int = 0) -> list[Draw]:
        start = int(rng.integers(0, stream.meta.num_frames - 2))
        return [Draw(np.arange(start, start + 3), {"start": np.array([start])})]


class ForecastConfig(Config):
    """Where is the sensor at the third sweep, seen from the first?"""

    name: Literal["forecast"] = "forecast"


class Forecast(Method[ForecastConfig]):
    modality = "points"

    def __init__(self, config: ForecastConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        augment = PointAugmentConfig(rotation="z", scale=(0.9, 1.1), flip=(0.5, 0.0, 0.0))
        drive = PointAugment(augment, None, unit_sphere=False, centre=False)
        self.views = Views((ViewSpec(Consecutive(), (drive,)),))
        self.head = nn.Linear(2 * encoder.embed_dim, 3)

    def forward(self, views: list[View]) -> Losses:
        (view,) = views
        pooled = self.encoder(view.points).pooled.unflatten(0, view.at.shape)
        pose = view.labels["pose"]
        ahead = (torch.linalg.inv(pose[:, 0]) @ pose[:, 2])[:, :3, 3].to(pooled.dtype)
        return Losses(mse_loss(self.head(pooled[:, :2].flatten(1)), ahead))


# -------------------------------------------------------------------- an adversarial term (as MARLIN has it)


class AdversaryConfig(Config):
    """A generator of features that a critic cannot tell from those of the encoder's other view."""

    name: Literal["adversary"] = "adversary"


class Adversary(Method[AdversaryConfig]):
    """One loss: the critic sees what is detached, the generator goes through a critic whose parameters are."""

    def __init__(self, config: AdversaryConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        augment = VideoAugment(VideoAugmentConfig(), clip.size)
        self.views = Views(each(RandomClips(clip.num_frames, clip.stride, 2), augment))
        self.generator = nn.Linear(encoder.embed_dim, encoder.embed_dim)
        self.critic = nn.Sequential(nn.Linear(encoder.embed_dim, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, views: list[View]) -> Losses:
        real, seen = (self.encoder(view.clip).pooled for view in views)
        made = self.generator(seen)
        told = torch.cat([self.critic(real.detach()), self.critic(made.detach())])
        truth = torch.cat([torch.ones_like(real[:, :1]), torch.zeros_like(made[:, :1])])
        critic = binary_cross_entropy_with_logits(told, truth)
        fixed = {name: p.detach() for name, p in self.critic.named_parameters()}
        fooled = functional_call(self.critic, fixed, (made,))
        generator = binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled))
        return Losses(critic + generator, {"critic": critic, "generator": generator})


# -------------------------------------------------------------------- mining before an epoch


class MiningConfig(Config):
    """Each sample attracts the one that was nearest to it before the epoch."""

    name: Literal["mining"] = "mining"
    num_samples: int = 12


class Mining(Method[MiningConfig]):
    """What is mined is a buffer of fixed shape, and so is what was seen of each sample."""

    nearest: Tensor
    bank: Tensor

    def __init__(self, config: MiningConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        augment = VideoAugment(VideoAugmentConfig(), clip.size)
        self.views = Views(each(RandomClips(clip.num_frames, clip.stride), augment))
        self.register_buffer("nearest", torch.arange(config.num_samples))
        self.register_buffer("bank", torch.zeros(config.num_samples, encoder.embed_dim))

    def before_epoch(self, moment: Moment, look: Look) -> None:
        plan = EvenClips(self.encoder.input.num_frames, self.encoder.input.stride)
        index, features = look(each(plan, centre_crop(self.encoder.input.size)), self.encoder)
        unit = normalize(features[:, 0], dim=1)
        near = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
        self.nearest[index] = index[near]

    def forward(self, views: list[View]) -> Losses:
        (view,) = views
        assert view.sample is not None
        pooled = self.encoder(view.clip).pooled
        kept = {"features": pooled.detach(), "sample": view.sample}
        return Losses(mse_loss(pooled, self.bank[self.nearest[view.sample]]) + 0.1 * pooled.var(0).mean(), {}, kept)

    def after_update(self, moment: Moment, kept: Mapping[str, Tensor]) -> None:
        self.bank[kept["sample"]] = kept["features"]


# -------------------------------------------------------------------- a frozen teacher from a file


class DistilConfig(Config):
    """The features of a frozen teacher are the targets."""

    name: Literal["distil"] = "distil"


class Distil(Method[DistilConfig]):
    def __init__(self, config: DistilConfig, encoder: Encoder, teacher: Encoder) -> None:
        super().__init__(config, encoder)
        self.teacher = teacher
        clip = encoder.input
        self.views = Views(each(RandomClips(clip.num_frames, clip.stride), centre_crop(clip.size)))
        self.head = nn.Linear(encoder.embed_dim, teacher.embed_dim)

    def forward(self, views: list[View]) -> Losses:
        with torch.no_grad():
            target = self.teacher(views[0].clip).pooled
        return Losses(mse_loss(self.head(self.encoder(views[0].clip).pooled), target))
