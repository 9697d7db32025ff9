"""What doctor finds on machines that are made up; the page, processes and GPUs have their own files."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from st_ssl.cli.doctor import decoders, findings, packages, probes, python, repair, requirements
from st_ssl.cli.doctor.children import Report
from st_ssl.cli.doctor.findings import Finding, examine
from st_ssl.cli.doctor.requirements import Requirement
from st_ssl.core.errors import MissingLibraryError
from tests.cli.findings import one
from tests.runs import ROOT, call

DOCTOR = ROOT / "st_ssl" / "cli" / "doctor"
FINE = {"torch": Report({"version": "2.14.1", "cuda": None, "hip": None})}


@pytest.fixture
def root_of_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system with apt-get, seen by root."""
    (tmp_path / "apt-get").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(findings, "APT_LISTS", tmp_path)
    (tmp_path / "deb.debian.org_Packages").touch()


# -------------------------------------------------------------------- as a whole


def test_with_nothing_installed_it_says_what_installs_it(tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "tools" / "doctor.py"), "--json", "--quick"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert set(told) == {"findings", "level"}
    assert told["level"] == "red"
    by_name = {finding["name"]: finding for finding in told["findings"]}
    for name in ("st_ssl", "torch", "torchvision", "required", "extra viz", "PyAV"):
        assert (name, by_name[name]["level"]) == (name, "yellow" if name == "extra viz" else "red")
        assert by_name[name]["mend"].endswith(f"pip install -e '{ROOT}[all]'")
    for name in ("torchcodec", "decord", "spconv", "open3d", "extra points"):
        made = name.startswith("extra") or requirements.requirement(name) is not None  # for this Python and system
        assert (name, by_name[name]["level"]) == (name, "yellow" if made else "green")
    newer = sys.version_info[:2] > requirements.release(requirements.newest_python())
    assert by_name["Python"]["level"] == ("yellow" if newer else "green")
    assert not any("failed itself" in finding["text"] for finding in told["findings"])


NEEDED = ("__init__.py", "core/__init__.py", "core/limits.py", "core/errors.py", "cli/__init__.py")
LIGHT = [*sorted(DOCTOR.glob("*.py")), ROOT / "tools" / "doctor.py", *(ROOT / "st_ssl" / name for name in NEEDED)]


@pytest.mark.parametrize("file", LIGHT, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_it_needs_the_standard_library_alone(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 8))  # an old Python has to be able to say that it is old
    outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in outside]
    ours = ("st_ssl", "st_ssl.cli", "st_ssl.core.errors", "st_ssl.core.limits")
    assert modules or not tree.body
    for module in modules:
        known = module in ours or module.startswith("st_ssl.cli.doctor")
        assert known or module.partition(".")[0] in sys.stdlib_module_names


def test_a_check_that_fails_is_a_red_finding_that_names_it() -> None:
    def failing() -> Iterable[Finding]:
        yield Finding("Machine", "first", "green", "")
        raise ZeroDivisionError("by none")

    first, finding = examine("Machine", "disk", failing)
    assert first.name == "first"
    assert (finding.subject, finding.name, finding.level) == ("Machine", "disk", "red")
    assert "the check of disk failed itself: ZeroDivisionError: by none" in finding.text


# -------------------------------------------------------------------- requirements


def test_the_bounds_are_those_of_pyproject() -> None:
    torch = requirements.requirement("torch")
    assert torch is not None
    assert f'"{torch}"' in (ROOT / "pyproject.toml").read_text()
    wanted = {(one.name, one.extra) for one in requirements.requirements()}
    assert {("torch", ""), ("av", "video"), ("av", "all"), ("matplotlib", "all"), ("wandb", "wandb")} <= wanted
    assert ("wandb", "all") not in wanted
    assert str(requirements.requirement("laspy")).startswith("laspy[lazrs]>=")
    assert requirements.python_bounds() == ">=3.11"
    assert re.fullmatch(r"3\.\d+", requirements.newest_python())


def test_without_a_checkout_the_metadata_tell_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["torch>=2.10", 'laspy[lazrs]>=2.5; extra == "points"', "st-ssl-peer (>=1) ; (sys_platform == 'beos')"]
    texts += [
        f"spconv-cu{v}>=2; (python_version {sign} '3.99') and extra == 'all'" for v, sign in ((1, "<"), (2, ">="))
    ]
    monkeypatch.setattr(requirements, "in_checkout", lambda: False)
    monkeypatch.setattr(requirements.importlib.metadata, "requires", lambda name: texts)
    assert requirements.requirements() == [
        Requirement("torch", ">=2.10"),
        Requirement("laspy", ">=2.5", "points", "[lazrs]"),
        Requirement("spconv-cu1", ">=2", "all"),
    ]
    assert requirements.pip_install_all().endswith("-m pip install 'st_ssl[all]'")


