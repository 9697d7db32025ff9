"""Pixel operations on batches of clips: each sample has its own strength, and all frames of a sample share it.

Clips are float32 [N, 3, T, H, W], RGB in [0, 1], and are changed in place; a strength is [N], on the clips' device.
Each operation agrees with its namesake in ``torchvision.transforms.v2.functional`` on a float image, taken as a clip
of one frame, and the neutral strength changes nothing. No operation is a matrix product or a convolution, whose
precision on a GPU depends on global settings (TF32, autocast).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, rounded as torchvision does


def _per_sample(strength: Tensor) -> Tensor:
    return strength.view(-1, 1, 1, 1, 1)


def luma(clips: Tensor) -> Tensor:
    """The grey value of each pixel: [N, 3, T, H, W] to [N, 1, T, H, W]."""
    red, green, blue = clips.split(1, dim=1)
    return red.mul(_LUMA[0]).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def brightness_(clips: Tensor, factor: Tensor) -> Tensor:
    """Scale by ``factor`` >= 0; 1 is neutral."""
    return clips.mul_(_per_sample(factor)).clamp_(max=1.0)


def _blend_(clips: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    factor = _per_sample(factor)
    return clips.mul_(factor).add_(other.mul_(1 - factor)).clamp_(0.0, 1.0)


def contrast_(clips: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey of the whole clip (a mean for each frame would make it flicker); 1 is neutral."""
    red, green, blue = clips.mean(dim=(2, 3, 4)).unbind(dim=1)
    grey = red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
    return _blend_(clips, _per_sample(grey), factor)


def saturation_(clips: Tensor, factor: Tensor) -> Tensor:
    """Blend each pixel with its own grey value: 0 leaves no colour, 1 is neutral."""
    return _blend_(clips, luma(clips), factor)


def hue_(clips: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by ``shift`` in [-0.5, 0.5] of the colour circle, keeping HSV saturation and value; 0 is neutral.

    With the hue h on a circle of length 6, every channel is min + chroma · f(h), f piecewise linear. So saturation is
    never formed, and the usual three cases for the greatest channel fold into one: on the half circle where green is
    above blue, h = 1 + (g + b - r - min) / chroma, and on the other half it is the mirror image.
    """
    red, green, blue = clips.unbind(dim=1)
    low = torch.minimum(torch.minimum(red, green), blue)
    chroma = torch.maximum(torch.maximum(red, green), blue).sub_(low)
    hue = (green + blue).sub_(red).sub_(low)
    hue.div_(chroma.clamp_min(torch.finfo(chroma.dtype).tiny))  # grey pixels: 0 / tiny, and their hue does not matter
    hue.add_(1.0).copysign_(green - blue).add_(6 * shift.view(-1, 1, 1, 1))
    hue.sub_((hue / 6).floor_(), alpha=6)  # remainder(6) at a tenth of its price
    torch.addcmul(low, (hue - 3).abs_().sub_(1).clamp_(0, 1), chroma, out=red)
    torch.addcmul(low, (hue - 2).abs_().neg_().add_(2).clamp_(0, 1), chroma, out=green)
    torch.addcmul(low, hue.sub_(4).abs_().neg_().add_(2).clamp_(0, 1), chroma, out=blue)
    return clips


def grayscale_(clips: Tensor, _: Tensor) -> Tensor:
    """Replace the three channels by the grey value."""
    return clips.copy_(luma(clips))


def solarize_(clips: Tensor, _: Tensor) -> Tensor:
    """Invert all values from 0.5 on, each channel on its own."""
    return clips.copy_(torch.where(clips >= 0.5, 1 - clips, clips))


def flip_(clips: Tensor, _: Tensor) -> Tensor:
    """Mirror left and right."""
    return clips.copy_(clips.flip(-1))


def blur_radius(size: int) -> int:
    """Pixels on each side of the centre of the blur's kernel: the kernel spans about a tenth of a frame of ``size``
    pixels (SimCLR, 2020), and three pixels or more wherever the frame has two."""
    return min(max(1, size // 20), size - 1)


def gaussian_blur_(clips: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a Gaussian of ``sigma`` > 0 pixels, truncated at ``blur_radius(min(H, W))``, borders mirrored.

    Two passes of shifted additions, folded about the kernel's centre: each sample has its own kernel at no extra cost,
    at half the time of a product with banded matrices on a CPU.
    """
    n, c, t, height, width = clips.shape
    radius = blur_radius(min(height, width))
    if radius == 0:
        return clips
    kernel = torch.softmax(-0.5 * (torch.arange(-radius, radius + 1, device=sigma.device) / sigma[:, None]) ** 2, dim=1)
    kernel = kernel[:, radius:, None, None, None]
    blurred = clips.view(n, c * t, height, width)
    for dim, size, padding in ((2, height, (0, 0, radius, radius)), (3, width, (radius, radius, 0, 0))):
        padded = F.pad(blurred, padding, mode="reflect")
        blurred = padded.narrow(dim, radius, size) * kernel[:, 0]
        for k in range(1, radius + 1):
            pair = padded.narrow(dim, radius - k, size) + padded.narrow(dim, radius + k, size)
            blurred.addcmul_(pair, kernel[:, k])
    return clips.copy_(blurred.view_as(clips))
