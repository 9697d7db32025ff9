"""The video decoders, each with frames of a known colour decoded, and FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from st_ssl.cli.doctor.children import Report
from st_ssl.cli.doctor.findings import Finding, apt_install
from st_ssl.cli.doctor.probes import SHOWN
from st_ssl.cli.doctor.repair import broken, reinstall, repair
from st_ssl.cli.doctor.requirements import (
    installed,
    pip_install,
    pip_install_all,
    pip_install_missing,
    requirement,
    requirements,
)

SUBJECT = "Video"
COLOURS = (
    (200, 60, 40),
    (60, 180, 70),
    (50, 70, 200),
    (210, 200, 60),
    (180, 60, 190),
    (60, 190, 200),
    (230, 230, 230),
    (40, 40, 40),
)
"""Red, green and blue of each frame of the sample."""
TOLERANCE = 8
"""How far a colour may be off: decoders round, and convert colours, in their own ways."""
SLOW = 300
"""Frames of 320 × 240 a second and core, below which decoding is what a run waits for."""


def check_pyav(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """The reader that runs take unless told, and what writes videos: the quickstart needs it."""
    yield _decoder("PyAV", "av", reports["pyav"], "red", "the default reader, which also writes planted videos")


def check_torchcodec(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """The reader that takes the system's FFmpeg."""
    finding = _decoder("torchcodec", "torchcodec", reports["torchcodec"], "yellow", "data.reader=torchcodec needs it")
    report, ffmpeg = reports["torchcodec"], reports["ffmpeg"].facts
    if report.kind == "MissingLibraryError" or "libtorchcodec" in report.error or "libav" in report.error:
        if set(ffmpeg.get("found", ())) & set(ffmpeg.get("takes", ())):
            text = f"FFmpeg is there, but this torchcodec was built for another torch: {report.error}"
            finding = Finding(SUBJECT, "torchcodec", "yellow", text, reinstall("torch", "torchvision", "torchcodec"))
        else:
            text = f"no FFmpeg that it takes{_versions(ffmpeg)}; PyAV, the default reader, brings its own"
            finding = Finding(SUBJECT, "torchcodec", "yellow", text, apt_install("ffmpeg"))
    yield finding


def check_decord(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """The third reader."""
    yield _decoder("decord", "decord", reports["decord"], "yellow", "data.reader=decord needs it")


def check_ffmpeg(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """FFmpeg's shared libraries in the system, for torchcodec alone."""
    report, facts = reports["ffmpeg"], reports["ffmpeg"].facts
    if report.error:
        mend = apt_install("ffmpeg") if report.kind == "died" else repair(report)
        yield Finding(SUBJECT, "FFmpeg", "yellow", f"{broken(report)}; no reader but torchcodec needs it", mend)
        return
    found = ", ".join(map(str, facts["found"]))
    if set(facts["found"]) & set(facts["takes"]) or (found and not facts["takes"]):
        yield Finding(SUBJECT, "FFmpeg", "green", f"{found} in the system{_versions(facts)}")
    else:
        text = f"{found or 'none'} in the system{_versions(facts)}; no other reader needs it"
        yield Finding(SUBJECT, "FFmpeg", "yellow", text, apt_install("ffmpeg"))


def _versions(facts: Mapping[str, list[int]]) -> str:
    takes = facts.get("takes")
    return f" (torchcodec takes {takes[0]} to {takes[-1]})" if takes else ""


def _wrong(report: Report) -> str:
    """Why a decoder cannot be trusted, ``""`` where it can."""
    if report.error:
        return broken(report)
    for number, shown in zip(SHOWN, report.facts["colours"], strict=True):
        if any(abs(a - b) > TOLERANCE for a, b in zip(shown, COLOURS[number], strict=True)):
            return f"wrong: frame {number} of the sample is {tuple(shown)}, and should be {COLOURS[number]}"
    return ""


def _decoder(name: str, package: str, report: Report, level: str, needed: str) -> Finding:
    wanted, wrong = requirement(package), _wrong(report)
    if wanted is None and report.missing and requirements():
        return Finding(SUBJECT, name, "green", f"not made for this system: {needed}")
    if report.missing and not installed(package):
        return Finding(SUBJECT, name, level, f"not installed: {needed}", pip_install_missing(wanted))
    if report.missing:
        return Finding(SUBJECT, name, level, f"not tried without {report.missing}", pip_install_all())
    if wrong:
        return Finding(SUBJECT, name, level, wrong, repair(report, package))
    version, speed = report.facts["version"], report.facts.get("speed")
    if wanted is not None and version and not wanted.allows(version):
        mend = pip_install("--upgrade", wanted)
        return Finding(SUBJECT, name, level, f"{version} is not {wanted.bounds}", mend)
    if speed is None:
        return Finding(SUBJECT, name, "green", f"{version}: decoded")
    text = f"{version}: decoded, {speed:,.0f} frames/s of {report.facts['size']} on one core"
    if speed < SLOW:
        return Finding(SUBJECT, name, "yellow", f"{text}: slow; small copies of the videos are quicker", _pack())
    return Finding(SUBJECT, name, "green", text)


def _pack() -> str:
    return "st-ssl prepare pack VIDEOS --output PACK"
