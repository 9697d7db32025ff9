"""How the data of an encoder were read, and others are to be read for it."""

from __future__ import annotations

from st_ssl.data.streams.points import ReadOptions
from st_ssl.encoders.base import Encoder


def read_options(encoder: Encoder) -> ReadOptions:
    """How clouds are read for ``encoder``: as those that it was trained on."""
    return ReadOptions()  # ReadOptions.from_prepared(encoder.prepared)
