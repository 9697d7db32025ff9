"""Imports what takes seconds to import, for the server of ``tests/forked.py``."""

from __future__ import annotations

from importlib import import_module

from st_ssl.encoders.base import ENCODERS
from st_ssl.methods.base import METHODS

for name in ("torch.nn.parallel", "torch._dynamo", "st_ssl.engine.trainer"):
    import_module(name)
for registry in (ENCODERS, METHODS):
    registry.names()
