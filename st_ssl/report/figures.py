"""Figures that follow the page: drawn by matplotlib, inlined as SVG whose ink is the colour of the text around it."""

from __future__ import annotations

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from st_ssl.core.class_order import in_order
from st_ssl.core.errors import MissingDependencyError
from st_ssl.core.evenly import evenly

if TYPE_CHECKING:
    from markupsafe import Markup

# Colours that matplotlib writes and that the page replaces by its own, so that one figure suits light and dark.
INK, FAINT, ACCENT = "#010101", "#020202", "#030303"
_PAGE = {INK: "currentColor", FAINT: "var(--faint)", ACCENT: "var(--accent)"}
PALETTE = ("#4e79a7", "#f28e2b", "#e15759", "#59a14f", "#b07aa1", "#2fa5a0", "#d4a90f", "#ff8fa3", "#9c755f", "#7a8794")
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the font of the page
    "svg.hashsalt": "st_ssl",
    "text.parse_math": False,  # labels come from file names: a dollar in one is a dollar
    "font.size": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.unicode_minus": True,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "lines.linewidth": 1.1,
}
_FRAME = 112  # pixels a side of a frame in the page, at most


def require_matplotlib() -> None:
    """Raise ``MissingDependencyError`` where what draws and lays out the page is not installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(error.name or "matplotlib", "viz", "the report") from error


def draw(width: float, height: float, paint: Callable[..., None], alt: str, rows: int = 1) -> Markup:
    """A figure of ``rows`` axes, one under the other, painted by ``paint(*axes)``, as inline SVG.

    ``width`` and ``height`` in inches at 96 pixels; ``alt`` is what it shows, for those who do not see it.
    """
    import matplotlib
    from markupsafe import Markup
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
        for axis in axes:
            axis.patch.set_visible(False)
        paint(*axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return Markup(_inline(out.getvalue(), alt))


def _inline(svg: str, alt: str) -> str:
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None
    body = svg[svg.index("<g ") :].removesuffix("\n").removesuffix("</svg>")
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.S).replace("xlink:href", "href")
    body = re.sub(r"<!--.*?-->\n?", "", body, flags=re.S)
    for ours, theirs in _PAGE.items():
        body = body.replace(ours, theirs)
    return f'<svg viewBox="{box[1]}" role="img" aria-label="{html.escape(alt)}">{body}</svg>'


def own_ids(figure: Markup, number: int) -> Markup:
    """The figure with ids of its own, since matplotlib gives all figures the same."""
    from markupsafe import Markup

    return Markup(re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>f{number}-", str(figure)))


@dataclass(frozen=True)
class Picture:
    """An image in the page: a data URI, the number of frames side by side in it, its size in pixels, what it shows."""

    uri: str
    frames: int
    width: int
    height: int
    alt: str


def strip(frames: Any, alt: str, most: int = 8) -> Picture:
    """Frames uint8 [T, H, W, 3], or with alpha [T, H, W, 4], at most ``most`` of them evenly chosen, side by side."""
    from PIL import Image

    frames = np.asarray(frames)
    images = [Image.fromarray(frames[i]) for i in evenly(len(frames), most)]
    for image in images:
        image.thumbnail((_FRAME, _FRAME))
    return encode_picture(np.concatenate([np.asarray(image) for image in images], axis=1), len(images), alt)


def encode_picture(pixels: np.ndarray, frames: int, alt: str) -> Picture:
    """``frames`` pictures side by side, uint8 [H, W, 3], as a JPEG; with alpha [H, W, 4] as WebP, whose ground is that
    of the page."""
    from PIL import Image

    image, out = Image.fromarray(pixels), io.BytesIO()
    if image.mode == "RGBA":
        image.save(out, "WEBP", quality=85, method=4)
    else:
        image.save(out, "JPEG", quality=88, subsampling=0)
    kind = "webp" if image.mode == "RGBA" else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
    return Picture(uri, frames, *image.size, alt)


def pick_colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each of the commonest labels, as many as can be told apart; the others share none."""
    counts = Counter(labels)
    common = sorted(counts, key=lambda label: (-counts[label], label))[: len(PALETTE)]
    return dict(zip(in_order(common), PALETTE, strict=False))
