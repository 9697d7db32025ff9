from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.sources.video import read_source
from st_ssl.encoders.base import InputConfig
from st_ssl.report.contestants import CONTESTANTS, keys
from st_ssl.report.curves import _moving_mean, _panel, number
from st_ssl.report.embedding import how_many, project
from st_ssl.report.figures import INK, PALETTE, draw, own_ids, pick_colours, strip
from st_ssl.report.folder import RunFolder
from st_ssl.report.pictures import view_samples
from tests.runs import load, tiny, write_videos
from tests.transfer.tiny import write_encoder


def test_a_moving_mean_is_the_mean_of_what_is_near() -> None:
    values = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    expected = [values[max(0, i - 1) : i + 2].mean() for i in range(5)]
    np.testing.assert_allclose(_moving_mean(values, 1), expected)


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (0.06251, "0.0625"), (math.nan, "not finite")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_a_steep_curve_has_plain_figures_at_its_axis() -> None:
    rows = [{"step": float(i), "grad_norm": 10.0 ** (i % 4 - 1)} for i in range(12)]
    drawn = str(_panel("grad_norm", rows).figure)
    assert "mathdefault" not in drawn and ">0.1<" in drawn and ">100<" in drawn


def test_a_strip_keeps_the_order_and_the_ends() -> None:
    frames = np.zeros((20, 32, 48, 3), np.uint8) + (np.arange(20) * 10)[:, None, None, None].astype(np.uint8)
    picture = strip(frames, "grey")
    assert (picture.frames, picture.width, picture.height) == (8, 8 * 48, 32)
    import base64
    import io

    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))))
    greys = pixels[16, 24::48, 0].astype(int)
    assert abs(greys[0] - 0) < 4
    assert abs(greys[-1] - 190) < 4
    assert (np.diff(greys) > 15).all()


def test_colours_go_to_the_commonest() -> None:
    labels = ["rare", *(f"c{i}" for i in range(len(PALETTE)) for _ in range(2))]
    colours = pick_colours(labels)
    assert "rare" not in colours
    assert len(set(colours.values())) == len(PALETTE)
    assert pick_colours(labels[::-1]) == colours


def test_figures_take_the_colours_of_the_page_and_escape_text() -> None:
    def paint(axis: Any) -> None:
        axis.plot([0, 1], [0, 1], color=INK)
        axis.set_xlabel("<b>$x_&")

    figure = draw(2, 2, paint, 'a "line" <')
    one, other = own_ids(figure, 1), own_ids(figure, 2)
    assert "currentColor" in one
    assert INK not in one
    assert "<b>" not in one
    assert "&lt;b&gt;$x_&amp;" in one
    assert 'aria-label="a &quot;line&quot; &lt;"' in one
    assert "http" not in one
    assert figure == draw(2, 2, paint, 'a "line" <')
    ids = [set(re.findall(r'\bid="([^"]+)"', f)) for f in (one, other)]
    assert ids[0].isdisjoint(ids[1])
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= ids[0]


@pytest.mark.parametrize(
    ("device", "size", "train"),
    [("cuda", 64, 400), ("cuda", 112, 400), ("cuda", 224, 100), ("cuda", 1024, 40), ("cpu", 64, 120), ("cpu", 224, 40)],
)
def test_large_clips_are_fewer(device: str, size: int, train: int) -> None:
    assert how_many(InputConfig(num_frames=16, size=size), device) == (train, train // 2)


@pytest.mark.parametrize("count", [1, 2, 12, 40])
def test_a_map_keeps_clusters_apart_and_does_not_vary(count: int) -> None:
    rng = np.random.default_rng(0)
    group = np.arange(count) % 2
    features = np.eye(6)[group] + 0.05 * rng.standard_normal((count, 6))
    plane = project(features)
    assert plane.shape == (count, 2)
    assert np.isfinite(plane).all()
    np.testing.assert_array_equal(plane, project(features))
    if count > 2:
        centres = np.stack([plane[group == g].mean(0) for g in (0, 1)])
        within = max(np.linalg.norm(plane[group == g] - centres[g], axis=1).mean() for g in (0, 1))
        assert np.linalg.norm(centres[0] - centres[1]) > 2 * within


def test_every_marker_of_a_figure_is_explained() -> None:
    found = {key.means.partition(":")[0]: (key.dot, key.sign) for key in keys([*CONTESTANTS, "colours"])}
    signs = {"raw pixels": "×", "pooled frames": "■", "frame differences": "▲", "coordinates": "×", "occupancy": "■"}
    signs |= {"shape distributions": "▲", "file metadata": "|", "colours": "■"}
    assert found == {"pretrained": ("ours", ""), "untrained": ("hollow", "")} | {k: ("", v) for k, v in signs.items()}
    drawn = {"x": "×", "s": "■", "^": "▲", "|": "|", "o": ""}
    assert all(drawn[one.marker] == one.sign for one in CONTESTANTS.values())


def test_samples_of_a_pack_are_shown_by_the_files_that_were_packed(tmp_path: Path) -> None:
    entries = read_source(write_videos(tmp_path / "videos", 3))
    write_pack(entries, tmp_path / "pack", VideoPacker(PackConfig(short_side=32)), progress=False)
    folder = write_encoder(tmp_path / "run")
    run = RunFolder(folder, "run", load(tiny(tmp_path / "pack", folder, report={"samples": 2})))
    shown = view_samples(run)
    assert len(shown) == 2 and {sample.name for sample in shown} < {"00.mp4", "01.mp4", "02.mp4"}
    assert all(sample.name in picture.alt for sample in shown for _, picture in sample.strips)
