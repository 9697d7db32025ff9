"""The folder of a run: what lies in it, and whether it is the run that one thinks it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from st_ssl.core.config import differences, parse_override, read_yaml
from st_ssl.core.errors import ConfigError
from st_ssl.core.files import check_writable, missing_folder
from st_ssl.encoders.base import ENCODERS, describe_encoder
from st_ssl.engine.run_config import EncoderProbeConfig, RunConfig, encoder_probe, load_runs

FREE_KEYS = {
    "output_dir",
    "data.num_workers",
    "data.max_bad_share",
    "data.max_points",
    "data.sample_timeout",
    "engine.log_every",
    "engine.checkpoint_every",
    "engine.keep_last",
    "engine.keep_at",
    "engine.device",
}
FREE_SECTIONS = {"probe", "report", "logging"}
"""Keys, and sections with all of their keys, that may change between the parts of a resumed run: no loss depends on
them."""


def load_run_config(directory: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The resolved configuration of a run, with ``key=value`` overrides; with another ``data.root`` its list, split and
    index are those of the overrides alone. Raises ``ConfigError`` where there is none."""
    file = directory / "config.yaml"
    if not file.is_file():
        runs = sorted(p.parent.name for p in directory.glob("*/config.yaml"))
        hint = f" (but these runs in it do: {', '.join(runs)})" if runs else ""
        why = missing_folder(directory) or f"it has no config.yaml{hint}"
        if has_encoder_alone(directory):
            why = (
                "it holds an encoder without the run that made it (no config.yaml); probe.py and finetune.py take it "
                "with data.root=FOLDER, extract.py with --data FOLDER"
            )
        raise ConfigError(f"{directory}: not the folder of a run: {why}")
    return load_runs(file, [*_of_another_root(file, overrides), *overrides])[0].config


def _of_another_root(file: Path, overrides: Sequence[str]) -> list[str]:
    """Overrides that take back what the data of a run have and what only their root has, where there is another one."""
    own = read_yaml(file)[0].get("data")
    asked = {".".join(key): value for key, value in map(parse_override, overrides)}
    if not isinstance(own, dict) or asked.get("data.root", own.get("root")) == own.get("root"):
        return []
    return [f"data.{key}=null" for key in ("list", "split", "index") if own.get(key) is not None]


def has_encoder_alone(directory: Path) -> bool:
    """Whether there is an encoder without the run that made it: one that was imported, or kept by fine-tuning."""
    return (directory / "encoder.json").is_file() and not (directory / "config.yaml").is_file()


def load_probe_config(directory: Path, overrides: Sequence[str]) -> RunConfig | EncoderProbeConfig:
    """What to probe the encoder in ``directory`` on, and how: of an encoder alone all of it is in ``overrides``. Raises
    ``ConfigError`` where that is not enough."""
    if not has_encoder_alone(directory):
        return load_run_config(directory, overrides)
    name = describe_encoder(directory)[0].model_dump()["name"]
    return encoder_probe(directory, ENCODERS.registered(name).modality, overrides)


def pretraining_data(directory: Path) -> dict[str, Any] | None:
    """The data (as JSON) of the run that left its encoder in ``directory``; None where that is all that there is."""
    if has_encoder_alone(directory):
        return None
    data: dict[str, Any] = load_run_config(directory).data.model_dump(mode="json")
    return data


def same_data(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two configurations of data (as JSON) give the same samples, however they are read."""
    return not differences({"data": one}, {"data": other}).keys() - FREE_KEYS


def data_name(data: dict[str, Any]) -> str:
    """What people call the data of a configuration (as JSON): the last name of their place, or "planted"."""
    place = data.get("root") or data.get("list")
    return Path(place).expanduser().absolute().name if place else "planted"


def whole_rows(file: Path, *keys: str) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines that have ``keys``, without one that a killed process left half-written; [] for
    no file."""
    rows = []
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else []:
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and row.keys() >= set(keys):
                rows.append(row)
    return rows


def find_runs(directory: Path) -> list[Path]:
    """``directory`` itself if it is a run, else the runs of a suite right inside it, by name."""
    if (directory / "config.yaml").is_file():
        return [directory]
    runs = sorted(file.parent for file in directory.glob("*/config.yaml"))
    if not runs:
        load_run_config(directory)  # raises, and says what is missing
    return runs


def check_directory(config: RunConfig) -> None:
    """Raise ``ConfigError`` where the ``output_dir`` of a run cannot be written to, or holds another run."""
    check_writable(Path(config.output_dir), "output_dir=")
    check_same_run(Path(config.output_dir), config)


def check_same_run(directory: Path, config: RunConfig) -> None:
    """Raise ``ConfigError`` where ``directory`` holds a run with other settings: resuming it would mix the two."""
    file = directory / "config.yaml"
    if not file.is_file() or not any((directory / "checkpoints").glob("step_*")):
        return  # nothing to mix with
    before, _ = read_yaml(file)
    changed = [
        f"  {line}"
        for key, line in differences(before, config.model_dump(mode="json")).items()
        if key not in FREE_KEYS and key.split(".")[0] not in FREE_SECTIONS
    ]
    if changed and all(line.strip().startswith("engine.epochs:") for line in changed):
        raise ConfigError(
            f"{directory} holds a run of another length:\n{changed[0]}\nIts learning rate has fallen for that length. "
            f"For more epochs start a new run from its weights: output_dir=NEW weights={directory}"
        )
    if changed:
        raise ConfigError(
            f"{directory} holds a run with other settings; choose another output_dir, or remove it:\n"
            + "\n".join(changed)
        )
