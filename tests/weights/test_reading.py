"""Files as people have them: read without running anything, or refused with what to do."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from st_ssl.weights.base import WeightsError, stripped
from st_ssl.weights.reading import fingerprint, read_published

STATE = {"conv.weight": torch.arange(600.0).view(2, 300), "bn.num_batches_tracked": torch.tensor(3)}


class Command:
    """What pickle takes for a call of ``os.system``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


class Settings:
    """A class of a repository, of which the file has an object."""


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".pyth", ".pth.tar", ".bin"])
def test_files_of_torch(tmp_path: Path, zipped: bool, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save({"model": STATE, "epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    found = read_published(file)
    assert same(found.groups["model"], STATE)
    assert found.about == {"epoch": 3}


def test_safetensors_with_another_suffix_and_their_metadata(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.bin", metadata={"made by": "hand"})
    found = read_published(tmp_path / "weights.bin")
    assert same(found.groups[""], STATE)
    assert found.about == {"metadata": {"made by": "hand"}}


@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_objects_beside_the_weights_are_read_by_stand_ins(tmp_path: Path, zipped: bool) -> None:
    args = argparse.Namespace(model="vit_base", num_frames=16, output_dir=Path("/x"), lr=np.float64(0.1))
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    whole = {"model": {"module": STATE}, "args": args, "best": np.float32(3.0), "shape": np.arange(3)}
    torch.save(whole | {"optimizer": optimizer}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    found = read_published(tmp_path / "w.pth")
    assert found.groups.keys() == {"model.module"}
    assert found.about["args"]["num_frames"] == 16
    assert found.about["args"]["model"] == "vit_base"
    assert found.skipped == {"optimizer.state": "tensors by number (as optimisers keep them)"}


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_paths_are_read_as_any_python_wrote_them(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pathlib

    monkeypatch.setitem(sys.modules, "pathlib._local", pathlib)
    monkeypatch.setattr(type(Path()), "__module__", module)
    torch.save({"model": STATE, "output": Path("/x")}, tmp_path / "w.pth")
    assert read_published(tmp_path / "w.pth").groups.keys() == {"model"}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle.pth", "pickle.pkl"])
def test_a_file_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path: Path, form: str) -> None:
    marker = tmp_path / "it_ran"
    file = tmp_path / ("weights.pkl" if form.endswith("pkl") else "weights.pth")
    whole = {"model": STATE, "extra": Command(marker)}
    if form.startswith("pickle"):
        file.write_bytes(pickle.dumps({"blobs": {}, "extra": Command(marker)}, protocol=2))
    else:
        torch.save(whole, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsError, match=r"asks for (posix|nt)\.system") as refused:
        read_published(file)
    assert not marker.exists()
    if form != "pickle.pkl":
        assert str(file) in str(refused.value)
        assert "save_file({k: v.contiguous().clone()" in str(refused.value)
        pickle.load(file.open("rb")) if form.startswith("pickle") else torch.load(file, weights_only=False)
        assert marker.exists()  # this is such a file


@pytest.mark.parametrize("stem", ["theirs", 'a"); quit(); ("'])
def test_a_class_of_a_repository_is_named_and_the_way_out_works(tmp_path: Path, monkeypatch: Any, stem: str) -> None:
    torch.save({"conv.weight": STATE["conv.weight"], "cfg": Settings()}, tmp_path / f"{stem}.pth")
    with pytest.raises(WeightsError, match=r"asks for tests\.weights\.test_reading\.Settings") as refused:
        read_published(tmp_path / f"{stem}.pth")
    torch.save({"conv.weight": STATE["conv.weight"]}, tmp_path / f"{stem}.pth")
    monkeypatch.chdir(tmp_path)
    lines = [line.strip() for line in str(refused.value).splitlines()[1:]]
    assert len(lines) == 3
    exec("\n".join(lines))
    assert same(read_published(tmp_path / f"{stem}.safetensors").groups[""], {"conv.weight": STATE["conv.weight"]})


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_files(tmp_path: Path, form: str, share: float) -> None:
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(STATE, file)
    else:
        torch.save(STATE, file, _use_new_zipfile_serialization=form == "zip")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match=r"truncated.*copy or download it again"):
        read_published(file)


def _zip(**files: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


def _tar() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n", "pointer of Git LFS.*git lfs pull"),
        (_zip(readme="x"), r"not of torch\.save: it has no data\.pkl \(it holds readme\)"),
        (_tar(), "packed archive: unpack it"),
        (b"these are no weights at all", "no file of weights"),
        (pickle.dumps(STATE["conv.weight"].tolist(), protocol=2), "no file of weights"),
    ],
    ids=["empty", "page", "lfs", "zip", "tar", "text", "numbers"],  # archives hold the time, names must not
)
def test_what_is_no_file_of_weights(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_published(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:.*(sparse|quantize_per_tensor|TypedStorage).*")
@pytest.mark.parametrize(
    "changed",
    [
        lambda tensor: tensor.to_sparse(),
        lambda tensor: tensor.to("meta"),
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    ],
    ids=["sparse", "meta", "quantised"],
)
def test_tensors_that_are_not_plain_are_refused_by_name(tmp_path: Path, changed: Any) -> None:
    torch.save({"model": STATE | {"conv.weight": changed(STATE["conv.weight"])}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: 'model\.conv\.weight' is quantised, sparse or without"):
        read_published(tmp_path / "w.pth")


def test_torchscript_is_a_program(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(_zip(**{"w/data.pkl": "", "w/code/__torch__.py": "", "w/constants.pkl": ""}))
    with pytest.raises(WeightsError, match=r'TorchScript archive(.|\n)*torch\.jit\.load\("w\.pt"'):
        read_published(tmp_path / "w.pt")


def test_a_file_without_tensors_tells_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "names": ["a"], "rows": {1: torch.zeros(2)}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no tensors under names, but rows, epoch, names"):
        read_published(tmp_path / "w.pth")
    torch.save(torch.zeros(2), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no tensors under names, but its own level"):
        read_published(tmp_path / "w.pth")


def test_folders_of_hugging_face(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(WeightsError, match=r"a folder without model\.safetensors or pytorch_model\.bin"):
        read_published(tmp_path)
    names = {"conv.weight": "model-1.safetensors", "bn.num_batches_tracked": "model-2.safetensors"}
    for name, part in names.items():
        save_file({name: STATE[name]}, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    found = read_published(tmp_path)
    assert same(found.groups[""], STATE)
    assert found.about["config"] == {"hidden_size": 8}
    assert fingerprint(tmp_path).keys() == {"config.json", *names.values()}
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"these are missing: model-2\.safetensors"):
        read_published(tmp_path)
    index.write_text(json.dumps({"weight_map": {"conv.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(WeightsError, match="expected weight_map"):
        read_published(tmp_path)


@pytest.mark.parametrize(("name", "told"), [("model_x.safetensors", False), ("model.safetensors", True)])
def test_settings_beside_a_file_are_those_of_files_of_a_known_name(tmp_path: Path, name: str, told: bool) -> None:
    save_file(STATE, tmp_path / name)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    assert ("config" in read_published(tmp_path / name).about) == told
    assert ("config.json" in fingerprint(tmp_path / name)) == told


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "r3d_18.pth").touch()
    with pytest.raises(WeightsError, match=r"no such file or folder; did you mean 'r3d_18\.pth'"):
        read_published(tmp_path / "r3d_81.pth")


def test_prefixes_in_any_order() -> None:
    names = ["module._orig_mod.backbone.module.conv.weight", "encoder.bn.bias", "backbone", "head.weight"]
    short = stripped(names, ("module.", "_orig_mod.", "backbone.", "encoder."), Path("x"))
    assert list(short) == ["conv.weight", "bn.bias", "backbone", "head.weight"]
    assert list(short.values()) == names
    with pytest.raises(WeightsError, match=r"'conv\.weight' and 'module\.conv\.weight' are both 'conv\.weight'"):
        stripped(["conv.weight", "module.conv.weight"], ("module.",), Path("x"))
