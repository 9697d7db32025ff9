"""The report: one self-contained HTML page about one or several runs."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_ssl.core.errors import UserError
from st_ssl.core.files import write_atomically
from st_ssl.core.inputs import InputConfig, PointInputConfig

if TYPE_CHECKING:
    from st_ssl.report.embedding import Embedding
    from st_ssl.report.folder import RunFolder
    from st_ssl.report.probes import Headline, ProbeTable


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
    """One run: an anchor, facts (name, value) and what else its header says, and sections. ``probes``: of its own
    data, None where it was not probed."""

    slug: str
    name: str
    facts: list[tuple[str, str]]
    probes: ProbeTable | None
    sections: list[Section]
    row: dict[str, str]

    @property
    def headlines(self) -> dict[str, Headline]:
        return self.probes.headlines if self.probes else {}


def write_report(runs: list[Path], output: Path) -> Path:
    """Write the page about ``runs`` (their folders) to ``output`` and return it.

    Whatever a run lacks so far is said in its place. Nothing in the folders is changed. Raises ``UserError`` for a
    folder that is not a run's, and ``MissingDependencyError`` without the extra ``viz``.
    """
    from st_ssl.report.figures import own_ids, require_matplotlib

    require_matplotlib()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from st_ssl.report.folder import RunFolder
    from st_ssl.report.turnable import viewer_script

    if not runs:
        raise UserError("a report needs at least one run")
    folders = [RunFolder.open(Path(run)) for run in runs]
    if len({folder.name for folder in folders}) < len(folders):
        folders = [replace(folder, name=str(folder.directory)) for folder in folders]
    pages = [_run_page(folder, f"run{number}") for number, folder in enumerate(folders, 1)]
    environment = Environment(
        loader=PackageLoader("st_ssl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = itertools.count(1)
    environment.filters["own_ids"] = lambda figure: own_ids(figure, next(figures))
    summary = _across(pages)
    script = (
        viewer_script() if any(section.content.get("scenes") for page in pages for section in page.sections) else None
    )
    text = environment.get_template("template.html").render(runs=pages, script=script, **summary)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="replace")  # a file name may hold bytes that are no text
    return output


def _across(pages: list[RunPage]) -> dict[str, Any]:
    """What the summary says of all runs together: the kinds of probes, who lost to whom, how many pretrainings."""
    from st_ssl.report.probes import beaten_by, one_pretraining
    from st_ssl.report.standings import AHEAD

    return {
        "kinds": list(dict.fromkeys(kind for page in pages for kind in page.headlines)),
        "lost": [(page.name, who) for page in pages if (who := beaten_by(page.headlines))],
        "single": one_pretraining({page.name: page.probes.pretrainings for page in pages if page.probes}),
        "ahead": AHEAD,
    }


def _run_page(run: RunFolder, slug: str) -> RunPage:
    from st_ssl.core.config import to_yaml

    sections = [
        _section("curves", "Curves", lambda: _curves(run)),
        _section("views", "Augmented views", lambda: _views(run)),
        _section("pictures", "What the method makes of them", lambda: _pictures(run)),
        _section("matches", "Correspondences", lambda: _matches(run)),
        *_embedding(run),
        _section("probes", "Probes", lambda: _probes(run, "probe.json")),
        *_other_probes(run),
        _section("finetune", "Fine-tuning", lambda: _finetuned(run)),
        _section("data", "Data", lambda: {"lines": run.account} if run.account else {}),
        Section("broken", "Broken samples", {"samples": run.bad_samples}),
        Section("config", "Configuration", {"text": to_yaml(run.config.model_dump(mode="json"))}),
    ]
    row = _summary(run)
    table = next(section.content.get("table") for section in sections if section.kind == "probes")
    facts = [(name, value) for name, value in row.items() if name != "run"]
    shown = [section for section in sections if section.missing or section.content]
    return RunPage(slug, run.name, facts, table, shown, row)


def _section(kind: str, title: str, make: Callable[[], dict[str, Any]]) -> Section:
    try:
        return Section(kind, title, make())
    except UserError as error:
        return Section(kind, title, missing=str(error))


def _curves(run: RunFolder) -> dict[str, Any]:
    from st_ssl.report.curves import curve_panels

    return {"panels": curve_panels(run), "gauge": any("feature_spread" in row for row in run.metrics)}


def _views(run: RunFolder) -> dict[str, Any]:
    from st_ssl.report.pictures import view_samples, view_scenes

    return {"scenes": _turnable(view_scenes(run))} if run.of_clouds else {"samples": view_samples(run)}


def _pictures(run: RunFolder) -> dict[str, Any]:
    from st_ssl.report.pictures import method_samples, method_scenes

    samples, step = method_scenes(run) if run.of_clouds else method_samples(run)
    if not samples:
        return {}
    shown = {"scenes": _turnable(samples)} if run.of_clouds else {"samples": samples}
    return {**shown, "step": step, "about": inspect.getdoc(type(run.method).exhibits) or ""}


def _turnable(scenes: Sequence[Any]) -> list[Any]:
    from st_ssl.report.turnable import turnable

    return [turnable(scene) for scene in scenes]


def _embedding(run: RunFolder) -> list[Section]:
    from st_ssl.report.embedding import draw_maps, embed, find_neighbours

    sections = [Section("neighbours", "Nearest neighbours"), Section("map", "Map of the features")]
    try:
        embedding = embed(run)
    except UserError as error:
        for section in sections:
            section.missing = str(error)
        return sections
    queries, agreement = find_neighbours(embedding)
    sizes = {"train": len(embedding.train), "test": len(embedding.test)}
    sections[0].content = {"queries": queries, "agreement": agreement, **sizes}
    maps, how = draw_maps(embedding)
    sections[1].content = {"maps": maps, "how": how, "labelled": embedding.labelled, **sizes}
    if run.of_clouds:
        sections.insert(0, _section("features", "Features of points", lambda: _features(run, embedding)))
    return sections


def _features(run: RunFolder, embedding: Embedding) -> dict[str, Any]:
    from st_ssl.report.features import feature_scenes

    scenes = feature_scenes(run, embedding)
    return {"scenes": _turnable(scenes)} if scenes else {}


def _matches(run: RunFolder) -> dict[str, Any]:
    from st_ssl.report.matches import match_scenes

    scenes, shares, step = match_scenes(run)
    return {"scenes": _turnable(scenes), "shares": shares, "step": step} if scenes else {}


def _probes(run: RunFolder, name: str) -> dict[str, Any]:
    from st_ssl.report.probes import probe_table

    return {"table": probe_table(run, name)}


def _other_probes(run: RunFolder) -> list[Section]:
    """A section for each probe besides that of the run's own data and settings."""
    from st_ssl.engine.probe_files import probe_title

    sections = []
    for number, file in enumerate(run.other_probes, 2):
        title = probe_title(file, run.config.data.model_dump(mode="json"))
        sections.append(replace(_section("probes", title, partial(_probes, run, file.name)), number=str(number)))
    return sections


def _finetuned(run: RunFolder) -> dict[str, Any]:
    from st_ssl.report.finetuned import finetuned

    found = finetuned(run)
    return {"found": found, "scenes": _turnable(found.scenes)} if found else {}


def _summary(run: RunFolder) -> dict[str, str]:
    """The facts of a run for people; what cannot be told is a dash."""
    from st_ssl.encoders.base import count_parameters

    config = run.config
    root = getattr(config.data, "root", None) or "planted"
    last = _try(lambda: run.metrics[-1])
    if last is None:
        steps = loss = time = "–"
    else:
        total = round(config.engine.epochs * last["step"] / last["epoch"]) if last.get("epoch") else 0
        steps = f"{last['step']:,} of {total:,}" if total > last["step"] else f"{last['step']:,}"
        loss = f"{last['loss']:.4f}" if "loss" in last else "–"
        time = _try(lambda: _duration(run.seconds())) or "–"
    what = "clouds" if run.of_clouds else "videos"
    samples = _try(lambda: f" ({len(run.entries):,} {what})") or " (cannot be read)"
    return {
        "run": run.name,
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
