"""Say what videos and clouds show, by a fine-tuned network.

The network is one that `finetune` kept: RUN/finetune/NAME/full_100_0, or any folder above it that holds no other. It
looks at the same views of a sample as when it was tested. Files that cannot be read are listed; exit code 1 where that
is all of them.

With --output FILE a line of JSON for each video or object: path, prediction, probability, and top, the likeliest
classes; or path and error. Of a network for segmentation it is a FOLDER, with a file for each cloud:
  NAME.npz      of every point of the file, in its order and its frame: xyz float64 [N, 3], segment int64 [N], the
                probability of that class float32 [N]; and the names of the classes. As .ply with --format ply
  index.jsonl   for each cloud: path, file, points, and the share of its points by class; or path and error
Of a network for detection it is a FOLDER, too, in the form of drives of one's own:
  boxes/NAME.txt   of each sweep: class, x, y, z, length, width, height, yaw; the score is a comment
  index.jsonl      for each sweep: path, file, and the number of boxes by class; or path and error
With --benchmark SPLIT the one FILE is the folder of a benchmark: KITTI or nuScenes (boxes), SemanticKITTI (points). Its
key frames of that split are looked at, and --output FOLDER has the files that it takes. Where labels are there, the
benchmark's own figures are printed, and are in FOLDER.json.

examples:
  st-ssl predict clip.mp4 --model runs/quickstart/video/videomae
  st-ssl predict runs/mine/finetune/ucf101/full_100_0 holiday/*.mp4 --top 3
  st-ssl predict --model runs/mine /data/videos --output predictions.jsonl
  st-ssl predict tile.las --model runs/scenes --output segmented
  st-ssl predict /data/scans --model runs/scenes --output segmented --format ply
  st-ssl predict /data/sweeps --model runs/driving --output found --score 0.3
  st-ssl predict /data/nuscenes --model runs/driving --benchmark val --output submission
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_ssl.cli import Parser

if TYPE_CHECKING:
    import torch

    from st_ssl.data.base import BadSample
    from st_ssl.transfer.fitting.predict import Answers, Network


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="videos or clouds, or folders of them")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="what fine-tuning kept (default: the first argument)"
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to tell (default: 5)")
    parser.add_argument("--output", type=Path, metavar="PLACE", help="write it, too: see below")
    parser.add_argument("--format", choices=["npz", "ply"], default="npz", help="of files of points (default: npz)")
    score = "the least score of a box that is told (default: 0.3)"
    parser.add_argument("--score", type=float, default=0.3, metavar="SCORE", help=score)
    parser.add_argument("--benchmark", metavar="SPLIT", help="FILE is a benchmark's folder: its files and figures")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    arguments = parser.parse()
    if arguments.model is None:
        arguments.model = arguments.files.pop(0)
    if not arguments.files:
        parser.error("expected videos or clouds, and the folder of a network: --model FOLDER")
    if not 0 <= arguments.score <= 1:
        parser.error(f"--score {arguments.score:g}: expected 0 … 1")
    if arguments.benchmark and (len(arguments.files) != 1 or arguments.output is None):
        parser.error("--benchmark: expected one folder, and --output FOLDER for the benchmark's files")
    if arguments.top < 1:
        parser.error(f"--top {arguments.top}: expected 1 or more")
    return arguments


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.engine.runtime import start_runtime
    from st_ssl.transfer.fitting.finetune_model import find_tuned, load_tuned
    from st_ssl.transfer.tasks.detection import Detect

    folder = find_tuned(arguments.model)
    network = load_tuned(folder)
    with start_runtime(arguments.device, "--device ") as runtime:
        if arguments.benchmark:
            _benchmark(network, arguments, runtime.device)
        elif isinstance(network[1], Detect):
            _boxes(network, folder, arguments, runtime.device)
        elif network[1].whole:
            _points(network, folder, arguments, runtime.device)
        else:
            _wholes(network, folder, arguments, runtime.device)


def _wholes(network: Network, folder: Path, arguments: argparse.Namespace, device: torch.device) -> None:
    """Classes of videos or objects."""
    from st_ssl.core.files import check_file, replace_text
    from st_ssl.engine.console import PlainConsole
    from st_ssl.transfer.fitting.predict import predict

    if arguments.output is not None:
        check_file(arguments.output, "--output ")
    answers = predict(network, arguments.files, device)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(arguments.output, jsonl(answers, arguments.top))
    unit = "video" if network[1].modality == "video" else "cloud"
    PlainConsole().print(table(answers, arguments.top, folder, unit))
    _tell(answers.bad, len(answers.bad) + len(answers.paths), unit)


def _points(network: Network, folder: Path, arguments: argparse.Namespace, device: torch.device) -> None:
    """Classes of the points of clouds, written as they come."""
    from st_ssl.core.files import check_writable
    from st_ssl.engine.console import PlainConsole, RunProgress
    from st_ssl.transfer.fitting.predict import segment
    from st_ssl.transfer.fitting.segmented_io import SegmentedFolder, shares

    output: SegmentedFolder | None = None
    if arguments.output is not None:
        check_writable(arguments.output)
        output = SegmentedFolder(arguments.output, arguments.format, network[2])
    scenes = segment(network, arguments.files, device)
    rows: list[tuple[str, int, Any]] = []
    with RunProgress("predict", scenes.count, 0, scenes.count > 1, "cloud") as bar:
        for found in scenes.segmented:
            if output is not None:
                output.add(found)
            rows.append((found.path, len(found.xyz), shares(found, len(scenes.classes))))
            bar.update(len(rows), f"{len(found.xyz):,} points")
    if output is not None:
        output.close(scenes.bad)
    print(f"{folder}: points by class, %")
    PlainConsole().print(share_table(rows, scenes.classes))
    if output is None:
        print("nothing is written: --output FOLDER writes the class of every point")
    else:
        print(f"written to {output.folder}")
    _tell(scenes.bad, scenes.count, "cloud")


def _boxes(network: Network, folder: Path, arguments: argparse.Namespace, device: torch.device) -> None:
    """Boxes in sweeps, written as they come."""
    from collections import Counter

    from st_ssl.core.files import check_writable
    from st_ssl.engine.console import PlainConsole, RunProgress
    from st_ssl.transfer.detection.box_files import BoxFolder
    from st_ssl.transfer.fitting.predict import find_boxes

    output: BoxFolder | None = None
    if arguments.output is not None:
        check_writable(arguments.output)
        output = BoxFolder(arguments.output, network[2])
    sweeps = find_boxes(network, arguments.files, device, arguments.score)
    rows: list[tuple[str, Counter[str]]] = []
    with RunProgress("predict", sweeps.count, 0, sweeps.count > 1, "sweep") as bar:
        for found in sweeps.found:
            if output is not None:
                output.add(found.path, found.boxes)
            rows.append((found.path, Counter(sweeps.classes[number] for number in found.boxes.classes.tolist())))
            bar.update(len(rows), f"{len(found.boxes)} boxes")
    if output is not None:
        output.close({one.path: one.reason for one in sweeps.bad})
    PlainConsole().print(
        box_table(rows, sweeps.classes, f"{folder}: boxes with a score of {arguments.score:g} or more")
    )
    print(f"written to {output.folder}" if output else "nothing is written: --output FOLDER writes the boxes")
    _tell(sweeps.bad, sweeps.count, "sweep")


def _benchmark(network: Network, arguments: argparse.Namespace, device: torch.device) -> None:
    """The files that a benchmark takes, and its figures."""
    import json

    from st_ssl.core.files import check_writable, replace_text
    from st_ssl.engine.console import PlainConsole, RunProgress
    from st_ssl.transfer.benchmarks import on_benchmark

    folder = arguments.output
    check_writable(folder)
    asked = on_benchmark(network, arguments.files[0], arguments.benchmark, folder, device)
    with RunProgress("predict", asked.count, 0, True, "sweep") as bar:
        for done, path in enumerate(asked.answered, 1):
            bar.update(done, Path(path).name)
    figures = asked.results.close()
    print(f"written to {folder}")
    _tell(asked.bad, asked.count, "sweep")
    if not figures:
        print(f"not judged: the split {arguments.benchmark} has no labels")
        return
    replace_text(folder.with_name(f"{folder.name}.json"), json.dumps(figures, indent=2) + "\n")
    if asked.bad:
        print(f"judged without {len(asked.bad)} of {asked.count} sweeps, which cannot be read", file=sys.stderr)
    PlainConsole().print(figure_table(figures, f"{arguments.files[0]}, {arguments.benchmark}: as the benchmark judges"))


def figure_table(figures: Mapping[str, float], title: str) -> object:
    """Figures by name."""
    from rich.table import Column, Table

    shown = Table("figure", Column("value", justify="right"), title=title)
    for name, value in figures.items():
        shown.add_row(name, f"{value:.2f}")
    return shown


def box_table(rows: Sequence[tuple[str, Any]], classes: Sequence[str], title: str, most: int = 20) -> object:
    """How many boxes there are by class: sweeps down, and all together."""
    from collections import Counter

    from rich.table import Column, Table

    shown = Table(Column("sweep", overflow="fold"), *(Column(name, justify="right") for name in classes), title=title)
    for path, counts in rows[:most]:
        shown.add_row(path, *(str(counts[name]) for name in classes))
    if len(rows) > most:
        shown.add_row(f"{len(rows) - most} more")
    together: Counter[str] = sum((counts for _, counts in rows), Counter())
    shown.add_section()
    shown.add_row(f"all {len(rows)} sweeps", *(str(together[name]) for name in classes))
    return shown


def _tell(bad: Sequence[BadSample], count: int, unit: str) -> None:
    from st_ssl.core.errors import shown

    if bad:
        print(f"{len(bad)} of {count} {unit}s cannot be read:", file=sys.stderr)
        for one in bad:
            print(shown(f"  {one.path}: {one.reason}"), file=sys.stderr)


def jsonl(answers: Answers, top: int) -> str:
    """A line for each sample, those that cannot be read last."""
    import json

    lines = []
    for row, path in enumerate(answers.paths):
        best = [{"class": name, "probability": round(value, 6)} for name, value in answers.best(row, top)]
        first = {"prediction": best[0]["class"], "probability": best[0]["probability"]}
        lines.append({"path": path} | first | {"top": best})
    lines += [{"path": bad.path, "error": bad.reason} for bad in answers.bad]
    return "".join(json.dumps(line) + "\n" for line in lines)


def table(answers: Answers, top: int, folder: Path, unit: str) -> object:
    """The likeliest classes of each sample, per cent."""
    from rich.table import Column, Table

    title = f"{folder}: the likeliest of {len(answers.classes)} classes, %"
    ranks = map(str, range(1, 1 + min(top, len(answers.classes))))
    shown = Table(Column(unit, overflow="fold"), *ranks, title=title, title_justify="left")
    for row, path in enumerate(answers.paths):
        cells = (f"{name} {100 * value:.1f}" for name, value in answers.best(row, top))
        shown.add_row(path, *cells)
    return shown


def share_table(rows: Sequence[tuple[str, int, Any]], classes: Sequence[str], most: int = 20) -> object:
    """The share of the points of each cloud by class, per cent: classes down, clouds across, and all together; of more
    than three clouds these alone."""
    import numpy as np
    from rich.table import Column, Table

    points = np.array([count for _, count, _ in rows], dtype=float)
    together = points @ np.stack([own for _, _, own in rows]) / max(1.0, points.sum())
    columns = [(Path(path).name, count, own) for path, count, own in rows] if len(rows) <= 3 else []
    if len(rows) != 1:
        columns.append((f"all {len(rows)} clouds", int(points.sum()), together))
    shown = Table(Column("class", overflow="fold"), *(Column(name, justify="right") for name, _, _ in columns))
    order = (-together).argsort(kind="stable")
    for number in order[:most].tolist():
        shown.add_row(classes[number], *(f"{100 * own[number]:.1f}" for _, _, own in columns))
    if len(order) > most:
        shown.add_row(f"{len(order) - most} more", *(f"{100 * own[order[most:]].sum():.1f}" for _, _, own in columns))
    shown.add_row("points", *(f"{count:,}" for _, count, _ in columns), end_section=True)
    return shown
