"""What becomes of every key: used, left over for a reason, or an error that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from st_ssl.cli import guarded
from st_ssl.cli.convert import main
from st_ssl.core.errors import ConfigError, OutputError
from st_ssl.core.inputs import InputConfig
from st_ssl.encoders.base import ENCODERS, Encoder, load_encoder
from st_ssl.encoders.r3d import R3DConfig
from st_ssl.weights.base import LAYOUTS, WeightsError
from st_ssl.weights.bundle import Bundle, write_bundle
from st_ssl.weights.importing import import_weights, save_imported


def network() -> Encoder:
    torch.manual_seed(0)
    return ENCODERS.build(R3DConfig(depth=10, width=4), InputConfig(num_frames=4, size=32))


def write(file: Path, changed: dict[str, Tensor | None] | None = None, **more: Any) -> Path:
    """A checkpoint of a small R3D with a head as torchvision's reference scripts write them, less what is None."""
    state: dict[str, Any] = dict(network().state_dict()) | {"fc.weight": torch.zeros(5, 32), "fc.bias": torch.zeros(5)}
    state = {f"module.{name}": t for name, t in (state | (changed or {})).items() if t is not None}
    torch.save({"model": state, "epoch": 9} | more, file)
    return file


def test_every_key_is_told_of(tmp_path: Path) -> None:
    file = write(tmp_path / "r3d.pth", model_ema={"x": torch.zeros(1)}, optimizer={"state": {0: {"m": torch.zeros(2)}}})
    imported = import_weights(file, "torchvision", ["input.num_frames=8"])
    expected = network().state_dict()
    assert {key: made.sources for key, made in imported.made.items()} == {key: (key,) for key in expected}
    assert all(torch.equal(tensor, expected[key]) for key, tensor in imported.encoder.state_dict().items())
    assert not imported.encoder.training
    assert imported.left == {
        "module.fc.weight": "the classifier of its own labels",
        "module.fc.bias": "the classifier of its own labels",
        "model_ema.*": "1 tensors in model_ema, another part of the file",
        "optimizer.state": "tensors by number (as optimisers keep them)",
    }
    assert imported.encoder.input.num_frames == 8
    report = imported.report()
    assert report["counts"] == {"used": len(expected), "left": 4, "missing": 0}
    assert report["used"][0] == {
        "key": "stem.0.weight",
        "from": ["module.stem.0.weight"],
        "shape": [4, 3, 3, 7, 7],
        "note": "",
    }


def test_unexpected_keys(tmp_path: Path) -> None:
    file = write(tmp_path / "r3d.pth", {"layer2.0.gate.weight": torch.zeros(1), "layer2.0.gate.bias": torch.zeros(1)})
    expected = (
        r"r3d\.pth: holds what torchvision knows nothing of: 'module\.layer2\.0\.gate\.weight', 'module\.layer2.*bias'"
    )
    with pytest.raises(WeightsError, match=expected):
        import_weights(file, "torchvision")
    with pytest.raises(WeightsError, match=r"gate\.bias'\. If the encoder can do without: --allow-unused PATTERN"):
        import_weights(file, "torchvision", allow_unused=["*.gate.weight"])
    imported = import_weights(file, "torchvision", allow_unused=["*.gate.*"])
    assert imported.left["module.layer2.0.gate.bias"] == "allowed by *.gate.*"


def test_wrong_size(tmp_path: Path) -> None:
    file = write(tmp_path / "r3d.pth", {"layer2.0.conv2.0.weight": torch.zeros(8, 8, 3, 1, 1)})
    expected = (
        r"'layer2\.0\.conv2\.0\.weight' has the size \[8, 8, 3, 3, 3\] in the encoder and \[8, 8, 3, 1, 1\] in the "
        r"file \(from module\.layer2\.0\.conv2\.0\.weight\); what decides it is encoder\.width, encoder\.depth"
    )
    with pytest.raises(WeightsError, match=expected):
        import_weights(file, "torchvision")
    with pytest.raises(
        WeightsError, match=r"'stem\.0\.weight' has the size \[8, 3.*the file has encoder\.width=4, not 8"
    ):
        import_weights(write(tmp_path / "r3d.pth"), "torchvision", ["encoder.width=8"])


def test_missing_keys(tmp_path: Path) -> None:
    file = write(tmp_path / "r3d.pth", {"layer4.0.conv2.1.bias": None, "layer4.0.conv2.1.biass": torch.zeros(32)})
    expected = r"1 of the \d+ keys.*'layer4\.0\.conv2\.1\.bias', which torchvision makes of .*did you mean '.*biass'"
    with pytest.raises(WeightsError, match=expected):
        import_weights(file, "torchvision", allow_unused=["*"])
    with pytest.raises(WeightsError, match=r"'layer1\.1\.conv1\.0\.weight'.*the file has encoder\.depth=10, not 18"):
        import_weights(write(tmp_path / "r3d.pth"), "torchvision", ["encoder.depth=18"])


