"""``convert``: published weights in, our encoders out. Each way is a file of this folder."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from st_ssl.cli import Parser

EPILOG = """\
examples:
  st-ssl convert import --list                       # the layouts of published weights that are known
  st-ssl convert import r3d_18.pth --from torchvision --output encoders/r3d18
  st-ssl convert export runs/mine --to onnx --output mine.onnx
"""

STEPS = {"import": "importing", "export": "exporting"}
"""The modules of the ways, each with HELP, USAGE, EPILOG, PLACES (the help of what needs no option),
``arguments(parser)`` that adds its own, and ``main(arguments)``."""


def _arguments() -> tuple[argparse.Namespace, Any]:
    parser = Parser(
        description="Bring published weights in, take encoders out. Nothing that a file holds is run.", epilog=EPILOG
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    modules = {}
    for name, module in STEPS.items():
        modules[name] = part = importlib.import_module(f"{__name__}.{module}")
        told = {"help": part.HELP, "description": part.HELP, "usage": f"%(prog)s {part.USAGE}", "epilog": part.EPILOG}
        step = steps.add_parser(name, **told)
        step.add_argument("overrides", nargs="*", metavar="FILE", help=part.PLACES)
        part.arguments(step)
    arguments, _ = parser.parse_step(steps)
    return arguments, modules[arguments.step]


def main() -> int | None:
    """Run the command."""
    arguments, step = _arguments()
    return step.main(arguments)
