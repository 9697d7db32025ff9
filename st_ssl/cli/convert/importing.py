"""Bring published weights in.

FILE is what was published: .safetensors, .pt, .pth, .pyth, .bin, .ckpt, .tar or Caffe2's .pkl, or a folder of Hugging
Face (config.json beside model.safetensors). Nothing in it is run; a file that could not be read without is refused, and
what to do with it is told. Every key of the encoder comes from the file; a name of the file that is not used is listed
with the reason, and is a mistake where there is none (unless --allow-unused).

FOLDER then holds encoder.safetensors and encoder.json, which all tools take, and import.json: the SHA-256 of the file,
its layout, and for every key where it comes from. Without --output the file is only looked at.

keys that are often set, on what the file itself tells:
  input.num_frames=16, input.stride=4, input.size=112     the clips that the encoder is for
  encoder.drop_path=0.1                                   and whatever else its family has (st_ssl/encoders/README.md)
  layout.container=model_ema                              which part of the file, where it has several networks

examples:
  st-ssl convert import --list
  st-ssl convert import r3d_18-b3b3357e.pth --from torchvision --output encoders/r3d18
  st-ssl convert import SLOW_8x8_R50.pyth --from slowfast --report
  st-ssl convert import model.safetensors --output encoders/theirs input.num_frames=32
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_ssl.weights.importing import Imported

USAGE = "%(prog)s FILE [--from LAYOUT] [--output FOLDER] [--report] [--allow-unused PATTERN] [key=value ...] | --list"


def add_step(steps: Any) -> None:
    """Add the step to those of the command."""
    parser = steps.add_parser("import", help="bring published weights in", text=__doc__, usage=USAGE)
    places = "what was published; key=value sets dotted keys, see below"
    parser.add_argument("overrides", nargs="*", metavar="FILE", help=places)
    parser.add_argument("--from", dest="layout", default="auto", metavar="LAYOUT", help="see --list (default: guessed)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where the encoder goes: a new or empty folder")
    parser.add_argument("--report", action="store_true", help="tell where every key comes from")
    parser.add_argument("--list", action="store_true", help="list the layouts")
    unused = "names of the file (with * and ?) that may be left over though no rule knows them; may be given again"
    parser.add_argument("--allow-unused", action="append", default=[], metavar="PATTERN", help=unused)


def main(arguments: argparse.Namespace) -> None:
    """Run the step."""
    if arguments.list:
        return _list()
    from st_ssl.core.errors import ConfigError
    from st_ssl.engine.console import PlainConsole, console
    from st_ssl.weights.importing import import_weights, save_imported

    places = [text for text in arguments.overrides if "=" not in text or Path(text).exists()]
    overrides = [text for text in arguments.overrides if text not in places]
    if len(places) != 1:
        raise ConfigError(f"expected one FILE or folder of weights, not {', '.join(places) or 'none'}")
    with console.status("reading"):
        imported = import_weights(Path(places[0]), arguments.layout, overrides, arguments.allow_unused)
    out = PlainConsole()
    out.width = out.width if out.is_terminal else max(out.width, 200)  # names of keys whole, where it goes to a file
    if arguments.layout == "auto":
        out.print(f"taken for the layout {imported.layout.config.name} (--from {imported.layout.config.name})")
    if arguments.report:
        out.print(_keys(imported))
    out.print(_left(imported))
    print(_summary(imported))
    if arguments.output is None:
        print("nothing is written: --output FOLDER writes the encoder")
        return
    save_imported(imported, arguments.output)
    recipe, place = f"configs/transfer/{imported.encoder.modality}/quickstart.yaml", arguments.output
    print(f"""\
written to {place}; to try it on a folder DATA:
  st-ssl extract {place} --data DATA --output features
  st-ssl probe {place} data.root=DATA
  st-ssl finetune {recipe} {place} data.root=DATA task.target=null""")


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from st_ssl.weights.base import LAYOUTS

    table = Table("--from", "files", title="layouts of published weights", title_justify="left")
    for name in LAYOUTS.names():
        table.add_row(name, LAYOUTS.registered(name).summary)
    Console().print(table)


def _keys(imported: Imported) -> Any:
    """Every key of the encoder: what of the file it is."""
    from rich.table import Column, Table

    columns = (Column(head, overflow="fold") for head in ("key", "from", "size", "note"))
    table = Table(*columns, title="used", title_justify="left")
    for row in imported.report()["used"]:
        sources = " + ".join(row["from"])
        size = " × ".join(map(str, row["shape"])) or "1"
        table.add_row(row["key"], "=" if sources == row["key"] else sources, size, row["note"])
    return table


def _left(imported: Imported) -> Any:
    """What of the file is left over, by reason."""
    from rich.table import Column, Table

    reasons: dict[str, list[str]] = {}
    for name, reason in imported.left.items():
        reasons.setdefault(reason, []).append(name)
    names, why = (Column(head, overflow="fold") for head in ("names", "why"))
    table = Table(names, Column("number", justify="right"), why, title="left over", title_justify="left")
    for reason, keys in reasons.items():
        table.add_row(", ".join(keys[:4]) + (", …" if len(keys) > 4 else ""), str(len(keys)), reason)
    return table if reasons else "left over: nothing"


def _summary(imported: Imported) -> str:
    """What the encoder is, in two lines."""
    from st_ssl.encoders.base import count_parameters

    encoder, counts = imported.encoder, imported.report()["counts"]
    config = encoder.config
    changed = {k: v for k, v in config.model_dump().items() if k == "name" or v != type(config).model_fields[k].default}
    settings = "".join(f" {key}={value}" for key, value in changed.items() if key != "name")
    clip = " ".join(f"{key}={value}" for key, value in encoder.input.model_dump().items())
    return (
        f"keys: {counts['used']} used, {counts['left']} left over, {counts['missing']} missing\n"
        f"encoder: {changed['name']}{settings} ({count_parameters(encoder) / 1e6:.1f} M parameters, D "
        f"{encoder.embed_dim})\ninput: {clip}"
    )
