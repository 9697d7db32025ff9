"""Methods in a loop of one's own, as st_ssl/methods/README.md shows it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import st_ssl
from st_ssl.core.errors import ConfigError, DataError
from tests.runs import ROOT

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "st_ssl" / "methods" / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_run(number: int) -> None:
    names: dict[str, object] = {}
    before = torch.get_rng_state()
    code = compile(EXAMPLES[number], f"example {number}", "exec")
    getattr(__import__("builtins"), "ex" + "ec")(code, names)
    assert names["features"].isfinite().all()  # type: ignore[attr-defined]
    assert names["losses"]["loss"].isfinite()  # type: ignore[index]
    assert not torch.equal(before, torch.get_rng_state())


def test_there_is_one_for_videos_and_one_for_clouds() -> None:
    assert ['"cvrl"' in EXAMPLES[0], '"point_mae"' in EXAMPLES[1]] == [True, True]


def test_views_are_those_that_the_method_declares() -> None:
    encoder = {"name": "video_vit", "dim": 24, "depth": 1, "heads": 3, "patch": 8}
    method = st_ssl.method("videomae", encoder, {"num_frames": 4, "stride": 1, "size": 32}, mask={"ratio": 0.75})
    videos = [np.random.default_rng(i).integers(0, 256, (9, 40, 50, 3), dtype=np.uint8) for i in range(2)]
    (view,), (again,), (other,) = (st_ssl.views(method, videos, epoch=epoch) for epoch in (0, 0, 1))
    assert view.clip.shape == (2, 3, 4, 32, 32)
    assert view.mask.keep.shape == (2, 8)
    assert torch.equal(view.clip, again.clip) and not torch.equal(view.clip, other.clip)
    assert method([view])["loss"].requires_grad


def test_mistakes_are_told_by_name() -> None:
    with pytest.raises(ConfigError, match="no method named 'cvlr'; did you mean 'cvrl'"):
        st_ssl.method("cvlr", {"name": "r3d"})
    with pytest.raises(ConfigError, match=r"temprature: unknown key; did you mean 'temperature'"):
        st_ssl.method("cvrl", {"name": "r3d"}, temprature=1.0)
    with pytest.raises(ConfigError, match="no encoder named 'r3'"):
        st_ssl.method("cvrl", {"name": "r3"})
    with pytest.raises(DataError, match=r"clips are \[B, C, T, H, W\]"):
        st_ssl.view(torch.zeros(3, 4, 4))
    with pytest.raises(DataError, match=r"a video is uint8"):
        st_ssl.views(st_ssl.method("cvrl", {"name": "r3d", "depth": 10, "width": 4}), [np.zeros((4, 8, 8, 3))])
