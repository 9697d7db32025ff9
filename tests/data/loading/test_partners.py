"""Pairs of views of different samples: the two controls of contrastive learning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import ALIKE, Entry
from st_ssl.data.loading.partners import PairsConfig, Partners, partners
from tests.runs import load, tiny, train
from tests.transfer.tiny import write_dataset

ENTRIES = [Entry(f"{n}.mp4", labels={"scene": "ab"[n % 2]}) for n in range(7)]


def test_a_sample_is_its_own_partner_unless_asked_for() -> None:
    assert partners(PairsConfig(), ENTRIES, 0) is None


@pytest.mark.parametrize("partner", ["any", "class"])
def test_partners_are_others_drawn_anew_each_epoch(partner: str) -> None:
    label = "scene" if partner == "class" else None
    found = Partners(PairsConfig(partner=partner, label=label), ENTRIES, 3)  # type: ignore[arg-type]
    drawn = [[found.of(epoch, index) for index in range(7)] for epoch in range(40)]
    assert drawn == [[found.of(epoch, index) for index in range(7)] for epoch in range(40)]
    assert len({tuple(row) for row in drawn}) > 20
    for index in range(7):
        met = {row[index] for row in drawn}
        same = {n for n in range(7) if n % 2 == index % 2}
        assert met == (set(range(7)) if partner == "any" else same) - {index}


def test_a_share_of_the_samples_has_a_partner() -> None:
    found = Partners(PairsConfig(partner="any", share=0.25), ENTRIES, 0)
    with pytest.warns(UserWarning, match="is ignored: each sample is its own partner"):
        PairsConfig(share=0.25)
    own = [found.of(epoch, index) == index for epoch in range(200) for index in range(7)]
    assert sum(own) / len(own) == pytest.approx(0.75, abs=0.05)


def test_the_only_one_of_its_class_is_its_own_partner() -> None:
    entries = [*ENTRIES[:2], Entry("x.mp4", labels={"scene": "c"})]
    assert Partners(PairsConfig(partner="class", label="scene"), entries, 0).of(0, 2) == 2


def test_labels_that_are_missing_are_told() -> None:
    with pytest.raises(ConfigError, match=r"7 of 7 samples have no label 'scen'; did you mean 'scene'"):
        Partners(PairsConfig(partner="class", label="scen"), ENTRIES, 0)
    for keys in ({"partner": "class"}, {"partner": "any", "label": "scene"}):
        with pytest.raises(ValidationError, match="which needs it"):
            PairsConfig.model_validate(keys)


def test_the_second_view_is_of_the_partner(videos: Path, tmp_path: Path) -> None:
    """What a run sees: the first view as ever, the second cut of the partner with the draws of the sample."""
    own = train(tiny(videos, tmp_path / "own"), stop_at=1)
    other = train(tiny(videos, tmp_path / "any", pairs={"partner": "any"}), stop_at=1)
    first, second = (next(trainer._batches(0, 1))[0] for trainer in (own, other))
    assert torch.equal(first.views[0].content, second.views[0].content)
    assert torch.equal(first.indices, second.indices)
    assert other.partners is not None
    dataset = own.source.dataset(own.entries, own.method.views, own.config.seed)
    for row, index in enumerate(first.indices.tolist()):
        partner = other.partners.of(0, index)
        assert partner != index
        with dataset.open(dataset.entries[partner]) as recording:  # type: ignore[attr-defined]
            views = own.method.views.cut(recording, (own.config.seed, 0, index), 0)
        assert torch.equal(second.views[1].content[row], torch.from_numpy(views[1].content))


def test_views_of_a_class_say_which(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    run = train(tiny(root, tmp_path / "run", pairs={"partner": "class", "label": "light"}), stop_at=1)
    batch = next(run._batches(0, 1))[0]
    lights = [run.entries[index].labels["light"] for index in batch.indices.tolist()]
    for view in batch.views:
        assert view.labels[ALIKE].tolist() == [["bright", "dark"].index(light) for light in lights]


def test_a_broken_partner_is_listed_by_its_own_name(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for file in sorted(videos.glob("*.mp4"))[:4]:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "broken.mp4").write_bytes(b"no video")
    config = load(tiny(folder, tmp_path / "run", pairs={"partner": "any"}, data={"max_bad_share": 1.0}))
    run = train(config.model_dump(mode="json"))
    assert "broken.mp4" in (run.directory / "bad_samples.jsonl").read_text()
