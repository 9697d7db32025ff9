"""Where the result of a probe goes: ``probe.json`` is the one that a run's own configuration asks for, and all others
have files beside it, named after what differs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from st_ssl.core.config import differences, flatten
from st_ssl.core.errors import ConfigError
from st_ssl.data.base import DATA
from st_ssl.engine.run_files import data_name, has_encoder_alone, load_run_config, same_data
from st_ssl.transfer.probes.probe_config import PROBES

OWN = "probe.json"
CURVE = "curve.json"
FREE_KEYS = {"batch_size"}
"""Settings of probes that no figure depends on."""


def probe_file(runs: Sequence[Path], inputs: dict[str, Any], output: Path | None = None) -> Path:
    """Where the probe of ``runs`` goes, in the first of them; ``inputs`` are its ``probe`` and ``data`` as JSON.

    - ``probe.json`` for one run on its own data with its own settings; where it has none (``probe: null``), for those
      that came first;
    - ``probe_NAME.json`` for other data, as all are to an encoder alone;
    - ``probe_3_runs_0a1b2c3d.json`` for these three runs;
    - for other settings than of that file, one that is named after them, too: ``probe_svm.json``.

    An ``output`` is obeyed, unless it is another probe's ``probe.json``. Raises ``ConfigError`` for that, and where the
    file holds the probe of other data or settings.
    """
    if output is not None:
        for run in runs:
            own = (run / OWN).resolve() == output.resolve() and not has_encoder_alone(run)
            if own and (len(runs) > 1 or probe_file([run], inputs).name != OWN):
                raise ConfigError(
                    f"--output {output} is for the probe of the run's own data and settings: name another file"
                )
        theirs = output.name == OWN and (output.parent / "config.yaml").is_file()
        if theirs and all(run.resolve() != output.parent.resolve() for run in runs):
            raise ConfigError(f"--output {output} is for the probe of the run in {output.parent}: name another file")
        return output
    run = runs[0]
    own_config = None if has_encoder_alone(run) else load_run_config(run)
    parts = ["probe"]
    if own_config is None or not same_data(own_config.data.model_dump(mode="json"), inputs["data"]):
        parts.append(data_name(inputs["data"]))
    if len(runs) > 1:
        parts.append(f"{len(runs)}_runs_{_digest([str(run.resolve()) for run in runs])}")
    first = run / f"{'_'.join(parts)}.json"
    if first.name == OWN and own_config is not None and own_config.probe is not None:
        usual = own_config.probe.model_dump(mode="json")
    else:
        usual = _stored(first, inputs)["probe"]
    if not _changed(usual, inputs["probe"]):
        return first
    file = first.with_stem(f"{first.stem}_{_words(usual, inputs['probe'])}")
    if changed := _changed(_stored(file, inputs)["probe"], inputs["probe"]):
        raise ConfigError(
            f"{file} is the probe with other settings ({'; '.join(changed.values())}): name another file by --output"
        )
    return file


def probe_title(file: Path, own_data: dict[str, Any]) -> str:
    """What a page calls the probe in ``file``, by its name, of a run that was pretrained on ``own_data`` (as JSON)."""
    rest = file.stem.removeprefix("probe_")
    try:
        data = json.loads(file.read_text())["config"]["data"]
        same, name = same_data(own_data, data), data_name(data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        same, name = False, rest
    more = rest if same else rest.removeprefix(name).removeprefix("_")
    return ", ".join(["Probes" if same else f"Probes on {name}", *([more.replace("_", " ")] if more else [])])


def _stored(file: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the result in ``file`` was made by, ``inputs`` where there is none; ``ConfigError`` where that is of other
    data, or no result."""
    if not file.is_file():
        return inputs
    try:
        before = json.loads(file.read_text())["config"]
        data, probe = before["data"], before["probe"]
        probe = PROBES[DATA.registered(data["name"]).modality].model_validate(probe).model_dump(mode="json")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file} is not the result of a probe ({error!r}): name another file by --output") from error
    if not same_data(data, inputs["data"]):
        changed = "; ".join(differences(data, inputs["data"]).values())
        raise ConfigError(f"{file} is the probe of other data ({changed}): name another file by --output")
    return {"probe": probe, "data": data}


def _changed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    return {key: line for key, line in differences(before, now).items() if key not in FREE_KEYS}


def _words(usual: dict[str, Any], now: dict[str, Any]) -> str:
    """Settings by what is not as ``usual``: "svm", "knn+linear_clips-10", or eight digits of a hash where that is too
    much for the name of a file."""
    values = flatten(now)
    words = []
    for key in sorted(_changed(usual, now), key=lambda key: key != "kinds"):
        value = values[key]
        text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
        words.append(text if key == "kinds" else f"{key.rpartition('.')[2]}-{text}")
    name = "_".join(words)
    return name if re.fullmatch(r"[\w.+-]{1,60}", name) else _digest(now)


def _digest(told: Any) -> str:
    """Eight digits that tell it from others."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
