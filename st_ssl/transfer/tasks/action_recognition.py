"""Action recognition: what a video shows, one class or any number of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from st_ssl.augment.finetune import FinetuneAugment, FinetuneAugmentConfig
from st_ssl.augment.mixing import MixConfig, mix, mixed_targets
from st_ssl.core.config import Config
from st_ssl.core.inputs import InputConfig, Modality
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import Entry, Features
from st_ssl.data.base import CutsViews, DataSource
from st_ssl.data.clip_plans import Plan, RandomClips, SegmentClips
from st_ssl.data.video.views import multi_views
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import Encoder
from st_ssl.parts.attentive_pooling import QueryPool
from st_ssl.parts.projector import classifier
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS
from st_ssl.transfer.tasks.label_survey import Look
from st_ssl.transfer.tasks.labels import Labels, LabelTask
from st_ssl.transfer.tasks.metrics import ScoreMeter


class RecogniseConfig(Config):
    """Which label of a video is learned (``target``; the only one where null), or with ``multi_label`` all of its tags.

    ``head``: ``linear`` on the encoder's pooled features, or ``attentive``, on what a learned query with
    ``attention_heads`` heads gathers from its tokens (V-JEPA, 2024). ``norm``, of what is pooled or gathered from:
    ``layer`` as VideoMAE (2022) has it before its last layer, ``batch`` without affine parameters as in the linear
    probes of MAE (2022), ``none`` as in convolutional networks (SlowFast, 2019). ``hidden``: the widths of layers
    before the last one; ``dropout`` comes before each layer.

    ``class_weights``: ``balanced`` weighs the loss of each class by the inverse of how often samples of a fit have it;
    of a tag, its presence by how much rarer that is than its absence. ``label_smoothing``: Szegedy et al. 2016.
    ``mix``: mixup and cutmix of the clips of a training batch; none where null.

    ``augment``: how training clips are varied; ``repeats``: how many clips of a video one batch has, each varied anew
    (repeated augmentation, Hoffer et al. 2020). A test video is looked at in ``clips`` clips at even distances, of
    each ``crops`` squares along the longer side, 1 or 3 (SlowFast, 2019), their probabilities averaged; in validation
    it is the centre of one clip.

    ``sampling``: a clip is ``dense``, its frames ``input.stride`` apart, or ``uniform``, a frame of each of as many
    equal segments of the whole video, whatever the stride (TSN, 2016): at random in training, and in testing at places
    that move from clip to clip.
    """

    name: Literal["recognise"] = "recognise"
    target: str | None = None
    multi_label: bool = False
    head: Literal["linear", "attentive"] = "linear"
    norm: Literal["layer", "batch", "none"] = "layer"
    hidden: tuple[PositiveInt, ...] = ()
    attention_heads: int = Field(default=4, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    mix: MixConfig | None = None
    augment: FinetuneAugmentConfig = FinetuneAugmentConfig(jitter=0, grayscale=0, blur=0)
    repeats: int = Field(default=1, gt=0)
    clips: int = Field(default=5, gt=0)
    crops: Literal[1, 3] = 3
    sampling: Literal["dense", "uniform"] = "dense"

    @model_validator(mode="after")
    def _tell_ignored(self) -> Self:
        if self.multi_label and self.target is not None:
            warnings.warn(f"task.target={self.target} is ignored: multi_label learns all tags", stacklevel=2)
        if self.head == "linear" and self.attention_heads != type(self).model_fields["attention_heads"].default:
            warnings.warn(f"task.attention_heads={self.attention_heads} is ignored: the head is linear", stacklevel=2)
        return self


class ClipHead(nn.Module):
    """Scores [B, K] of whole clips."""

    def __init__(self, dim: int, config: RecogniseConfig, num_classes: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        if config.norm == "layer":
            self.norm = nn.LayerNorm(dim, eps=1e-6)
        elif config.norm == "batch":
            self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6)
        self.pool = QueryPool(dim, config.attention_heads) if config.head == "attentive" else None
        self.dropout = nn.Dropout(config.dropout)
        self.mlp = classifier(dim, config.hidden, config.dropout, num_classes)

    def forward(self, features: Features, shown: Shown) -> Tensor:
        if self.pool is None:
            return self.mlp(self.dropout(self.norm(features.pooled)))
        tokens = features.as_tokens()
        tokens = self.norm(tokens.flatten(0, 1)).view_as(tokens)
        return self.mlp(self.dropout(self.pool(tokens)))


@TASKS.register(RecogniseConfig)
class Recognise(LabelTask):
    """One label of a video, or all of its tags."""

    modality: ClassVar[Modality] = "video"
    views_together: ClassVar[bool] = True

    config: RecogniseConfig

    def __init__(self, config: RecogniseConfig) -> None:
        super().__init__(config)
        self.labels = Labels(config.target, config.multi_label)
        self.metric = "mAP" if config.multi_label else "top1"
        self.votes = config.clips * config.crops
        self.weights: Tensor | None = None

    def learn_classes(self, parts: Parts, look: Look) -> list[str]:
        names = super().learn_classes(parts, look)
        self.begin(parts.train)
        return names

    def begin(self, train: Sequence[Entry]) -> None:
        if self.config.class_weights == "balanced":
            count = torch.from_numpy(self.labels.counts(train)).float().clamp_min(1)  # a fraction may lack a tag
            n = len(train)
            self.weights = (n - count).clamp_min(1) / count if self.config.multi_label else n / (len(count) * count)

    def head(self, encoder: Encoder) -> nn.Module:
        return ClipHead(encoder.embed_dim, self.config, len(self.labels.classes))

    def meter(self) -> ScoreMeter:
        return ScoreMeter(len(self.labels.classes), self.config.multi_label)

    def probabilities(self, scores: Tensor) -> Tensor:
        return scores.sigmoid() if self.config.multi_label else scores.softmax(1)

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """The mean over the labelled rows; ``targets`` may also be shares of classes, float [R, K]."""
        smoothing = self.config.label_smoothing
        weights = None if self.weights is None else self.weights.to(scores)
        if targets.ndim == 1:
            known = targets >= 0
            soft = one_hot(targets[known], scores.shape[1]).to(scores)
        else:
            known = (targets >= 0).all(1)
            soft = targets[known].to(scores)
        if self.config.multi_label:
            smooth = (1 - smoothing) * soft + smoothing / 2
            return binary_cross_entropy_with_logits(scores[known], smooth, pos_weight=weights)
        return cross_entropy(scores[known], soft, weights, label_smoothing=smoothing)

    def mixed(self, shown: Shown, targets: Tensor, key: tuple[Key, ...]) -> tuple[Shown, Tensor]:
        if self.config.mix is None:
            return shown, targets
        clip, partner, weight = mix(shown.view.clip, self.config.mix, keyed_rng(*key))
        soft = mixed_targets(targets, partner, weight, len(self.labels.classes))
        return replace(shown, view=replace(shown.view, content=clip)), soft

    def training_views(self, source: DataSource, input: InputConfig) -> CutsViews:
        clips: Plan = RandomClips(input.num_frames, input.stride, self.config.repeats)
        if self.config.sampling == "uniform":
            clips = SegmentClips(input.num_frames, self.config.repeats, random=True)
        return Views(each(clips, FinetuneAugment(self.config.augment, input.size, input.mean, input.std)))

    def testing_views(self, source: DataSource, input: InputConfig, votes: int) -> CutsViews:
        assert votes in (1, self.votes), f"{votes} views of a task with {self.votes}"
        clips = 1 if votes == 1 else self.config.clips
        crops: Literal[1, 3] = 1 if votes == 1 else self.config.crops
        if self.config.sampling == "uniform":
            return multi_views(input, clips, crops, SegmentClips(input.num_frames, clips))
        return source.evaluation(input) if votes == 1 else multi_views(input, clips, crops)
