"""YAML as people and programs write it; nothing in it is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml


class YAMLTextError(ValueError):
    """What is no YAML of plain data."""


# The parser in C is fifteen times faster, and is part of the package for all usual systems.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str) -> tuple[Any, list[tuple[tuple[str, ...], int]]]:
    """The plain data in ``text``, and for each of its keys the path to it and its line. Raises ``YAMLTextError``."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, []
        lines = list(_lines(node))  # before the document is made, which merges what ``<<`` names
        return loader.construct_document(node), lines
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that there is not
        raise YAMLTextError(str(error)) from error
    finally:
        loader.dispose()


def _lines(node: yaml.Node, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _lines(value, (*prefix, str(number)))
