"""A fine-tuned network on disk: the files of its encoder, as any encoder has them, and those of its head."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from st_ssl.core.errors import ConfigError, UserError
from st_ssl.core.files import missing_folder, replace_text, write_atomically
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.encoders.base import load_encoder, save_encoder
from st_ssl.transfer.fitting.finetune_model import Tuned
from st_ssl.transfer.tasks.base import TASKS, Task

FORMAT = 1


def save_tuned(model: Tuned, task: Task, classes: Sequence[str], about: dict[str, Any], folder: Path) -> None:
    """Write ``encoder.safetensors`` and ``encoder.json``, ``head.safetensors``, and ``head.json``: the configuration of
    the task, which the head is built from, the names of its classes, and ``about``, which fit it was."""
    from safetensors.torch import save_file

    save_encoder(model.encoder, folder)
    with write_atomically(folder / "head.safetensors") as unfinished:
        save_file({name: t.detach().cpu().contiguous() for name, t in model.head.state_dict().items()}, unfinished)
    described = {"format": FORMAT, "task": task.saved().model_dump(mode="json"), "classes": list(classes), "fit": about}
    replace_text(folder / "head.json", json.dumps(described, indent=2) + "\n")


def find_tuned(folder: Path) -> Path:
    """``folder`` where ``save_tuned`` wrote there, or the only one of the folders below it where it did. Raises
    ``ConfigError`` where there is none, or a choice."""
    if (folder / "head.json").is_file():
        return folder
    inside = sorted(file.parent for file in folder.glob("**/head.json"))
    if len(inside) > 1:
        raise ConfigError(f"{folder} holds several fine-tuned networks: name one of {', '.join(map(str, inside))}")
    if not inside:
        check_finished(folder)
        why = missing_folder(folder) or "expected the folder of a fit, such as RUN/finetune/NAME/full_100_0"
        raise ConfigError(f"{folder}: no head.json: {why}; `finetune` keeps one unless save=none")
    return inside[0]


def check_finished(folder: Path) -> None:
    """Raise ``ConfigError`` where a fine-tuning was stopped that has its fits in ``folder``, or would write it."""
    states = list(folder.glob("**/*_unfinished*"))
    for place in (folder, folder.parent):
        states += place.parent.glob(f"{glob.escape(place.name)}_unfinished*")
    found = sorted(state.name for state in states if (state / "about.json").is_file())
    if found:
        name = found[0].partition("_unfinished")[0]
        raise ConfigError(f"{folder}: its fine-tuning {name!r} is not finished; run the same command to go on")


def load_tuned(folder: Path) -> tuple[Tuned, Task, list[str]]:
    """The network that ``save_tuned`` wrote, in eval mode on the CPU, its task, and the names of its classes.

    Raises ``UserError`` naming the file where one is damaged or does not fit the others.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    encoder = load_encoder(folder)
    file = folder / "head.json"
    try:
        described = load_json(file.read_text(encoding="utf-8"))
        if described["format"] > FORMAT:
            raise ValueError(f"format {described['format']} is newer than this st_ssl understands ({FORMAT})")
        task: Task = TASKS.build(TASKS.config(described["task"]["name"]).model_validate(described["task"]))
        classes = [str(name) for name in described["classes"]]
    except (OSError, *NOT_PLAIN, RecursionError) as error:  # also those of JSON, of pydantic and of unknown names
        raise UserError(f"{file}: not the description of a head: {error}") from error
    task.restore(classes)
    head = task.head(encoder)
    file = folder / "head.safetensors"
    try:
        head.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{file}: cannot be loaded: {error}") from error
    return Tuned(encoder, head, True).eval(), task, classes
