"""``doctor``: one page on the machine, and what mends it. Nothing but the standard library is imported here."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from st_ssl.cli import Parser
from st_ssl.cli.doctor import accelerator, decoders, machine, packages, python, speed
from st_ssl.cli.doctor.children import Report, ask
from st_ssl.cli.doctor.findings import Finding, examine, worst
from st_ssl.cli.doctor.page import as_json, write_page
from st_ssl.cli.doctor.requirements import Requirement, python_bounds
from st_ssl.cli.doctor.status import Status
from st_ssl.core.limits import default_workers, usable_cores

if TYPE_CHECKING:
    Check = tuple[str, str, Callable[[], Iterable[Finding]]]
GROUPS = (("torch", "cuda", "torchvision", "torchcodec", "spconv"), ("open3d",), ("pyav",), ("decord",), ("ffmpeg",))
"""The probes; what imports torch shares a process."""
PROCESSES = 4


def _arguments() -> argparse.Namespace:
    parser = Parser(
        description="One page on this machine: what st_ssl needs of it, what is there, and what mends the rest.",
        epilog="examples:\n  st-ssl doctor\n  st-ssl doctor --json | jq .level\n\n"
        "green: fine; yellow: something optional is missing or slow; red: the quickstart cannot run, or is wrong.\n"
        "Exit code 1 where anything is red. Needs the standard library alone.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead: findings and level")
    parser.add_argument("--quick", action="store_true", help="do not measure the speed of decoders and disk")
    parser.add_argument("--folder", type=Path, help="where runs are written (default: runs/, or here)")
    parser.add_argument("--workers", type=int, help="data.num_workers of your runs (default: as runs have by default)")
    parser.add_argument(
        "--timeout", type=float, default=60, help="seconds that a package may take to import (default: %(default)s)"
    )
    arguments = parser.parse()
    if arguments.folder is None:  # what configurations name is runs/…, which a container mounts
        arguments.folder = Path("runs") if Path("runs").is_dir() else Path()
    if not arguments.folder.is_dir():
        parser.error(f"--folder {arguments.folder}: expected a folder that is there")
    if arguments.workers is not None and arguments.workers < 0:
        parser.error(f"--workers {arguments.workers}: expected 0 or more")
    if arguments.timeout <= 0:
        parser.error(f"--timeout {arguments.timeout:g}: expected more than 0 seconds")
    return arguments


def main() -> int:
    """Run the command; 1 where anything is red."""
    arguments = _arguments()
    workers = default_workers() if arguments.workers is None else arguments.workers
    folder = arguments.folder.resolve()
    status = Status(None if arguments.json else sys.stderr)
    findings = look(folder, workers, arguments.quick, arguments.timeout, status)
    if arguments.json:
        print(as_json(findings))
    else:
        write_page(findings)
    return int(worst(findings) == "red")


def look(folder: Path, workers: int, quick: bool, limit: float, status: Status) -> list[Finding]:
    """All findings on this machine, in the order of the page; ``status`` shows what takes its time."""
    findings = [finding for check in _checks_of_system(folder, workers) for finding in examine(*check)]
    if Requirement("python", python_bounds()).allows(sys.version.partition(" ")[0]):
        reports = _ask(quick, limit, status)
        with status.at("driver"):
            driver = accelerator.look_for_driver()
        findings += [finding for check in _checks_of_packages(reports, driver) for finding in examine(*check)]
    if not quick:
        with status.at("disk speed"):
            findings += examine("Machine", "disk speed", lambda: speed.check_disk_speed(folder))
    return findings


def _ask(quick: bool, limit: float, status: Status) -> Mapping[str, Report]:
    """What the probes answer. Decoders are timed on a clip that is written before, if it can be."""
    with ExitStack() as stack:
        options = []
        if not quick:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                clip = os.path.join(folder, "clip.mp4")
                if not ask([["clip"]], [f"clip={clip}"], 1, limit, status)["clip"].error:
                    options = [f"clip={clip}"]
            except OSError:  # no room for it: that is a finding of the disk's
                options = []
        return ask(GROUPS, options, min(PROCESSES, int(usable_cores())), limit, status)


def _checks_of_system(folder: Path, workers: int) -> list[Check]:
    return [
        ("Python", "Python", python.check_python),
        ("Python", "system", python.check_system),
        ("Python", "pip", python.check_pip),
        ("Machine", "cores", lambda: machine.check_cores(workers)),
        ("Machine", "memory", machine.check_memory),
        ("Machine", "/dev/shm", machine.check_shared_memory),
        ("Machine", "open files", machine.check_open_files),
        ("Machine", "disk", lambda: machine.check_disk(folder)),
        ("Machine", "home", machine.check_home),
    ]


def _checks_of_packages(reports: Mapping[str, Report], driver: accelerator.Driver) -> list[Check]:
    gpu = bool(reports["cuda"].facts.get("available"))
    return [
        ("Machine", "compiler", lambda: machine.check_compiler(gpu)),
        ("Packages", "st_ssl", packages.check_own),
        ("Packages", "torch", lambda: packages.check_torch(reports)),
        ("Packages", "torchvision", lambda: packages.check_torchvision(reports)),
        ("Packages", "required", packages.check_required),
        ("Packages", "extras", packages.check_extras),
        ("Packages", "spconv", lambda: packages.check_spconv(reports)),
        ("Packages", "open3d", lambda: packages.check_open3d(reports)),
        ("GPU", "driver", lambda: accelerator.check_driver(driver, gpu)),
        ("GPU", "CUDA", lambda: accelerator.check_cuda(driver, reports)),
        ("GPU", "NCCL", lambda: accelerator.check_nccl(reports)),
        ("Video", "PyAV", lambda: decoders.check_pyav(reports)),
        ("Video", "torchcodec", lambda: decoders.check_torchcodec(reports)),
        ("Video", "decord", lambda: decoders.check_decord(reports)),
        ("Video", "FFmpeg", lambda: decoders.check_ffmpeg(reports)),
    ]
