"""Bring published weights in, take encoders out. Nothing that a file holds is run.

examples:
  st-ssl convert import --list                       # the layouts of published weights that are known
  st-ssl convert import r3d_18.pth --from torchvision --output encoders/r3d18
  st-ssl convert export runs/mine --to onnx --output mine.onnx
"""

from __future__ import annotations

import argparse

from st_ssl.cli import Parser
from st_ssl.cli.convert import exporting, importing


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    importing.add_step(steps)
    exporting.add_step(steps)
    return parser.parse_step(steps)[0]


def main() -> int | None:
    """Run the command."""
    arguments = _arguments()
    return {"import": importing, "export": exporting}[arguments.step].main(arguments)