@pytest.mark.parametrize(
    ("version", "package"), [((3, 11), "spconv-cu120"), ((3, 12), "spconv-cu126"), ((3, 13), "spconv-cu126")]
)
def test_spconv_is_the_one_for_this_python(
    version: tuple[int, int], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    monkeypatch.setattr(sys, "platform", "linux")
    finding = one(packages.check_spconv({"spconv": Report(error="No module", missing="spconv")}))
    wanted = requirements.requirement("spconv")
    assert wanted is not None
    assert wanted.name == package
    if version == (3, 11):
        assert finding.level == "green" or package in finding.mend or requirements.installed(package)
    assert (requirements.requirement("open3d") is None) == (version == (3, 13))


@pytest.mark.parametrize(
    ("bounds", "version", "allowed"),
    [
        (">=2.10", "2.9.1", False),
        (">=2.10", "2.10", True),
        (">=2.10", "2.10.0+cu126", True),
        (">=2.10", "2.14.1+cu130", True),
        (">=0.6,<1", "1.0.0", False),
        (">=3", "3.0.0rc1", True),
        ("", "1", True),
    ],
)
def test_versions_are_compared_as_numbers(bounds: str, version: str, allowed: bool) -> None:
    assert Requirement("x", bounds).allows(version) == allowed


def test_a_python_of_the_system_gets_an_environment(monkeypatch: pytest.MonkeyPatch, root_of_debian: None) -> None:
    monkeypatch.setattr(requirements, "_externally_managed", lambda: True)
    monkeypatch.setattr(requirements, "has_module", lambda name: False)
    command = requirements.pip_install("av>=14")
    assert command.startswith("apt-get install -y python3-venv && ")
    assert command.endswith(" -m venv .venv && . .venv/bin/activate && pip install 'av>=14'")


def test_who_is_not_root_needs_sudo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root_of_debian: None) -> None:
    assert findings.apt_install("libgl1", "ffmpeg") == "apt-get install -y libgl1 ffmpeg"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert findings.apt_install("ffmpeg") == "sudo apt-get install -y ffmpeg"
    monkeypatch.setattr(findings, "APT_LISTS", tmp_path / "none")
    assert findings.apt_install("ffmpeg") == "sudo apt-get update && sudo apt-get install -y ffmpeg"
    monkeypatch.setenv("PATH", "")
    assert findings.apt_install("ffmpeg") == ""


# -------------------------------------------------------------------- python and packages


@pytest.mark.parametrize(("version", "level"), [("3.10.13", "red"), ("3.11.2", "green"), ("3.99.0", "yellow")])
def test_the_version_of_python(version: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python.platform, "python_version", lambda: version)
    finding = one(python.check_python())
    assert finding.level == level
    assert finding.text.startswith(version)


def test_another_python_is_the_system_s_where_its_release_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root_of_debian: None
) -> None:
    monkeypatch.setattr(python.platform, "python_version", lambda: "3.10.13")
    for code, mend in ((0, "apt-get install -y python3.11 python3.11-venv"), (100, "uv venv --seed --python 3.11")):
        (tmp_path / "apt-cache").write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / "apt-cache").chmod(0o755)
        assert one(python.check_python()).mend.startswith(mend)


def test_windows_is_told_of_before_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    finding = one(python.check_system())
    assert (finding.level, "take WSL" in finding.text) == ("red", True)


def test_torch_is_as_new_as_pyproject_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/a/tools/doctor.py", "--quick"])
    assert one(packages.check_torch(FINE)).level == "green"
    old = one(packages.check_torch({"torch": Report({"version": "2.4.1", "cuda": None, "hip": None})}))
    assert (old.level, old.text) == ("red", f"2.4.1 is not {requirements.requirement('torch').bounds}")  # type: ignore[union-attr]
    assert "pip install --upgrade 'torch>=" in old.mend
    dead = one(packages.check_torch({"torch": Report(error="its process died of SIGILL", kind="died")}))
    assert (dead.level, dead.text) == ("red", "its process died of SIGILL")
    assert "--force-reinstall" in dead.mend
    hung = one(packages.check_torch({"torch": Report(error="no answer in 60 s", kind="hung")}))
    assert (hung.level, hung.mend) == ("red", f"{sys.executable} /a/tools/doctor.py --timeout 300")