def test_what_old_files_lack_and_other_types_are_told(tmp_path: Path) -> None:
    counter, halved = "stem.1.num_batches_tracked", "stem.0.weight"
    file = write(tmp_path / "r3d.pth", {counter: None, halved: network().state_dict()[halved].half()})
    report = import_weights(file, "torchvision").report()
    notes = {row["key"]: row["note"] for row in report["used"] if row["note"]}
    assert notes == {counter: "zero: the file has none", halved: "from float16"}


def test_numbers_that_are_none(tmp_path: Path) -> None:
    file = write(tmp_path / "r3d.pth", {"stem.1.weight": torch.tensor([1.0, float("nan"), 1, 1])})
    with pytest.raises(WeightsError, match=r"module\.stem\.1\.weight: holds numbers that are none"):
        import_weights(file, "torchvision")


@pytest.mark.parametrize("kind", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_numbers_of_another_type_are_refused_by_name(tmp_path: Path, kind: torch.dtype) -> None:
    file = write(tmp_path / "r3d.pth", {"stem.1.weight": torch.ones(4).to(kind)})
    name = str(kind).removeprefix("torch.")
    with pytest.raises(WeightsError, match=rf"'module\.stem\.1\.weight' holds {name}: expected one of float32"):
        import_weights(file, "torchvision")


@pytest.mark.parametrize("layout", ["auto", "torchvision"])
def test_a_tensor_without_axes_where_the_first_layer_is_looked_for(tmp_path: Path, layout: str) -> None:
    file = write(tmp_path / "r3d.pth", {"stem.0.weight": torch.tensor(1.0)})
    with pytest.raises(
        WeightsError,
        match=r"fits it: its names|not of the layout torchvision: its tensors have other",
    ):
        import_weights(file, layout)


def test_numbers_that_are_too_large_for_float32_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "r3d.pth", {"stem.1.weight": torch.full((4,), 1e300, dtype=torch.float64)})
    with pytest.raises(WeightsError, match=r"stem\.1\.weight: holds numbers that are none \(.*as float32"):
        import_weights(file, "torchvision")


@pytest.mark.parametrize(
    ("layout", "override", "message"),
    [
        ("torchvison", "input.size=64", "did you mean 'torchvision'"),
        ("torchvision", "encoder.widht=4", r"command line, 'encoder.widht=4': encoder.widht: unknown key.*'width'"),
        ("torchvision", "optim.lr=3", r"expected layout.<key>=value, encoder.<key>=value, input"),
        ("torchvision", "layout.container=ema", r"layout\.container=ema: it has tensors in model"),
    ],
)
def test_mistakes_in_the_call(tmp_path: Path, layout: str, override: str, message: str) -> None:
    file = write(tmp_path / "r3d.pth")
    with pytest.raises((ConfigError, WeightsError), match=message):
        import_weights(file, layout, [override])


def test_another_network_of_the_file(tmp_path: Path) -> None:
    ema = {name: torch.full_like(tensor, 0.25) for name, tensor in network().state_dict().items()}
    imported = import_weights(write(tmp_path / "r3d.pth", model_ema=ema), "torchvision", ["layout.container=model_ema"])
    assert all(
        (tensor == (0.25 if tensor.is_floating_point() else 0)).all()
        for tensor in imported.encoder.state_dict().values()
    )
    assert imported.left["model.*"].endswith("tensors in model, another part of the file")


@pytest.mark.parametrize("layout", ["auto", "torchvision"])
def test_which_of_several_networks_is_asked_for(tmp_path: Path, layout: str) -> None:
    student = network().state_dict()
    teacher = {name: torch.full_like(tensor, 0.25) for name, tensor in student.items()}
    torch.save({"model": {"teacher": teacher, "student": student}}, tmp_path / "r3d.pth")
    expected = r"r3d\.pth: has tensors in model\.teacher, model\.student, .*name it by layout\.container=model\.teacher"
    with pytest.raises(WeightsError, match=expected):
        import_weights(tmp_path / "r3d.pth", layout)
    imported = import_weights(tmp_path / "r3d.pth", layout, ["layout.container=model.student"])
    assert all(torch.equal(tensor, student[key]) for key, tensor in imported.encoder.state_dict().items())


