"""Whatever has the name of a checkpoint and is none: a resume goes on from the one before, and tells."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from st_ssl.training import checkpoint
from st_ssl.training.checkpoint import Checkpointer, CheckpointError
from tests.training.test_checkpoint import check_whole, save


def _nested(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"digest": "", "files": ' + "[" * 100_000)


def _signed(folder: Path, **change: Any) -> None:
    """A manifest of another form whose own digest holds."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text()) | change
    del manifest["digest"]
    file.write_text(json.dumps(manifest | {"digest": checkpoint._digest(manifest)}))


def _folder_for_file(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").mkdir()


DAMAGES: dict[str, Any] = {
    "nested": _nested,
    "a folder for a file": _folder_for_file,
    "groups": partial(_signed, groups=[["model"]]),
    "files": partial(_signed, files=[]),
    "a path": partial(_signed, files={"../step_00000001/state.json": {"size": 1, "sha256": ""}}),
    "format": partial(_signed, format="new"),
    "step": partial(_signed, step="2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_manifest_of_any_other_form_falls_back(tmp_path: Path, damage: str) -> None:
    saver = Checkpointer(tmp_path)
    save(saver, 1, 1)
    DAMAGES[damage](save(saver, 2, 2))
    with pytest.warns(UserWarning, match=r"step_00000002.*; moved to step_00000002.damaged, trying the one before"):
        assert check_whole(Checkpointer(tmp_path).latest()).step == 1


@pytest.mark.parametrize("what", ["a file", "a dangling link", "a link to itself"])
def test_what_is_no_folder_falls_back(tmp_path: Path, what: str) -> None:
    saver = Checkpointer(tmp_path)
    save(saver, 1, 1)
    path = tmp_path / "step_00000002"
    if what == "a file":
        path.write_text("checkpoint")
    else:
        path.symlink_to("gone" if what == "a dangling link" else path.name)
    for left in (".tmp-step_00000003", ".old-step_00000001"):
        (tmp_path / left).symlink_to("gone")
    with pytest.warns(UserWarning, match="moved to step_00000002.damaged, trying the one before"):
        assert check_whole(Checkpointer(tmp_path).latest()).step == 1
    assert sorted(found.name for found in tmp_path.iterdir()) == ["step_00000001", "step_00000002.damaged"]
    path.write_text("again")
    assert save(saver, 2, 2) == path
    assert check_whole(Checkpointer(tmp_path).latest()).step == 2


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="checkpoints: cannot be a folder of checkpoints"):
        Checkpointer(tmp_path / "checkpoints")