def test_torchvision_has_to_fit_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "installed", lambda name: "2.14.1")
    error = Report(error="operator torchvision::nms does not exist", kind="RuntimeError")
    finding = one(packages.check_torchvision(FINE | {"torchvision": error}))
    assert finding.level == "red"
    assert "does not fit torch 2.14.1: operator torchvision::nms does not exist" in finding.text
    assert "--force-reinstall 'torch>=" in finding.mend
    assert "--index-url" not in finding.mend
    old = Report({"version": "0.1"})
    for kind in ("cpu", "cu126", "rocm7.0", "xpu"):
        monkeypatch.setattr(repair, "installed", lambda name, kind=kind: f"2.14.1+{kind}")
        for report in (error, old):
            finding = one(packages.check_torchvision(FINE | {"torchvision": report}))
            assert finding.mend.endswith(f" --index-url https://download.pytorch.org/whl/{kind}")


OPEN3D = "'open3d>=" if sys.version_info < (3, 13) else "open3d"  # there are no wheels to ask for from 3.13 on


@pytest.mark.parametrize(
    ("error", "text", "mend"),
    [
        (
            "libGL.so.1, libusb-1.0.so.0: cannot open shared object file: No such file or directory",
            "libGL.so.1 and libusb-1.0.so.0 are missing",
            "apt-get install -y libgl1 libusb-1.0-0",
        ),
        ("/usr/lib/libEGL.so.1: file too short", "libEGL.so.1 is damaged", "apt-get install -y --reinstall libegl1"),
        ("/x/open3d/libOpen3D.so: file too short", "OSError: /x/", f"pip install --force-reinstall {OPEN3D}"),
        ("libnone.so.3: cannot open shared object file", "libnone.so.3 is missing", "pip install --force-reinstall"),
    ],
)
def test_libraries_that_open3d_lacks_are_named_with_their_packages(
    error: str, text: str, mend: str, root_of_debian: None
) -> None:
    finding = one(packages.check_open3d({"open3d": Report(error=error, kind="OSError")}))
    assert finding.level == "yellow"
    assert finding.text.startswith(text)
    assert mend in finding.mend


def test_what_is_installed_and_too_old_is_upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"matplotlib": "3.1", "einops": ""}
    monkeypatch.setattr(packages, "installed", lambda name: there.get(name, "99"))
    assert one(packages.check_required()).level == "red"
    assert "not installed: einops>=" in one(packages.check_required()).text
    old, fine = packages.check_extras()
    assert (old.name, old.level, fine.name, fine.level) == ("extra viz", "yellow", "extras", "green")
    assert old.text.startswith("matplotlib 3.1 is not >=")


@pytest.mark.parametrize(
    ("place", "version", "level", "text"),
    [
        (".", "0.1", "green", ""),
        ("link", "", "green", ", on the path without being installed"),
        ("none", "0.0.1", "red", "is not installed in this Python"),
        ("copy", "0.1", "yellow", "but what tools import is 0.1 in "),
        ("copy", "0.0.1", "red", "but what tools import is 0.0.1 in "),
    ],
)
def test_tools_import_the_st_ssl_that_the_path_has_behind_the_checkout(
    place: str, version: str, level: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(ROOT)
    (tmp_path / "copy" / "st_ssl").mkdir(parents=True)
    (tmp_path / "copy" / "st_ssl" / "__init__.py").touch()
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [str(ROOT), str(ROOT / "tools"), place if place == "." else str(tmp_path / place)])
    monkeypatch.setattr(sys, "argv", ["tools/doctor.py"])
    monkeypatch.setattr(sys.modules["st_ssl"], "__version__", "0.1")
    monkeypatch.setattr(packages, "installed", lambda name: version)
    finding = one(packages.check_own())
    assert finding.level == level
    assert text in finding.text
    monkeypatch.setattr(sys, "argv", ["st-ssl doctor"])  # by python -m in the checkout, as runs are then, too
    assert one(packages.check_own()).level == "green"


