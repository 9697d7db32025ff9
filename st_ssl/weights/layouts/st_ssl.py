"""Our own: what ``convert.py export --to safetensors`` writes, and ``encoder.safetensors`` beside ``encoder.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from st_ssl.core.errors import UserError
from st_ssl.encoders.base import parse_description
from st_ssl.weights.base import LAYOUTS, Layout, LayoutConfig, WeightsError
from st_ssl.weights.bundle import HEAD, KEY


class OwnLayoutConfig(LayoutConfig):
    """No options of its own."""

    name: Literal["st_ssl"] = "st_ssl"


@LAYOUTS.register(OwnLayoutConfig)
class OwnLayout(Layout):
    """The names are those of the encoder, and the file tells what it is."""

    summary = "st_ssl itself: `convert export --to safetensors`, or the folder of a run"
    certain = True  # it says so
    containers = ("",)
    prefixes = ()
    left = ((rf"{re.escape(HEAD)}.*", "the head that was fine-tuned with the encoder"),)

    def sources(self, key: str) -> tuple[str, ...]:
        return (key,)

    def settings(self) -> dict[str, Any]:
        about = self.published.about
        described = about.get("encoder.json")
        metadata = about.get("metadata")
        if described is None and isinstance(metadata, Mapping) and isinstance(metadata.get(KEY), str):
            try:
                described = json.loads(metadata[KEY])
            except (ValueError, RecursionError) as error:
                raise WeightsError(f"{self.published.path}: its description is not JSON: {error}") from error
        if not isinstance(described, dict) or not all(isinstance(described.get(p), dict) for p in ("encoder", "input")):
            raise self.foreign("description of an encoder (in its metadata, or encoder.json beside it)")
        try:
            parse_description(described, str(self.published.path))
        except UserError as error:
            raise WeightsError(str(error)) from error
        return {"encoder": described["encoder"], "input": described["input"]}
