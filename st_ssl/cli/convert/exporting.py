"""Take encoders out.

RUN is the folder of a run, of an import or of a fit that `finetune` saved; of a fit the head goes out, too, with the
names of its classes.

formats:
  safetensors     one file, weights and description: st_ssl.load("PATH"), or `convert import PATH --from st_ssl`
  hf-videomae     a folder for transformers: VideoMAEModel.from_pretrained("PATH") (video_vit as VideoMAE has it)
  torch-export    torch.export.load("PATH").module()(clip), for torch without st_ssl
  onnx            for ONNX Runtime, TensorRT, OpenVINO and the like; needs st_ssl[export]
  hub             a folder with a model card; uploaded to --repo with --upload alone

What is exported is fed normalised clips float32 [B, 3, T, H, W], any B, and gives `pooled`, `map` or `tokens` and, of
a fit, `scores` by name. It is read again and compared with the network; what differs by more than 1e-4 of the largest
output is not kept. PATH.json (in a folder: export.json) tells its input, its outputs and the differences.

examples:
  st-ssl convert export runs/mine --to onnx --output mine.onnx
  st-ssl convert export runs/mine --to hub --repo me/mine --output card --data "Kinetics-400, train"
  st-ssl convert export runs/mine --to hub --repo me/mine --output card --upload   # once the card is right
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st_ssl.weights.exporting.base import Network

USAGE = "%(prog)s RUN --to FORMAT --output PATH [--repo USER/NAME] [--data TEXT] [--upload] [--public]"
HUB = "hub"


def add_step(steps: Any) -> None:
    """Add the step to those of the command."""
    parser = steps.add_parser("export", help="take encoders out", text=__doc__, usage=USAGE)
    parser.add_argument("overrides", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder with encoder.* files")
    parser.add_argument("--to", required=True, metavar="FORMAT", help="one of the formats below")
    parser.add_argument("--output", type=Path, metavar="PATH", required=True, help="the file or folder to write")
    hub = parser.add_argument_group("with --to hub")
    hub.add_argument("--repo", metavar="USER/NAME", help="the repository on the Hub")
    hub.add_argument("--data", metavar="TEXT", help="what it was pretrained on, for the card, which tells no paths")
    hub.add_argument("--upload", action="store_true", help="upload the folder: your login there is used")
    hub.add_argument("--public", action="store_true", help="make a new repository for all to see, not for you alone")


def main(arguments: argparse.Namespace) -> None:
    """Run the command."""
    from st_ssl.core.errors import ConfigError, nearest
    from st_ssl.weights.exporting.base import export_network, exports

    formats = [*exports(), HUB]
    if arguments.to not in formats:
        raise ConfigError(
            f"--to {arguments.to}: no such format{nearest(arguments.to, formats)} (there are: {', '.join(formats)})"
        )
    places = [*arguments.overrides, str(arguments.run)]
    if len(places) > 1:
        extra = next((text for text in places if not Path(text).exists()), places[0])
        raise ConfigError(f"{extra!r}: an export takes one RUN as it is: nothing else can be given")
    if arguments.to == HUB:
        _hub(arguments)
        return
    for option in ("repo", "data", "upload", "public"):
        if getattr(arguments, option):
            raise ConfigError(f"--{option} goes with --to {HUB}, not with --to {arguments.to}")
    network = _network(arguments.run)
    if network.head is not None and not exports()[arguments.to].heads:
        print(f"note: {arguments.to} has no head: the encoder alone is exported", file=sys.stderr)
    about = export_network(network, arguments.to, arguments.output)
    for name, difference in about["check"]["largest_difference"].items():
        share = about["check"]["share_of_largest_output"][name]
        print(f"{name}: largest difference {difference:.1e}, {share:.1e} of the largest output")
    print(arguments.output)


def _network(run: Path) -> Network:
    """The encoder in ``run``, with the head that was fine-tuned with it where there is one."""
    from st_ssl.encoders.base import load_encoder
    from st_ssl.transfer.fitting.finetune_model import check_finished, load_tuned
    from st_ssl.weights.exporting.base import Network

    if not (run / "encoder.json").is_file():
        check_finished(run)
    if not (run / "head.json").is_file():
        return Network(load_encoder(run))
    tuned, _, classes = load_tuned(run)
    return Network(tuned.encoder, tuned.head, classes)


def _hub(arguments: argparse.Namespace) -> None:
    from st_ssl.core.errors import ConfigError
    from st_ssl.weights.hub import CARD, has_licence, require_hub, upload, write_folder

    if arguments.repo is None:
        raise ConfigError("--to hub needs --repo USER/NAME")
    if arguments.public and not arguments.upload:
        raise ConfigError("--public goes with --upload")
    if arguments.upload:
        require_hub()
    if (arguments.run / "head.json").is_file():
        print("note: the encoder alone goes there, not the head that was fine-tuned with it", file=sys.stderr)
    files = write_folder(arguments.run, arguments.output, arguments.repo, arguments.data or "")
    print(*files, sep="\n")
    if not has_licence(arguments.output / CARD):
        print(f"{arguments.output / CARD} names no licence yet: `license: …` in its first lines does")
    if arguments.upload:
        print(upload(arguments.output, arguments.repo, arguments.public))
    else:
        print("nothing was uploaded: look at the card, then give the same command with --upload")
