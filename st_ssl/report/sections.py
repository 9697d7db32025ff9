"""What the report says of one run, section by section."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from st_ssl.core.config import to_yaml
from st_ssl.core.errors import UserError
from st_ssl.core.inputs import InputConfig, PointInputConfig
from st_ssl.encoders.base import count_parameters
from st_ssl.engine.probe_files import probe_title
from st_ssl.report.curves import curve_panels
from st_ssl.report.embedding import draw_maps, embed, find_neighbours
from st_ssl.report.features import feature_scenes
from st_ssl.report.finetuned import finetuned
from st_ssl.report.folder import RunFolder
from st_ssl.report.learning_curves import learning_curves
from st_ssl.report.matches import match_scenes
from st_ssl.report.pictures import method_samples, method_scenes, view_samples, view_scenes
from st_ssl.report.probes import Headline, ProbeTable, probe_table
from st_ssl.report.scenes import Scene
from st_ssl.report.turnable import Turnable, turnable


@dataclass
class Section:
    """One part of a run's report: ``content`` by the name its template uses, or what is ``missing``."""

    kind: str
    title: str
    content: dict[str, Any] = field(default_factory=dict)
    missing: str = ""
    number: str = ""
    """What tells sections of one kind apart."""


@dataclass
class RunPage:
    """One run: an anchor, the facts of its header by their names, and sections. ``probes``: of its own data, None where
    it was not probed."""

    slug: str
    name: str
    facts: dict[str, str]
    probes: ProbeTable | None
    sections: list[Section]

    @property
    def headlines(self) -> dict[str, Headline]:
        return self.probes.headlines if self.probes else {}


def run_page(run: RunFolder, slug: str) -> RunPage:
    """All of one run; whatever it lacks so far is said in its place."""
    sections = [
        _section("curves", "Curves", lambda: _curves(run)),
        _section("views", "Augmented views", lambda: _views(run)),
        _section("pictures", "What the method makes of them", lambda: _pictures(run)),
        _section("matches", "Correspondences", lambda: _matches(run)),
        *_embedding(run),
        *_probes(run),
        _section("steps", "Learning curve", lambda: _steps(run)),
        _section("finetune", "Fine-tuning", lambda: _finetuned(run)),
        _section("data", "Data", lambda: {"lines": run.account} if run.account else {}),
        Section("broken", "Broken samples", {"samples": run.bad_samples}),
        Section("config", "Configuration", {"text": to_yaml(run.config.model_dump(mode="json"))}),
    ]
    table = next(section.content.get("table") for section in sections if section.kind == "probes")
    shown = [section for section in sections if section.missing or section.content]
    return RunPage(slug, run.name, _facts(run), table, shown)


def _section(kind: str, title: str, make: Callable[[], dict[str, Any]]) -> Section:
    try:
        return Section(kind, title, make())
    except UserError as error:
        return Section(kind, title, missing=str(error))


def _curves(run: RunFolder) -> dict[str, Any]:
    return {"panels": curve_panels(run), "gauge": any("feature_spread" in row for row in run.metrics)}


def _views(run: RunFolder) -> dict[str, Any]:
    return {"scenes": _turnable(view_scenes(run))} if run.of_clouds else {"samples": view_samples(run)}


def _pictures(run: RunFolder) -> dict[str, Any]:
    samples: Sequence[Any]
    samples, step = method_scenes(run) if run.of_clouds else method_samples(run)
    if not samples:
        return {}
    shown = {"scenes": _turnable(samples)} if run.of_clouds else {"samples": samples}
    return {**shown, "step": step, "about": inspect.getdoc(type(run.method).exhibits) or ""}


def _turnable(scenes: Sequence[Any]) -> list[Turnable]:
    return [turnable(scene) for scene in scenes]


def _embedding(run: RunFolder) -> list[Section]:
    sections = [Section("neighbours", "Nearest neighbours"), Section("map", "Map of the features")]
    try:
        embedding = embed(run)
    except UserError as error:
        return [replace(section, missing=str(error)) for section in sections]
    queries, agreement = find_neighbours(embedding)
    sizes = {"train": len(embedding.train), "test": len(embedding.test)}
    sections[0].content = {"queries": queries, "agreement": agreement, **sizes}
    maps, how = draw_maps(embedding)
    sections[1].content = {"maps": maps, "how": how, "labelled": embedding.labelled, **sizes}
    if run.of_clouds:
        features = _section("features", "Features of points", lambda: _scenes(feature_scenes(run, embedding)))
        sections.insert(0, features)
    return sections


def _scenes(scenes: Sequence[Scene], **more: Any) -> dict[str, Any]:
    """Scenes and ``more``; nothing where there are no scenes."""
    return {"scenes": _turnable(scenes), **more} if scenes else {}


def _matches(run: RunFolder) -> dict[str, Any]:
    scenes, shares, step = match_scenes(run)
    return _scenes(scenes, shares=shares, step=step)


def _probe(run: RunFolder, name: str) -> dict[str, Any]:
    return {"table": probe_table(run, name)}


def _probes(run: RunFolder) -> list[Section]:
    """Probes of the run's own data and settings, and a section for each other one."""
    sections = [_section("probes", "Probes", partial(_probe, run, "probe.json"))]
    for number, file in enumerate(sorted(run.directory.glob("probe_*.json")), 2):
        title = probe_title(file, run.config.data.model_dump(mode="json"))
        section = _section("probes", title, partial(_probe, run, file.name))
        sections.append(replace(section, number=str(number)))
    return sections


def _steps(run: RunFolder) -> dict[str, Any]:
    found = learning_curves(run)
    return {"found": found} if found else {}


def _finetuned(run: RunFolder) -> dict[str, Any]:
    found = finetuned(run)
    return {"found": found, "scenes": _turnable(found.scenes)} if found else {}


def _facts(run: RunFolder) -> dict[str, str]:
    """The facts of a run for people; what cannot be told is a dash."""
    config = run.config
    root = getattr(config.data, "root", None) or "planted"
    last = _try(lambda: run.metrics[-1])
    if last is None:
        steps = loss = time = "–"
    else:
        total = round(config.engine.epochs * last["step"] / last["epoch"]) if last.get("epoch") else 0
        steps = f"{last['step']:,} of {total:,}" if total > last["step"] else f"{last['step']:,}"
        loss = f"{last['loss']:.4f}" if "loss" in last else "–"
        time = _duration(float(sum(row.get("seconds", 0.0) for row in run.metrics)))
    what = "clouds" if run.of_clouds else "videos"
    samples = _try(lambda: f" ({len(run.entries):,} {what})") or " (cannot be read)"
    return {
        "method": config.method.name,
        "encoder": config.encoder.name,
        "parameters": f"{count_parameters(run.method.encoder) / 1e6:.2f} M",
        "input": _input(config.input),
        "data": f"{root}{samples}",
        "steps": steps,
        "final loss": loss,
        "training time": time,
    }


def _input(input: InputConfig | PointInputConfig) -> str:
    """What an encoder is fed, in a few words."""
    if isinstance(input, InputConfig):
        return f"{input.num_frames} × {input.size} × {input.size} (T × H × W), stride {input.stride}"
    count = "all points" if input.num_points is None else f"{input.num_points:,} points"
    voxels = f", voxels of {input.voxel_size:g} m" if input.voxel_size else ""
    return f"{count}{voxels}{', with ' if input.attributes else ''}{', '.join(input.attributes)}"


def _try(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except UserError:
        return None


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
