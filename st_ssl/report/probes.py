"""What a run learned, as a table and as dots: probes of the pretrained encoder beside random features and baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from st_ssl.core.errors import DataError
from st_ssl.core.summary import plus_minus
from st_ssl.report.contestants import Key, contestant, keys
from st_ssl.report.curves import Panel
from st_ssl.report.few_labels import FewLabels, few_labels
from st_ssl.report.figures import ACCENT, FAINT, INK, draw
from st_ssl.report.retrieval import RetrievalTable, retrieval_table

if TYPE_CHECKING:
    from st_ssl.report.folder import RunFolder

KINDS = {"knn": "kNN", "linear": "linear", "svm": "linear SVM", "attentive": "attentive"}


@dataclass(frozen=True)
class Cell:
    """An accuracy in per cent: ``best`` of pretrained and random, ``won`` by pretrained, ``first`` of its probe."""

    text: str
    first: bool
    best: bool = False
    won: bool = False


@dataclass(frozen=True)
class Headline:
    """One kind of probe in a line: means over the targets in per cent, and in how many of them pretraining won."""

    pretrained: float
    random: float
    won: int
    targets: int

    @property
    def ahead(self) -> bool:
        return self.pretrained > self.random


@dataclass(frozen=True)
class ProbeTable:
    """``groups``: each kind of probe with its contestants; ``keys`` tell them apart in the ``panels``; ``rows``:
    factor, classes, cells in that order, chance. Without any kind but retrieval there are neither groups, rows nor
    panels."""

    groups: list[tuple[str, list[str]]]
    rows: list[tuple[str, int, list[Cell], str]]
    panels: list[Panel]
    keys: list[Key]
    note: str
    headlines: dict[str, Headline]
    retrieval: RetrievalTable | None
    few: FewLabels | None


def probe_table(run: RunFolder, name: str = "probe.json") -> ProbeTable:
    """The content of the file ``name`` of a run. Raises ``DataError`` where it is missing or is not a probe."""
    file = run.directory / name
    result = run.probe(file)
    try:
        targets = result["targets"]
        groups: dict[str, dict[str, None]] = {}
        for target in targets.values():
            for kind, contestants in target["probes"].items():
                groups.setdefault(kind, {}).update(dict.fromkeys(contestants))
        rows = []
        for name, target in targets.items():
            cells = [
                _cell(target["probes"].get(kind, {}), who, who == next(iter(contestants)))
                for kind, contestants in groups.items()
                for who in contestants
            ]
            rows.append((name, int(target["classes"]), cells, f"{target['chance']:.1f}"))
        panels = [_dots(name, target) for name, target in targets.items() if target["probes"]]
        note = f"{result['sizes']['train']} train and {result['sizes']['test']} test samples, {result['seeds']} seed"
        note += "s" if result["seeds"] != 1 else ""
        note += f", of {_place(result['config']['data'])}." if "config" in result else "."
        headlines = _headlines(targets)
        retrieval, few = retrieval_table(targets), few_labels(targets)
        if "splits" in result:
            note = f"Mean ± standard deviation over the official splits {', '.join(map(str, result['splits']))}: {note}"
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{file} is not the result of a probe: {error!r}") from error
    encoder = run.directory / "encoder.safetensors"
    if encoder.is_file() and encoder.stat().st_mtime > file.stat().st_mtime:
        note += " The encoder is newer than this probe: probe again for its present state."
    kinds = [(KINDS.get(kind, kind), list(contestants)) for kind, contestants in groups.items()]
    legend = keys(who for _, contestants in kinds for who in contestants)
    return ProbeTable(kinds, rows if kinds else [], panels, legend, note, headlines, retrieval, few)


def _place(data: dict[str, Any]) -> str:
    return str(data.get("root") or data.get("list") or "planted data")


def _cell(probes: dict[str, Any], who: str, first: bool) -> Cell:
    if who not in probes:
        return Cell("–", first)
    mine = probes[who]["mean"]
    rival = {"pretrained": "random", "random": "pretrained"}.get(who)
    best = rival in probes and mine > probes[rival]["mean"]
    return Cell(plus_minus(probes[who]), first, best, best and who == "pretrained")


def _dots(name: str, target: dict[str, Any]) -> Panel:
    kinds, chance = list(target["probes"]), target["chance"]

    def paint(axis: Any) -> None:
        """A row for each probe: mean ± standard deviation in per cent of all who were probed, a line at chance."""
        axis.axvline(chance, color=INK, linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)
        for y, kind in enumerate(kinds):
            probes = target["probes"][kind]
            pair = [probes[who]["mean"] for who in ("pretrained", "random") if who in probes]
            axis.plot([min(pair), max(pair)], [y, y], color=FAINT, linewidth=2.4, zorder=1)
            for who, value in reversed(probes.items()):
                shown = contestant(who)
                edge = ACCENT if who == "pretrained" else INK
                spread = [[value["std"]], [value["std"]]]
                axis.errorbar(
                    value["mean"],
                    y,
                    xerr=spread,
                    fmt=shown.marker,
                    color=edge,
                    mfc=shown.fill,
                    mec=edge,
                    ms=4.6,
                    elinewidth=0.8,
                    mew=0.9,
                )
        axis.set_yticks(range(len(kinds)), [KINDS.get(kind, kind) for kind in kinds])
        axis.set_ylim(len(kinds) - 0.5, -0.5)
        axis.set_xlim(0, 100)
        axis.set_xlabel("% right")
        axis.tick_params(axis="y", length=0)

    best = max((p["pretrained"]["mean"] for p in target["probes"].values() if "pretrained" in p), default=0.0)
    alt = f"Probe accuracies for {name}: best of pretrained {best:.1f} per cent, chance {chance:.1f}"
    return Panel(name, f"{target['classes']} classes", draw(3.5, 0.55 + 0.27 * len(kinds), paint, alt))


def _headlines(targets: dict[str, Any]) -> dict[str, Headline]:
    lines = {}
    for kind in KINDS:
        probes = [target["probes"][kind] for target in targets.values() if kind in target["probes"]]
        if probes:
            lines[KINDS[kind]] = _headline(probes)
    firsts = [next(iter(target["retrieval"]["probes"].items())) for target in targets.values() if "retrieval" in target]
    if firsts:
        lines[firsts[0][0]] = _headline([cells for _, cells in firsts])
    return lines


def _headline(probes: list[dict[str, Any]]) -> Headline:
    pairs = [(cells["pretrained"]["mean"], cells["random"]["mean"]) for cells in probes]
    ours, theirs = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return Headline(ours, theirs, sum(a > b for a, b in pairs), len(pairs))
