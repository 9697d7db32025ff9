"""Tables of figures with the strongest baseline, and a line for each verdict."""

from __future__ import annotations

from typing import Any

from st_ssl.cli.finetune.tables import finetune_tables, verdict_lines
from st_ssl.core.verdict import Difference, Verdict

USED: dict[str, Any] = {"repeats": 1, "labels": {"train": 1, "val": 2}}


def test_what_cannot_be_told_is_a_dash() -> None:
    nothing = {"mean": None, "std": None, "values": [None]}
    rows = [{"mode": "full", "fraction": 1.0, "metrics": {"mIoU": nothing, "IoU_3": nothing}}]
    result = {"runs": ["run"], "sizes": {"test": 1}, "results": [row | USED for row in rows]}
    (table,) = finetune_tables(result, "segment")
    assert list(table.columns[1].cells) == ["–"] and "(run; tested on 1)" in str(table.title)


def test_of_one_fraction_the_figures_are_rows() -> None:
    def figures(*values: float) -> dict[str, dict[str, float]]:
        return {name: {"mean": value, "std": 0.5} for name, value in zip(("top1", "top5"), values, strict=True)}

    cells = [("frozen", figures(20, 80)), ("full", figures(30, 90))]
    rows = [{"mode": mode, "fraction": 0.1, "metrics": metrics} for mode, metrics in cells]
    result = {"runs": ["run"], "sizes": {"test": 1}, "results": [row | USED for row in rows]}
    (table,) = finetune_tables(result, "recognise")
    assert str(table.title).startswith("recognise: 10 % of the labels (1 train, 2 val, once), % (run; tested")
    columns = [[str(column.header), *column.cells] for column in table.columns]
    assert columns == [
        ["figure", "top1", "top5"],
        ["frozen", "20.0 ± 0.5", "80.0 ± 0.5"],
        ["full", "30.0 ± 0.5", "90.0 ± 0.5"],
    ]


def result(fractions: tuple[float, ...], baselines: list[tuple[str, float, float]]) -> dict[str, Any]:
    """Of two modes; ``baselines`` are a name, a fraction and a mean."""

    def figure(mean: float) -> dict[str, Any]:
        return {"mean": mean, "std": 0.5, "values": [mean, mean]}

    rows = [
        {"mode": mode, "fraction": f, "epochs": [1, 1], "metrics": {"accuracy": figure(50), "ece": figure(7)}, **USED}
        for f in fractions
        for mode in ("scratch", "full")
    ]
    told = [{"name": name, "fraction": f, "metrics": {"accuracy": figure(mean)}} for name, f, mean in baselines]
    more = {"runs": ["run"], "sizes": {"test": 1}, "metric": "accuracy"}
    return {**more, "results": rows, "baselines": told}


def columns(table: Any) -> list[list[str]]:
    return [[str(column.header), *column.cells] for column in table.columns]


def test_the_strongest_baseline_has_a_column() -> None:
    (table,) = finetune_tables(result((0.1,), [("weak", 0.1, 10), ("raw", 0.1, 40)]), "classify")
    assert columns(table)[-1] == ["raw pixels", "40.0 ± 0.5", "–"]
    first, second = finetune_tables(result((0.1, 1.0), [("raw", 0.1, 40), ("raw", 1.0, 60)]), "classify")
    assert columns(first)[-1] == ["raw pixels", "40.0 ± 0.5", "60.0 ± 0.5"]
    assert [column[0] for column in columns(second)] == ["labels", "scratch", "full"]  # it has no such figure


def test_baselines_that_are_strongest_here_and_there_are_named_in_their_cells() -> None:
    told = [("raw", 0.1, 40.0), ("weak", 0.1, 30.0), ("weak", 0.5, 55.0), ("raw", 0.5, 45.0)]
    first, _ = finetune_tables(result((0.1, 0.5, 1.0), told), "classify")
    assert columns(first)[-1] == ["best baseline", "raw pixels 40.0 ± 0.5", "weak 55.0 ± 0.5", "–"]


def test_a_verdict_is_a_line() -> None:
    verdict = Verdict((Difference("scratch", 9.1, 6.0, 12.2), Difference("raw", -2.0, -3.1, -0.9)), 40, 2)
    row = {"mode": "full", "fraction": 0.1, "verdict": verdict.as_json()}
    told = "full: ahead of scratch (+9.1, +6.0 to +12.2), behind raw pixels (-2.0, -3.1 to -0.9)"
    assert verdict_lines(result((0.1,), []) | {"verdicts": [row]}) == [told]
    alone = {**row, "verdict": Verdict((Difference("scratch", 9.1, 6.0, 12.2),), 40, 2).as_json()}
    (line,) = verdict_lines(result((0.1,), []) | {"verdicts": [alone]})
    assert line == "full: ahead of scratch (+9.1, +6.0 to +12.2); not called ahead, as there is no other rival"
    none = {"mode": "full", "fraction": 1.0, "verdict": None, "why": "nothing is known"}
    row["verdict"] = {**verdict.as_json(), "seeds": 1}
    assert verdict_lines(result((0.1, 1.0), []) | {"verdicts": [row, none]}) == [
        f"{told.replace('full', 'full, 10 % of the labels')} (over 1 of 2 repetitions)",
        "full, 100 % of the labels: no verdict: nothing is known",
    ]
    assert verdict_lines(result((0.1,), [])) == []  # of a result of before there were any
