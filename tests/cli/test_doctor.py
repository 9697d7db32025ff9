"""What doctor finds on machines that are made up, and the page it writes; processes and GPUs have their own files."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from st_ssl.cli.doctor import cgroups, decoders, findings, machine, packages, page, probes, python, requirements, speed
from st_ssl.cli.doctor.children import Report
from st_ssl.cli.doctor.findings import Finding, examine, worst
from st_ssl.cli.doctor.requirements import Requirement
from tests.runs import ROOT

DOCTOR = ROOT / "st_ssl" / "cli" / "doctor"
FINE = {"torch": Report({"version": "2.14.1", "cuda": None, "hip": None})}


@pytest.fixture
def root_of_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system with apt-get, seen by root."""
    (tmp_path / "apt-get").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def one(found: Iterable[Finding]) -> Finding:
    (finding,) = found
    return finding


# -------------------------------------------------------------------- as a whole


def test_with_nothing_installed_it_says_what_installs_it(tmp_path: Path) -> None:
    call = [sys.executable, "-I", "-S", str(ROOT / "tools" / "doctor.py"), "--json", "--quick"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    told = json.loads(done.stdout)
    assert set(told) == {"findings", "level"}
    assert told["level"] == "red"
    by_name = {finding["name"]: finding for finding in told["findings"]}
    for name in ("st_ssl", "torch", "torchvision", "required", "extra viz", "PyAV"):
        assert (name, by_name[name]["level"]) == (name, "red")
        assert by_name[name]["mend"].endswith(f"pip install -e '{ROOT}[all]'")
    for name in ("torchcodec", "decord", "spconv", "open3d", "extra points"):
        assert (name, by_name[name]["level"]) == (name, "yellow")
    assert by_name["Python"]["level"] == "green"
    assert not any("failed itself" in finding["text"] for finding in told["findings"])


@pytest.mark.parametrize("file", sorted(DOCTOR.glob("*.py")), ids=lambda file: file.stem)
def test_it_needs_the_standard_library_alone(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 8))  # an old Python has to be able to say that it is old
    outside = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name for node in outside]
    ours = ("st_ssl", "st_ssl.cli", "st_ssl.errors")
    assert modules
    for module in modules:
        known = module in ours or module.startswith("st_ssl.cli.doctor")
        assert known or module.partition(".")[0] in sys.stdlib_module_names


def test_a_check_that_fails_is_a_red_finding_that_names_it() -> None:
    def failing() -> Iterable[Finding]:
        yield Finding("Machine", "first", "green", "")
        raise ZeroDivisionError("by none")

    finding = one(examine("Machine", "disk", failing))
    assert (finding.subject, finding.name, finding.level) == ("Machine", "disk", "red")
    assert "the check of disk failed itself: ZeroDivisionError: by none" in finding.text


# -------------------------------------------------------------------- the page

SOME = [
    Finding("Video", "PyAV", "green", "17.0: decoded"),
    Finding("Video", "torchcodec", "yellow", "no FFmpeg " * 12, "apt-get install -y ffmpeg"),
    Finding("Packages", "torch", "red", "not installed", "pip install all"),
    Finding("Packages", "required", "red", "not installed", "pip install all"),
]


def test_the_page_is_aligned_and_gathers_each_command_once() -> None:
    lines = list(page.page(SOME, width=80, colour=False))
    assert lines[0] == "Video"
    assert lines[1] == "  ✓ PyAV        17.0: decoded"
    assert lines[2].startswith("  ! torchcodec  no FFmpeg no")
    assert lines[3].startswith("                FFmpeg no")
    assert max(map(len, lines)) <= 80
    assert "1 green, 1 yellow, 2 red" in lines
    assert lines[-4:] == [
        "  # torch (red), required (red)",
        "  pip install all",
        "  # torchcodec (yellow)",
        "  apt-get install -y ffmpeg",
    ]
    assert worst(SOME) == "red"
    assert worst(SOME[:2]) == "yellow"
    assert worst([]) == "green"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("no_color", "encoding"), [("", "utf-8"), ("1", "utf-8"), ("1", "ascii")])
