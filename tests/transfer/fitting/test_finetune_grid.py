"""The grid of fits as a whole: refused before it begins, or gone on with where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.encoders.base import random_encoder, save_encoder
from st_ssl.transfer.fitting.finetune import finetune
from tests.transfer.clouds import INPUT, TinyEncoder, TinyEncoderConfig, TinySource, settings, tiny_registered

__all__ = ["tiny_registered"]

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), tmp_path / "run")
    return tmp_path / "run"


def test_bf16_is_refused_for_3d_convolutions_on_a_cpu(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = TinyEncoder.__init__

    def with_convolution(self: TinyEncoder, *arguments: Any) -> None:
        build(self, *arguments)
        self.extra = torch.nn.Conv3d(1, 1, 1)

    monkeypatch.setattr(TinyEncoder, "__init__", with_convolution)
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), run)
    config = settings({"name": "classify"}, precision="bf16", epochs=1)
    with pytest.raises(ConfigError, match=r"^precision=bf16: on a CPU torch gives wrong gradients for 3D convolutions"):
        finetune(TinySource(), [run], config, CPU)
    frozen = config.model_copy(update={"modes": ("frozen",)})  # asks for none of those gradients
    assert len(finetune(TinySource(), [run], frozen, CPU)["results"]) == 1


@pytest.mark.parametrize("task", ["segment", "part"])
def test_classes_that_no_sound_training_sample_shows_are_told(task: str, run: Path) -> None:
    source = TinySource()
    config = settings({"name": task}, val_share=0.0, epochs=1)
    source.rows[:12] = [Entry(f"train/broken/{i}", "train", {"kind": "ball"}) for i in range(12)]
    if task == "part":
        with pytest.raises(DataError, match=r"^none of the training shapes of ball can be read"):
            finetune(source, [run], config, CPU)
    source.rows = [Entry(f"{row.path}/broken", row.split, row.labels) for row in source.rows]
    with pytest.raises(
        DataError, match=r"none of the 36 training clouds has labels; the first: train/broken/0/broken: broken$"
    ):
        finetune(source, [run], config, CPU)


def test_a_grid_that_was_interrupted_goes_on_to_the_same_figures(run: Path) -> None:
    source = TinySource()
    source.rows[0] = Entry("train/broken/0", "train", {"kind": "ball"})
    config = settings({"name": "segment"}, label_fractions=(0.5, 1.0), modes=("scratch", "full"), seeds=2, epochs=1)
    left: list[dict[str, Any]] = []
    told: list[int] = []

    def finished(result: dict[str, Any]) -> None:
        left.append(json.loads(json.dumps(result)))

    whole = finetune(source, [run], config, CPU, finished=finished)
    assert len(left) == 8 and whole["bad"] == [{"path": "train/broken/0", "reason": "broken"}]
    for fits in (1, 5, 8):
        told.clear()
        again = finetune(source, [run], config, CPU, lambda *at: told.append(at[0]), before=left[fits - 1])
        assert json.dumps(again) == json.dumps(whole)
        assert sorted(set(told)) == ([] if fits == 8 else list(range(fits, 9)))
