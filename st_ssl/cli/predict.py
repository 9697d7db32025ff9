"""``predict``: what a fine-tuned network says of videos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from st_ssl.cli import Parser

if TYPE_CHECKING:
    from st_ssl.transfer.fitting.predict import Answers

EPILOG = """\
The network is one that `finetune` kept: RUN/finetune/NAME/full_100_0, or any folder above it that holds no other. It
looks at the same clips and crops of a video as when it was tested. Videos that cannot be read are listed; exit code 1
where that is all of them.

With --output a line of JSON for each video: path, prediction, probability, and top, the likeliest classes; or path and
error.

examples:
  python tools/predict.py clip.mp4 --model runs/quickstart/video/videomae
  python tools/predict.py runs/mine/finetune/ucf101/full_100_0 holiday/*.mp4 --top 3
  python tools/predict.py --model runs/mine /data/videos --output predictions.jsonl
"""


def _arguments() -> argparse.Namespace:
    parser = Parser(
        description="Say what videos show, by a fine-tuned network.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="files, or folders of them")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="what fine-tuning kept (default: the first argument)"
    )
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many classes to tell (default: 5)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write JSON lines, too")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    arguments = parser.parse()
    if arguments.model is None:
        arguments.model = arguments.videos.pop(0)
    if not arguments.videos:
        parser.error("expected videos, and the folder of a network: --model FOLDER")
    if arguments.top < 1:
        parser.error(f"--top {arguments.top}: expected 1 or more")
    return arguments


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.core.errors import shown
    from st_ssl.core.files import check_file, replace_text
    from st_ssl.engine.console import PlainConsole
    from st_ssl.engine.runtime import start_runtime
    from st_ssl.transfer.fitting.finetuned_io import find_tuned
    from st_ssl.transfer.fitting.predict import predict

    if arguments.output is not None:
        check_file(arguments.output, "--output ")
    folder = find_tuned(arguments.model)
    with start_runtime(arguments.device, "--device ") as runtime:
        answers = predict(folder, arguments.videos, runtime.device)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        replace_text(arguments.output, jsonl(answers, arguments.top))
    PlainConsole().print(table(answers, arguments.top, folder))
    if answers.bad:
        count = len(answers.bad) + len(answers.paths)
        print(f"{len(answers.bad)} of {count} videos cannot be read:", file=sys.stderr)
        for bad in answers.bad:
            print(shown(f"  {bad.path}: {bad.reason}"), file=sys.stderr)


def jsonl(answers: Answers, top: int) -> str:
    """A line for each video, those that cannot be read last."""
    import json

    lines = []
    for row, path in enumerate(answers.paths):
        best = [{"class": name, "probability": round(value, 6)} for name, value in answers.best(row, top)]
        first = {"prediction": best[0]["class"], "probability": best[0]["probability"]}
        lines.append({"path": path} | first | {"top": best})
    lines += [{"path": bad.path, "error": bad.reason} for bad in answers.bad]
    return "".join(json.dumps(line) + "\n" for line in lines)


def table(answers: Answers, top: int, folder: Path) -> object:
    """The likeliest classes of each video, per cent."""
    from rich.table import Table

    shown = Table(title=f"{folder}: the likeliest of {len(answers.classes)} classes, %", title_justify="left")
    shown.add_column("video", overflow="fold")
    for rank in range(min(top, len(answers.classes))):
        shown.add_column(f"{rank + 1}")
    for row, path in enumerate(answers.paths):
        cells = (f"{name} {100 * value:.1f}" for name, value in answers.best(row, top))
        shown.add_row(path, *cells)
    return shown