def test_colours_and_symbols_are_for_those_who_can_show_them(
    no_color: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal(io.BytesIO(), encoding=encoding)
    page.write_page([*SOME, Finding("Video", "x", "green", "320 × 240")], file)
    file.seek(0)
    text = file.read()
    assert ("\x1b[31m" in text) == (not no_color)
    assert ("✗" in text) == (encoding == "utf-8")
    assert ("X  torch" in text) == (encoding == "ascii")
    assert ("320 ? 240" in text) == (encoding == "ascii")


# -------------------------------------------------------------------- requirements


def test_the_bounds_are_those_of_pyproject() -> None:
    torch = requirements.requirement("torch")
    assert torch is not None
    assert f'"{torch}"' in (ROOT / "pyproject.toml").read_text()
    wanted = {(one.name, one.extra) for one in requirements.requirements()}
    assert {("torch", ""), ("av", "video"), ("av", "all"), ("matplotlib", "all"), ("rerun-sdk", "rerun")} <= wanted
    assert ("rerun-sdk", "all") not in wanted
    assert str(requirements.requirement("laspy")).startswith("laspy[lazrs]>=")
    assert requirements.python_bounds() == ">=3.11"
    assert re.fullmatch(r"3\.\d+", requirements.newest_python())


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
    monkeypatch.setattr(requirements.importlib.util, "find_spec", lambda name: None)
    command = requirements.pip_install("av>=14")
    assert command.startswith("apt-get install -y python3-venv && ")
    assert command.endswith(" -m venv .venv && . .venv/bin/activate && pip install 'av>=14'")


def test_who_is_not_root_needs_sudo(monkeypatch: pytest.MonkeyPatch, root_of_debian: None) -> None:
    assert findings.apt_install("libgl1", "ffmpeg") == "apt-get install -y libgl1 ffmpeg"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert findings.apt_install("ffmpeg") == "sudo apt-get install -y ffmpeg"
    monkeypatch.setenv("PATH", "")
    assert findings.apt_install("ffmpeg") == ""


# -------------------------------------------------------------------- python and packages


@pytest.mark.parametrize(("version", "level"), [("3.10.13", "red"), ("3.11.2", "green"), ("3.99.0", "yellow")])
def test_the_version_of_python(version: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python.platform, "python_version", lambda: version)
    finding = one(python.check_python())
    assert finding.level == level
    assert finding.text.startswith(version)


def test_torch_is_as_new_as_pyproject_asks() -> None:
    assert one(packages.check_torch(FINE)).level == "green"
    old = one(packages.check_torch({"torch": Report({"version": "2.4.1", "cuda": None, "hip": None})}))
    assert (old.level, old.text) == ("red", f"2.4.1 is not {requirements.requirement('torch').bounds}")  # type: ignore[union-attr]
    assert "pip install --upgrade 'torch>=" in old.mend
    dead = one(packages.check_torch({"torch": Report(error="its process died of SIGILL", kind="died")}))
    assert (dead.level, dead.text) == ("red", "its process died of SIGILL")
    assert "--force-reinstall" in dead.mend


def test_torchvision_has_to_fit_torch() -> None:
    error = Report(error="operator torchvision::nms does not exist", kind="RuntimeError")
    finding = one(packages.check_torchvision(FINE | {"torchvision": error}))
    assert finding.level == "red"
    assert "does not fit torch 2.14.1: operator torchvision::nms does not exist" in finding.text
    assert "--force-reinstall 'torch>=" in finding.mend


def test_libraries_that_open3d_lacks_are_named_with_their_packages(root_of_debian: None) -> None:
    error = Report(error="libGL.so.1, libusb-1.0.so.0: cannot open shared object file: No such file", kind="OSError")
    finding = one(packages.check_open3d({"open3d": error}))
    assert (finding.level, finding.text) == ("yellow", "libGL.so.1 and libusb-1.0.so.0 are missing")
    assert finding.mend == "apt-get install -y libgl1 libusb-1.0-0"


def test_what_is_installed_and_too_old_is_upgraded(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"matplotlib": "3.1", "einops": ""}
    monkeypatch.setattr(packages, "installed", lambda name: there.get(name, "99"))
    assert one(packages.check_required()).level == "red"
    assert "not installed: einops>=" in one(packages.check_required()).text
    old, fine = packages.check_extras()
    assert (old.name, old.level, fine.name, fine.level) == ("extra viz", "red", "extras", "green")
    assert old.text.startswith("matplotlib 3.1 is not >=")


# -------------------------------------------------------------------- decoders


def test_the_sample_is_eight_frames_of_known_colours(tmp_path: Path) -> None:
    """How the sample was made; the bytes differ between versions of x264, what they show does not."""
    from st_ssl.data.video.readers import open_video
    from st_ssl.data.video.writing import encode

    anew = tmp_path / "colours.mp4"
    frames = (np.full((64, 64, 3), colour, np.uint8) for colour in decoders.COLOURS)
    encode(str(anew), frames, fps=8, size=(64, 64), crf=18, keyframes=4)
    assert probes.SAMPLE.stat().st_size < 4096
    for file in (anew, probes.SAMPLE):
        with open_video(file) as video:
            shown = np.stack([image for _, image in video.frames(range(8))])
        wanted = np.array(decoders.COLOURS)[:, None, None]
        assert shown.shape == (8, 64, 64, 3)
        assert np.abs(shown - wanted).max() <= decoders.TOLERANCE


@pytest.mark.parametrize("name", ["pyav", "decord", "torchcodec"])
def test_each_decoder_shows_the_sample_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip({"pyav": "av"}.get(name, name))
    monkeypatch.setattr(probes, "DECODE_SECONDS", 0.01)
    clip = str(tmp_path / "clip.mp4")
    probes.PROBES["clip"](clip)
    report = Report(probes.PROBES[name](clip))
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
    assert finding.mend == "python tools/prepare.py pack VIDEOS --output PACK"


def test_torchcodec_without_ffmpeg_and_with_another_torch(root_of_debian: None) -> None:
    unloadable = Report(error="Could not load libtorchcodec", kind="RuntimeError")
    for found, mend in (([], "apt-get install -y ffmpeg"), ([3], "apt-get install -y ffmpeg"), ([5], "torchcodec>=")):
        ffmpeg = Report({"found": found, "takes": [4, 5, 6, 7, 8]})
        finding = one(decoders.check_torchcodec({"torchcodec": unloadable, "ffmpeg": ffmpeg}))
        assert finding.level == "yellow"
        assert mend in finding.mend
        assert ("torchcodec takes 4 to 8" in finding.text) == (found != [5])
        assert one(decoders.check_ffmpeg({"ffmpeg": ffmpeg})).level == ("green" if found == [5] else "yellow")


# -------------------------------------------------------------------- the machine


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",  # the outer part of the path is not in the container
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}
V2 = {
    "proc/self/cgroup": "0::/user/run\n",
    "sys/fs/cgroup/user/run/memory.max": "max\n",
    "sys/fs/cgroup/user/memory.max": "2147483648\n",
    "sys/fs/cgroup/user/run/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/user/cpu.max": "max 100000\n",
}
NONE = {"proc/self/cgroup": "4:memory:/\n0::/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}


@pytest.mark.parametrize(("files", "limited"), [(V1, True), (V2, True), (NONE, False), ({}, False)])
def test_limits_of_containers_count(files: dict[str, str], limited: bool, tmp_path: Path) -> None:
    root = tree(tmp_path, files)
    assert cgroups.memory_limit(root) == (2 << 30 if limited else None)
    assert (cgroups.usable_cores(root) == 0.5) == limited
    assert cgroups.usable_cores(root) > 0


def test_workers_are_those_of_a_run() -> None:
    from st_ssl.data.points.dataset import PointDataConfig
    from st_ssl.data.video.dataset import VideoDataConfig

    assert VideoDataConfig().num_workers == PointDataConfig().num_workers == machine.default_workers()


def test_more_workers_than_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 1.5)
    monkeypatch.setattr(machine, "memory_limit", lambda: 1 << 30)
    cores, memory = one(machine.check_cores(2)), one(machine.check_memory(2))
    assert (cores.level, memory.level) == ("yellow", "yellow")
    assert cores.mend == "python tools/pretrain.py configs/quickstart/video.yaml data.num_workers=1"
    assert memory.text.startswith("1.0 GiB")
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    assert one(machine.check_cores(1)).level == "green"


