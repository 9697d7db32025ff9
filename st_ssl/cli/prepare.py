"""``prepare``: make data ready. ``synthetic videos`` writes the planted-factor videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make data ready.",
        epilog="example:\n  python tools/prepare.py synthetic videos --output data/planted num_train=1000 seed=1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    synthetic = steps.add_parser("synthetic", help="write data whose factors are known")
    synthetic.add_argument("kind", choices=["videos"], help="what to write")
    synthetic.add_argument("--output", type=Path, required=True, help="the folder to write to")
    synthetic.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    synthetic.add_argument("overrides", nargs="*", metavar="key=value", help="num_train, num_test, size, seed, ...")
    # argparse gives up on positionals behind an option within a sub-command: pick them up by their form.
    arguments, rest = parser.parse_known_args()
    if unknown := [text for text in rest if text.startswith("-") or "=" not in text]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.overrides += rest
    return arguments


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.config import Place, parse_override, set_key, validate
    from st_ssl.data.synthetic.videos import SyntheticVideoConfig, write_dataset

    place = Place(Path("command line"))
    values: dict[str, Any] = {}
    for text in arguments.overrides:
        key, value = parse_override(text)
        place.overrides[key] = text
        set_key(values, key, value)
    config = validate(SyntheticVideoConfig, values, place)
    print(write_dataset(arguments.output, config, num_workers=arguments.workers))
