"""Video augmentation that is consistent over time: parameters are drawn once per clip, then pixels follow.

``sample`` draws the parameters of a clip in the worker; ``cut`` crops and resizes the decoded frames there, uint8 to
uint8; ``apply`` does flip, colour and blur for a whole batch on its device. The parameters have a time axis of 1, so
every frame of a clip gets the same. Legend: B batch, T frames, H W source size, S output size, k values per parameter.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional as F

from st_ssl.augment import colour
from st_ssl.core.config import Config
from st_ssl.core.errors import SampleError
from st_ssl.core.types import VideoMeta

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0)]
Triple = tuple[float, float, float]

KINETICS_MEAN = (0.45, 0.45, 0.45)  # of the public SlowFast and PyTorchVideo models
KINETICS_STD = (0.225, 0.225, 0.225)

_TRIES = 10  # of the random resized crop, before it falls back to the centre
_DRAWS = 4 * _TRIES + 9  # uniform numbers per clip or frame, whatever the settings
_CACHE = 1 << 18  # numbers worked on at a time on a CPU: all passes over them stay in its cache, 3 times as fast

_Operation = Callable[[Tensor, Tensor], Tensor]

# In the order in which they are applied: parameter, the value that changes nothing, the operation on pixels.
_OPERATIONS: dict[str, tuple[float, _Operation]] = {
    "flip": (0.0, colour.flip_),
    "brightness": (1.0, colour.brightness_),
    "contrast": (1.0, colour.contrast_),
    "saturation": (1.0, colour.saturation_),
    "hue": (0.0, colour.hue_),
    "grayscale": (0.0, colour.grayscale_),
    "blur": (0.0, colour.gaussian_blur_),
    "solarize": (0.0, colour.solarize_),
}
_JITTER = ("brightness", "contrast", "saturation", "hue")
_ORDERS = torch.tensor(list(permutations(range(len(_JITTER)))))  # the first is that of _JITTER


class VideoAugmentConfig(Config):
    """Settings of ``VideoAugment``; probabilities lie in 0..1, ranges are (low, high).

    ``crop``: ``random_resized`` (Inception, 2015: ``area`` is the share of the frame, ``aspect`` is width / height),
    ``multi_scale`` (TSN, 2016: sides are ``scales`` of the shorter side, at 5 or 13 fixed ``positions``), ``centre``
    (the largest centred square). ``jitter`` is the probability that colours are changed at all, by factors in
    1 ± ``brightness``, ``contrast``, ``saturation`` and a turn of the hue within ± ``hue`` of the circle, in this order
    (``jitter_order`` ``fixed``) or a drawn one (``random``); ``blur_sigma`` is in output pixels; ``solarize`` inverts
    values from a half on (BYOL, 2020). ``per_frame`` draws anew for every frame: it exists to measure what
    consistency over time is worth. A setting that the chosen crop ignores is a warning. Size and normalisation of
    the clip are the encoder's affair and not settings of this.
    """

    crop: Literal["random_resized", "multi_scale", "centre"] = "random_resized"
    area: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (0.75, 1.3333)
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    positions: Literal[5, 13] = 5
    flip: Probability = 0.5
    jitter: Probability = 0.8
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    jitter_order: Literal["fixed", "random"] = "fixed"
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: Probability = 0.0
    per_frame: bool = False

    @field_validator("area")
    @classmethod
    def _area(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError(f"a share of the frame needs 0 < low <= high <= 1, got {value}")
        return value

    @field_validator("aspect", "blur_sigma")
    @classmethod
    def _positive_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"a range needs 0 < low <= high, got {value}")
        return value

    @field_validator("scales")
    @classmethod
    def _scales(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < scale <= 1 for scale in value):
            raise ValueError(f"scales need one or more shares of the shorter side, each in 0 < scale <= 1, got {value}")
        return value

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> VideoAugmentConfig:
        used_by = {"area": "random_resized", "aspect": "random_resized", "scales": "multi_scale"}
        for name, crop in (used_by | {"positions": "multi_scale"}).items():
            if crop != self.crop and getattr(self, name) != type(self).model_fields[name].default:
                warnings.warn(f"{name} is ignored with crop: {self.crop}; it belongs to crop: {crop}", stacklevel=3)
        return self


class VideoAugment:
    """Crop, flip, colour jitter, grayscale and blur as in SimCLR (2020), made consistent over time as in CVRL (2021).

    Contrast is about the mean grey of the whole clip. ``sample`` and ``cut`` run in the worker, ``apply`` once per
    batch on the training device.
    """

    def __init__(
        self, config: VideoAugmentConfig, size: int = 112, mean: Triple = KINETICS_MEAN, std: Triple = KINETICS_STD
    ) -> None:
        assert size > 0 and min(std) > 0, (size, std)
        self.config, self.size, self.mean, self.std = config, size, mean, std

    geometric: ClassVar[tuple[str, ...]] = ("box", "flip")

    def sample(self, rng: np.random.Generator, meta: VideoMeta, num_frames: int) -> dict[str, np.ndarray]:
        """Draw the parameters of one clip of ``num_frames`` frames: name to [1, k], or [T, k] with ``per_frame``.

        ``box`` int64 [., 4] is top, left, height, width in source pixels; ``flip``, ``brightness``, ``contrast``,
        ``saturation``, ``hue``, ``grayscale``, ``blur``, ``solarize`` are float32 [., 1]: 0 or 1 for flip, grayscale
        and solarize, factors, a part of the hue circle, a sigma in output pixels. An operation that is not chosen has
        its neutral value (factor 1, all else 0). ``colour_order`` int64 [., 1] numbers the orders of the four colour
        changes; 0 is the fixed one. Keys and the count of draws do not depend on the settings, so a setting never
        shifts the draws of another, and the first frame of a ``per_frame`` clip has the parameters of the consistent
        one.
        """
        c = self.config
        rows = num_frames if c.per_frame else 1
        order, solarize = np.zeros((2, rows))
        if c.jitter_order == "random" or c.solarize:
            # What came later draws from a stream of its own, far off in that of the key: it shifts none of the others.
            bits: Any = rng.bit_generator
            order, solarize = np.random.Generator(bits.jumped()).random((rows, 2)).T
        draws = rng.random((rows, _DRAWS))
        crop, gates, amounts = draws[:, : 4 * _TRIES], draws[:, 4 * _TRIES : -5], draws[:, -5:]
        flip, jitter, gray, blur = (gates < (c.flip, c.jitter, c.grayscale, c.blur)).T

        def factor(strength: float, amount: np.ndarray) -> np.ndarray:
            low = max(0.0, 1.0 - strength)
            return np.where(jitter, low + (1.0 + strength - low) * amount, 1.0)

        values = {
            "flip": flip,
            "brightness": factor(c.brightness, amounts[:, 0]),
            "contrast": factor(c.contrast, amounts[:, 1]),
            "saturation": factor(c.saturation, amounts[:, 2]),
            "hue": np.where(jitter, c.hue * (2 * amounts[:, 3] - 1), 0.0),
            "grayscale": gray,
            "blur": np.where(blur, c.blur_sigma[0] + (c.blur_sigma[1] - c.blur_sigma[0]) * amounts[:, 4], 0.0),
            "solarize": solarize < c.solarize,
        }
        params = {name: value.astype(np.float32)[:, None] for name, value in values.items()}
        number = (order * len(_ORDERS)).astype(np.int64) if c.jitter_order == "random" else np.zeros(rows, np.int64)
        return {"box": _boxes(c, crop, meta.height, meta.width), "colour_order": number[:, None], **params}

    def cut(self, frames: Sequence[np.ndarray], params: Mapping[str, np.ndarray]) -> np.ndarray:
        """Crop ``frames``, T arrays uint8 [H, W, 3], by ``params["box"]`` and resize them to uint8 [T, S, S, 3].

        Bilinear with antialiasing, in uint8 throughout. Raises ``SampleError`` for a frame that does not hold its box
        (its size is not the one in the metadata, or it changes in mid-clip).
        """
        boxes = params["box"]
        assert len(boxes) in (1, len(frames)), f"{len(boxes)} boxes for {len(frames)} frames"
        crops = []
        for frame, (top, left, height, width) in zip(frames, np.broadcast_to(boxes, (len(frames), 4)), strict=True):
            crop = frame[top : top + height, left : left + width]
            if crop.shape[:2] != (height, width):
                reason = f"a frame is {frame.shape[1]} x {frame.shape[0]} pixels, smaller than the metadata say"
                raise SampleError("clip", f"{reason}: it does not hold the crop {[top, left, height, width]}")
            crops.append(crop)
        if len(boxes) == 1:
            return self._resize(np.stack(crops))
        return np.concatenate([self._resize(crop[None]) for crop in crops])

    def _resize(self, crops: np.ndarray) -> np.ndarray:
        # Channels last in memory: torch has vectorised code for uint8 in this layout, 7 times as fast as planes.
        pixels = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2)
        size = (self.size, self.size)
        resized = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
        return resized.permute(0, 2, 3, 1).contiguous().numpy()

    @torch.no_grad()
    def apply(self, frames: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Augment and normalise a batch: ``frames`` uint8 [B, T, S, S, 3] to float32 [B, 3, T, S, S], same device.

        ``params`` are those of ``sample``, each [B, 1 or T, 1] and best on the CPU; ``box`` is not read. A sample
        pays for an operation only where its parameter is not neutral.
        """
        assert frames.dtype == torch.uint8, frames.dtype
        b, t, _, _, channels = frames.shape
        assert channels == 3, frames.shape
        values = {name: params[name].reshape(b, -1).to("cpu", torch.float32) for name in _OPERATIONS}
        order = params["colour_order"].reshape(b, -1).cpu()
        rows = max(value.shape[1] for value in (*values.values(), order))
        assert rows in (1, t), f"parameters for {rows} frames, clips of {t}"
        strengths = {name: value.expand(b, rows).flatten() for name, value in values.items()}
        turns = _ORDERS[order.expand(b, rows).flatten()]
        if rows > 1:  # parameters of their own make every frame a clip of one
            frames = frames.flatten(0, 1).unsqueeze(1)
        n, length, height, width, _ = frames.shape
        clips = torch.empty((n, 3, length, height, width), dtype=torch.float32, device=frames.device)
        step = max(1, _CACHE // max(1, clips[:1].numel())) if frames.device.type == "cpu" else max(1, n)
        for start in range(0, n, step):
            part = slice(start, start + step)
            own = {name: strength[part] for name, strength in strengths.items()}
            self._augment_(clips[part].copy_(frames[part].permute(0, 4, 1, 2, 3)).div_(255), own, turns[part])
        return clips.view(b, t, 3, height, width).transpose(1, 2).contiguous() if rows > 1 else clips

    def _augment_(self, clips: Tensor, strengths: Mapping[str, Tensor], turns: Tensor) -> None:
        """In place on float [N, 3, T, S, S]; ``strengths``, [N] each, and ``turns`` [N, 4], which colour change comes
        when, are on the CPU."""
        for operation, strength, wanted in _steps(strengths, turns):
            chosen = wanted.nonzero().flatten()
            if len(chosen) == len(clips):
                operation(clips, strength.to(clips.device))
            elif len(chosen):
                index = chosen.to(clips.device)
                part = operation(clips.index_select(0, index), strength[chosen].to(clips.device))
                clips.index_copy_(0, index, part)
        mean, std = (clips.new_tensor(value).view(3, 1, 1, 1) for value in (self.mean, self.std))
        clips.sub_(mean).div_(std)


def _steps(strengths: Mapping[str, Tensor], turns: Tensor) -> Iterator[tuple[_Operation, Tensor, Tensor]]:
    """Operations in their order, with the strengths [N] and the clips bool [N] for which it is their turn."""
    for name, (neutral, operation) in _OPERATIONS.items():
        if name not in _JITTER:
            yield operation, strengths[name], strengths[name] != neutral
        elif name == _JITTER[0]:
            wanted = [strengths[change] != _OPERATIONS[change][0] for change in _JITTER]
            changes = [number for number, chosen in enumerate(wanted) if bool(chosen.any())]
            for turn in turns.T:
                for number in changes:
                    change = _JITTER[number]
                    yield _OPERATIONS[change][1], strengths[change], wanted[number] & (turn == number)


def undo_normalise(clip: Tensor, mean: Triple, std: Triple) -> Tensor:
    """Normalised [..., 3, T, H, W] back to RGB in [0, 1]."""
    scale, shift = (clip.new_tensor(value).view(3, 1, 1, 1) for value in (std, mean))
    return torch.addcmul(shift, clip, scale).clamp_(0.0, 1.0)


def centre_crop(size: int, mean: Triple = KINETICS_MEAN, std: Triple = KINETICS_STD) -> VideoAugment:
    """The augmentation of evaluation, which draws nothing: the largest centred square, resized and normalised."""
    return VideoAugment(VideoAugmentConfig(crop="centre", flip=0, jitter=0, grayscale=0, blur=0), size, mean, std)


def _boxes(config: VideoAugmentConfig, draws: np.ndarray, height: int, width: int) -> np.ndarray:
    """Top, left, height, width of the crop of each row of ``draws``: int64 [R, 4], always inside the frame."""
    if config.crop == "random_resized":
        return _random_resized(config, draws.reshape(len(draws), 4, _TRIES), height, width)
    if config.crop == "multi_scale":
        return _multi_scale(config, draws, height, width)
    side = min(height, width)
    return np.tile(_centred(side, side, height, width), (len(draws), 1))


def _centred(crop_height: int, crop_width: int, height: int, width: int) -> np.ndarray:
    return np.array([(height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width], dtype=np.int64)


def _random_resized(config: VideoAugmentConfig, draws: np.ndarray, height: int, width: int) -> np.ndarray:
    """The first of ten tries, with uniform area and log-uniform aspect, that fits; else the largest centred crop
    whose aspect is in range. ``draws`` is [R, 4, tries]."""
    low, high = config.aspect
    area = height * width * (config.area[0] + (config.area[1] - config.area[0]) * draws[:, 0])
    aspect = np.exp(np.log(low) + (np.log(high) - np.log(low)) * draws[:, 1])
    crop_height, crop_width = np.rint(np.sqrt(area / aspect)), np.rint(np.sqrt(area * aspect))
    fits = (crop_height >= 1) & (crop_height <= height) & (crop_width >= 1) & (crop_width <= width)
    top = np.floor(draws[:, 2] * (height - crop_height + 1))
    left = np.floor(draws[:, 3] * (width - crop_width + 1))
    tries = np.stack([top, left, crop_height, crop_width], axis=2)
    boxes = tries[np.arange(len(draws)), fits.argmax(axis=1)].astype(np.int64)
    nearest = min(max(width / height, low), high)
    fallback = (
        max(1, min(height, round(width / nearest))),
        max(1, min(width, round(height * nearest))),
    )
    boxes[~fits.any(axis=1)] = _centred(*fallback, height, width)
    return boxes


def _multi_scale(config: VideoAugmentConfig, draws: np.ndarray, height: int, width: int) -> np.ndarray:
    """A height and a width from neighbouring scales, at a corner or the centre, or at one of 8 positions between."""
    sides = [max(1, int(min(height, width) * scale)) for scale in config.scales]
    pairs = np.array([(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1])
    quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]  # of the room above and to the left of the crop
    if config.positions == 13:
        quarters += [(0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
    size = pairs[(draws[:, 0] * len(pairs)).astype(np.int64)]
    place = np.array(quarters)[(draws[:, 1] * len(quarters)).astype(np.int64)]
    corner = (np.array([height, width]) - size) * place // 4
    return np.concatenate([corner, size], axis=1).astype(np.int64)
