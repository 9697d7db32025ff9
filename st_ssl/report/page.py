"""The report: one self-contained HTML page about one or several runs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from st_ssl.core.errors import UserError
from st_ssl.report.figures import own_ids, require_matplotlib
from st_ssl.report.standings import AHEAD
from st_ssl.report.templates import templates, write_page
from st_ssl.report.turnable import viewer_script


def write_report(runs: list[Path], output: Path) -> Path:
    """Write the page about ``runs`` (their folders) to ``output`` and return it.

    Whatever a run lacks so far is said in its place. Nothing in the folders is changed. Raises ``UserError`` for a
    folder that is not a run's, and ``MissingDependencyError`` without the extra ``viz``.
    """
    require_matplotlib()
    from st_ssl.report.folder import RunFolder
    from st_ssl.report.probes import beaten_by, one_pretraining
    from st_ssl.report.sections import run_page

    if not runs:
        raise UserError("a report needs at least one run")
    folders = [RunFolder.open(Path(run)) for run in runs]
    if len({folder.name for folder in folders}) < len(folders):
        folders = [replace(folder, name=str(folder.directory)) for folder in folders]
    pages = [run_page(folder, f"run{number}") for number, folder in enumerate(folders, 1)]
    environment = templates()
    figures = itertools.count(1)
    environment.filters["own_ids"] = lambda figure: own_ids(figure, next(figures))
    turnables = any(section.content.get("scenes") for page in pages for section in page.sections)
    text = environment.get_template("template.html").render(
        runs=pages,
        script=viewer_script() if turnables else None,
        kinds=list(dict.fromkeys(kind for page in pages for kind in page.headlines)),
        lost=[(page.name, who) for page in pages if (who := beaten_by(page.headlines))],
        single=one_pretraining({page.name: page.probes.pretrainings for page in pages if page.probes}),
        ahead=AHEAD,
    )
    return write_page(text, output)