def test_small_shared_memory_says_how_much_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enough = (1 << 40, 0, 1 << 40)
    usage = type("Usage", (), {"free": 64 << 20})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: usage)
    finding = one(machine.check_shared_memory(2, tmp_path))
    assert finding.level == "yellow"
    assert finding.text.startswith("64 MiB free: sliding windows want 294 MiB (2 workers")
    assert "size=1G" in finding.mend or "--shm-size=1g" in finding.mend
    usage.free = enough[2]  # type: ignore[attr-defined]
    assert one(machine.check_shared_memory(2, tmp_path)).level == "green"


@pytest.mark.parametrize(
    ("limits", "level", "mend"),
    [((256, 4096), "yellow", "ulimit -n 4096"), ((1024, 4096), "green", ""), ((256, 256), "yellow", "prlimit")],
)
def test_open_files(limits: tuple[int, int], level: str, mend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    finding = one(machine.check_open_files())
    assert finding.level == level
    assert mend in finding.mend


@pytest.mark.parametrize(("free", "level"), [(1 << 20, "red"), (1 << 30, "yellow"), (1 << 40, "green")])
def test_room_on_the_disk(free: int, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
    assert next(iter(machine.check_disk(tmp_path))).level == level


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert next(iter(machine.check_disk(tmp_path))).level == "red"
    home = next(iter(machine.check_home()))
    assert (home.level, home.mend) == ("yellow", 'export HOME="$(mktemp -d)"')
    assert one(speed.check_disk_speed(tmp_path)).level == "yellow"


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.match(r"writes [\d,]+ MB/s, reads [\d,]+ MB/s, 2 MiB", one(speed.check_disk_speed(tmp_path, 2)).text)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(speed, "measure", lambda folder, blocks: (300.0, 5.0))
    assert one(speed.check_disk_speed(tmp_path, 2)).level == "yellow"


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert one(machine.check_compiler()).level == "yellow"