@pytest.fixture
def convert(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """The command, in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["convert", "import", *map(str, arguments)])
        try:
            code = guarded(main)
        except SystemExit as exit:  # of argparse
            code = int(exit.code or 0)
        return code, *capsys.readouterr()

    return run


def test_the_command_writes_an_encoder_that_comes_in_again_with_the_same_bytes(tmp_path: Path, convert: Any) -> None:
    file, folder = write(tmp_path / "r3d.pth"), tmp_path / "encoder"
    code, out, err = convert(file, "--output", folder, "input.num_frames=8", "--report")
    assert (code, err) == (0, "")
    assert "taken for the layout torchvision" in out
    assert "module.fc.weight, module.fc.bias" in out
    assert "layer1.0.conv1.0.weight" in out
    assert f"st-ssl extract {folder} --data" in out.replace("\n", "")
    assert "quickstart.yaml" in out and " task.target=null" in out
    assert load_encoder(folder).input.num_frames == 8
    record = json.loads((folder / "import.json").read_text())
    assert record["source"] == {"name": "r3d.pth", "sha256": {"r3d.pth": hashlib.sha256(file.read_bytes()).hexdigest()}}
    assert (record["layout"]["name"], record["container"]) == ("torchvision", "model")
    again = tmp_path / "again"
    code, out, err = convert(folder, "--output", again)
    assert (code, err) == (0, "")
    assert "taken for the layout st_ssl" in out
    for name in ("encoder.safetensors", "encoder.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path: Path, convert: Any) -> None:
    file = write(tmp_path / "r3d.pth", {"heads[/bold].w": torch.zeros(1)}, **{"ema[red]": {"w": torch.zeros(1)}})
    code, out, err = convert(file, "--from", "torchvision", "--report", "--allow-unused", "*[[]/bold].w")
    assert (code, err) == (0, "")
    assert "module.heads[/bold].w" in out
    assert "ema[red].*" in out


def test_what_is_exported_comes_in_with_the_same_bytes(tmp_path: Path) -> None:
    save_imported(import_weights(write(tmp_path / "r3d.pth"), "torchvision"), tmp_path / "first")
    head = {"weight": torch.zeros(5, 32)}
    write_bundle(tmp_path / "out.safetensors", Bundle(load_encoder(tmp_path / "first"), head, {"classes": ["a"]}))
    again = import_weights(tmp_path / "out.safetensors", "auto")
    save_imported(again, tmp_path / "again")
    assert again.left == {"head.weight": "the head that was fine-tuned with the encoder"}
    for name in ("encoder.safetensors", "encoder.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "first" / name).read_bytes()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (json.dumps({"format": 99, "encoder": {"name": "r3d"}, "input": {}}), "format 99 is newer than"),
        (json.dumps({"format": 1, "encoder": {"width": 4}, "input": {}}), "not an encoder description: 'name'"),
        (
            json.dumps({"format": 1, "encoder": {"name": []}, "input": {}}),
            r"not an encoder description: no encoder named \[\]",
        ),
        ("[" * 100_000, "its description is not JSON: maximum recursion"),
    ],
    ids=["newer", "nameless", "list", "deep"],
)
def test_a_description_is_checked_as_where_it_is_loaded(tmp_path: Path, told: str, message: str) -> None:
    save_file(network().state_dict(), tmp_path / "own.safetensors", metadata={"st_ssl": told})
    for layout in ("auto", "st_ssl"):
        with pytest.raises(WeightsError, match=rf"own\.safetensors: .*{message}"):
            import_weights(tmp_path / "own.safetensors", layout)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    imported = import_weights(write(tmp_path / "r3d.pth"), "torchvision")
    folder = tmp_path / "encoder"
    save_imported(imported, folder)
    before = (folder / "encoder.safetensors").read_bytes()
    save_imported(imported, folder)  # the same again is no harm
    other = import_weights(write(tmp_path / "r3d.pth", {"stem.1.bias": torch.ones(4)}), "torchvision")
    with pytest.raises(OutputError, match="holds something else"):
        save_imported(other, folder)
    assert (folder / "encoder.safetensors").read_bytes() == before


def test_another_network_of_the_same_file_does_not_take_its_place(tmp_path: Path) -> None:
    ema = {name: torch.full_like(tensor, 0.25) for name, tensor in network().state_dict().items()}
    file, folder = write(tmp_path / "r3d.pth", model_ema=ema), tmp_path / "encoder"
    save_imported(import_weights(file, "torchvision"), folder)
    with pytest.raises(OutputError, match="holds something else"):
        save_imported(import_weights(file, "torchvision", ["layout.container=model_ema"]), folder)


def test_the_command_looks_lists_and_refuses(tmp_path: Path, convert: Any) -> None:
    code, out, _ = convert("--list")
    assert code == 0
    assert all(name in out for name in LAYOUTS.names())
    file = write(tmp_path / "r3d.pth")
    code, out, _ = convert(file, "--from", "torchvision")
    assert code == 0
    assert "nothing is written" in out
    assert list(tmp_path.iterdir()) == [file]
    code, _, err = convert(file, "--frm", "torchvision")
    assert code == 2
    assert "unknown option --frm; did you mean --from" in err.replace("'", "")
    code, _, err = convert(tmp_path / "r3d.pht")
    assert code == 1
    assert "no such file or folder; did you mean 'r3d.pth'" in err
    torch.save({"blocks.0.attn.relative": torch.zeros(1)}, file)
    code, _, err = convert(file)
    assert code == 1
    assert "fits it: its names are " in err
    assert "--from names a layout" in err


def test_the_file_of_a_probe_says_that_it_has_no_encoder(tmp_path: Path) -> None:
    """As those of V-JEPA 2, which hold attentive probes alone."""
    names = ("pooler.query_tokens", "pooler.blocks.0.attn.qkv.weight", "linear.weight", "linear.bias")
    torch.save({"classifiers": {f"module.{name}": torch.zeros(2, 2) for name in names}}, tmp_path / "probe.pt")
    with pytest.raises(WeightsError, match=r"holds the head of a probe .*pooler.query_tokens.* and no encoder"):
        import_weights(tmp_path / "probe.pt", "auto")