def test_a_package_without_metadata_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "_texts", list)
    monkeypatch.setattr(packages, "installed", lambda name: "")
    monkeypatch.setattr(decoders, "installed", lambda name: "")
    required = one(packages.check_required())
    assert (required.level, required.text.partition(":")[0]) == ("red", "nothing tells what st_ssl needs")
    pyav = one(decoders.check_pyav({"pyav": Report(error="No module", missing="av")}))
    open3d = one(packages.check_open3d({"open3d": Report(error="No module", missing="open3d")}))
    assert (pyav.level, open3d.level) == ("red", "yellow")
    assert pyav.text.startswith("not installed: ") and open3d.text.startswith("not installed: ")
    assert required.mend == pyav.mend == open3d.mend == requirements.pip_install_all()


# -------------------------------------------------------------------- decoders


def test_the_sample_is_eight_frames_of_known_colours(tmp_path: Path) -> None:
    """How the sample was made; the bytes differ between versions of x264, what they show does not."""
    from st_ssl.data.packs.video_encoding import encode
    from st_ssl.data.streams.video import open_video

    anew = tmp_path / "colours.mp4"
    frames = (np.full((64, 64, 3), colour, np.uint8) for colour in decoders.COLOURS)
    encode(str(anew), frames, fps=8, size=(64, 64), crf=18, keyframes=4)
    assert probes.SAMPLE.stat().st_size < 4096
    for file in (anew, probes.SAMPLE):
        with open_video(file) as video:
            shown = np.stack([image for _, image in video.read(range(8))])
        wanted = np.array(decoders.COLOURS)[:, None, None]
        assert shown.shape == (8, 64, 64, 3)
        assert np.abs(shown - wanted).max() <= decoders.TOLERANCE


@pytest.mark.parametrize("name", ["pyav", "decord", "torchcodec"])
def test_each_decoder_shows_the_sample_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not find_spec({"pyav": "av"}.get(name, name)):
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(probes, "DECODE_SECONDS", 0.01)
    clip = str(tmp_path / "clip.mp4")
    probes.PROBES["clip"](clip)
    try:
        report = Report(probes.PROBES[name](clip))
    except MissingLibraryError as error:
        pytest.skip(str(error))
    check: Callable[..., Iterable[Finding]] = getattr(decoders, f"check_{name}")
    finding = one(check({name: report, "ffmpeg": Report({"found": [5], "takes": [5]})}))
    assert re.fullmatch(r"[\d.]+: decoded, [\d,]+ frames/s of 320 × 240 on one core.*", finding.text)
    colours = [[200.0, 60.0, 40.0], [0.0, 0.0, 0.0], [40.0, 40.0, 40.0]]
    wrong = one(check({name: Report(report.facts | {"colours": colours}), "ffmpeg": Report()}))
    assert wrong.level == ("red" if name == "pyav" else "yellow")
    assert wrong.text.startswith("wrong: frame 5 of the sample is (0.0, 0.0, 0.0), and should be (60, 190, 200)")


def test_a_slow_decoder_is_yellow() -> None:
    facts = {"version": "99", "colours": [decoders.COLOURS[i] for i in probes.SHOWN], "speed": 12, "size": "320 × 240"}
    finding = one(decoders.check_pyav({"pyav": Report(facts)}))
    assert finding.level == "yellow"
    assert finding.mend == "st-ssl prepare pack VIDEOS --output PACK"


def test_torchcodec_without_ffmpeg_and_with_another_torch(root_of_debian: None) -> None:
    unloadable = Report(error="Could not load libtorchcodec", kind="RuntimeError")
    for found, mend in (([], "apt-get install -y ffmpeg"), ([3], "apt-get install -y ffmpeg"), ([5], "torchcodec>=")):
        ffmpeg = Report({"found": found, "takes": [4, 5, 6, 7, 8]})
        finding = one(decoders.check_torchcodec({"torchcodec": unloadable, "ffmpeg": ffmpeg}))
        assert finding.level == "yellow"
        assert mend in finding.mend
        assert ("torchcodec takes 4 to 8" in finding.text) == (found != [5])
        assert one(decoders.check_ffmpeg({"ffmpeg": ffmpeg})).level == ("green" if found == [5] else "yellow")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--folder nowhere", "--folder nowhere: expected a folder that is there"),
        ("--workers -1", "--workers -1: expected 0 or more"),
        ("--timeout 0", "--timeout 0: expected more than 0 seconds"),
        ("--jsno", "unknown option --jsno; did you mean '--json'?"),
    ],
)
def test_mistakes_in_the_call_are_named(arguments: str, told: str) -> None:
    code, out, err = call("doctor", *arguments.split())
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith(told)
