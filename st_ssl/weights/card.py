"""The model card of an encoder: what it is, how it was made, what it learned and how to use it; nothing private.

Of the run's configuration only what is named here is told, never where its data lie or what they are called: the author
says that where it is public.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePath
from typing import Any

from st_ssl.core.config import read_yaml
from st_ssl.core.errors import DataError
from st_ssl.core.inputs import InputConfig
from st_ssl.core.summary import KINDS, MEASURES, decimals, extent, plus_minus
from st_ssl.encoders.base import Encoder, count_parameters

NO_LICENCE = "# license: which one is for the author to say, see https://huggingface.co/docs/hub/repositories-licenses"
"""In place of the licence, until there is one."""
WHO = {"pretrained": "pretrained", "random": "same network, untrained"}


def model_card(encoder: Encoder, run: Path, repo: str, data: str = "") -> str:
    """The card of ``encoder``, which lies in the folder ``run``, as Markdown with the front matter of the Hub.

    ``data``: what it was pretrained on, in the author's words. Raises ``DataError`` where ``probe.json`` in ``run`` is
    not the result of a probe.
    """
    video = encoder.modality == "video"
    own = (run / "config.yaml").is_file()  # others' weights may have been trained with labels
    front = ["library_name: st_ssl", "tags:", f"- {'video' if video else 'point-cloud'}"]
    front += ["- self-supervised-learning"] if own else []
    subject = "An encoder of " + ("clips of video" if video else "point clouds")
    parts = [
        "\n".join(["---", *front, NO_LICENCE, "---"]),
        f"# {repo.partition('/')[2]}\n\n{subject}{', pretrained without labels,' if own else ''} for st_ssl.",
        _usage(repo, video),
        "## The network\n\n" + _table(["", ""], [*_network(encoder), *_input(encoder)]),
        "## How it was made\n\n" + "\n".join(f"- {line}" for line in _made(run, data)),
        _learned(run),
        "## Licence\n\nNot chosen yet: whoever uploads this says here, and in the first lines of this file, under "
        "which licence it may be used.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _usage(repo: str, video: bool) -> str:
    feed = 'st_ssl.clip(encoder, "video.mp4")' if video else 'st_ssl.cloud(encoder, "cloud.ply")'
    load = f'encoder = st_ssl.load("{repo}", download=True)'
    return f"```python\nimport st_ssl\n\n{load}\nfeatures = encoder({feed}).pooled  # [1, D]\n```"


def _network(encoder: Encoder) -> list[list[str]]:
    settings = encoder.config.model_dump()
    usual = type(encoder.config)().model_dump()
    changed = [f"{key}: {_plain(value)}" for key, value in settings.items() if key != "name" and value != usual[key]]
    return [
        ["encoder", f"`{settings['name']}`"],
        ["settings", ", ".join(changed) or "all as they are by default"],
        ["parameters", f"{count_parameters(encoder) / 1e6:.1f} M"],
        ["features", f"D = {encoder.embed_dim}"],
    ]


def _input(encoder: Encoder) -> list[list[str]]:
    input = encoder.input
    if not isinstance(input, InputConfig):
        told = [f"{key}: {_plain(value)}" for key, value in input.model_dump().items()]
        return [["fed", "clouds of points, " + ", ".join(told)]]
    return [
        ["fed", f"clips of {input.num_frames} frames, {input.stride} apart, of {input.size} × {input.size} pixels"],
        ["normalised by", f"mean {_plain(input.mean)}, standard deviation {_plain(input.std)} of RGB in 0 … 1"],
    ]


def _made(run: Path, data: str) -> list[str]:
    lines = [f"data: {_plain(data)}" if data else "data: not told"]
    if (run / "config.yaml").is_file():
        config, _ = read_yaml(run / "config.yaml")
        method, engine = config.get("method") or {}, config.get("engine") or {}
        source = config.get("data") or {}
        if not data and source.get("root") is None and source.get("list") is None:
            lines = ["data: planted-factor samples that st_ssl wrote itself"]
        lines.append(f"method: {_plain(method.get('name', 'not told'))}")
        lines.append(f"{_plain(engine.get('epochs', '?'))} epochs, batches of {_plain(engine.get('batch_size', '?'))}")
    elif (run / "import.json").is_file():
        lines.append("weights: published ones, brought in by `st-ssl convert import`: name them and their licence")
    return lines


def _learned(run: Path) -> str:
    file = run / "probe.json"
    if not file.is_file():
        return ""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        sizes, seeds = result["sizes"], int(result["seeds"])
        rows = [row for name, target in result["targets"].items() for row in _probes(str(name), target)]
        who = list(dict.fromkeys(name for _, _, cells, _ in rows for name in cells))
        over = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed"
        values = " (of values R² and rank correlation)" if any(kind in MEASURES for _, kind, _, _ in rows) else ""
        used = f"{int(sizes['train'])} samples to train on, {int(sizes['test'])} to test on"
        note = f"Frozen features, per cent right{values}, {over}; {used}."
        header = ["", *(WHO.get(name, _plain(name)) for name in who), "chance"]
        body = [
            [name, *(_figure(cells.get(key), kind) for key in who), f"{chance:.{decimals(kind)}f}"]
            for name, kind, cells, chance in rows
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not the result of a probe: {error!r}") from error
    return f"## What it learned\n\n{note}\n\n{_table(header, body)}" if rows else ""


def _probes(name: str, target: dict[str, Any]) -> list[tuple[str, str, dict[str, Any], float]]:
    """A row for each kind of probe of a target, and for the first figure of retrieval: its name, the kind, who got
    what, and by chance."""
    name = PurePath(name.replace("\\", "/")).name  # a target may be called by a path, as where samples are the classes
    label = f"{_plain(name)} ({_plain(extent(target).removesuffix(' classes'))})"
    rows = [
        (f"{label}, {KINDS.get(kind, _plain(kind))}", kind, dict(cells), float(target["chance"]))
        for kind, cells in target["probes"].items()
    ]
    if "retrieval" in target:
        kind, cells = next(iter(target["retrieval"]["probes"].items()))
        rows.append((f"{label}, {_plain(kind)}", kind, dict(cells), float(target["retrieval"]["chance"][kind])))
    return rows


def _figure(cell: dict[str, Any] | None, kind: str) -> str:
    return "" if cell is None else plus_minus(cell, decimals(kind))


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(value: Any) -> str:
    """A value as text for a line or a cell: of a path its last name alone, and nothing that Markdown would read."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    text = str(value)
    if re.match(r"[/~\\]|[A-Za-z]:[/\\]", text):
        text = PurePath(text.replace("\\", "/")).name
    return re.sub(r"([|`<>\[\]])", r"\\\1", " ".join(text.split()))
