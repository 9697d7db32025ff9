"""YAML as people and programs write it, parsed in bounded time and memory; nothing in it is run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

MOST_NODES, DEEPEST, LONGEST = 100_000, 50, 1 << 24  # keys and values with each alias spelled out; levels; characters


class YAMLTextError(ValueError):
    """What is no YAML of plain data, or too much of it; the message names the line."""


# The parser in C is fifteen times faster, and is part of the package for all usual systems.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Parser):
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As its base does; what a scalar of a wrong form makes it raise is an error of YAML with its line."""
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise _error(node, f"{_value(node)} is no {node.tag.rpartition(':')[2]}") from error
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            raise _error(node, f"{_value(node)} is beyond any number of 64 bits")
        if not isinstance(value, str | int | float | list | dict | None):
            kind = node.tag.rpartition(":")[2]
            raise _error(node, f"a {kind} is neither text nor a number, list or mapping: put quotes around text")
        return value


def load_yaml(text: str) -> tuple[Any, list[tuple[tuple[str, ...], int]]]:
    """The plain data in ``text``, and for each of its keys the path to it and its line. Raises ``YAMLTextError``."""
    try:
        if len(text) > LONGEST:
            raise YAMLTextError(f"{len(text)} characters: no more than {LONGEST} are read")
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, []
            _measure(node, {}, 0)
            lines = list(_lines(node))
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise YAMLTextError(str(error)) from error


def _measure(node: yaml.Node, known: dict[int, tuple[int, int] | None], depth: int) -> tuple[int, int]:
    """How many nodes there are in ``node``, itself among them, and how many levels, each alias spelled out."""
    if id(node) in known:
        found = known[id(node)]
        if found is None:
            raise _error(node, "an alias stands for what it is part of itself")
        return found
    known[id(node)] = None
    size = height = 1
    if isinstance(node, yaml.CollectionNode):
        if depth >= DEEPEST:
            raise _error(node, f"more than {DEEPEST} levels")
        pairs = isinstance(node, yaml.MappingNode)
        for child in (part for pair in node.value for part in pair) if pairs else node.value:
            more, below = _measure(child, known, depth + 1)
            size, height = size + more, max(height, below + 1)
    if height > DEEPEST:
        raise _error(node, f"more than {DEEPEST} levels, with each alias spelled out")
    if size > MOST_NODES:
        raise _error(node, f"more than {MOST_NODES} keys and values, with each alias spelled out")
    known[id(node)] = size, height
    return size, height


def _lines(node: yaml.Node, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, str(key.value))
            yield path, key.start_mark.line + 1
            yield from _lines(value, path)


def _value(node: yaml.Node) -> str:
    text = str(node.value)
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def _error(node: yaml.Node, what: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, f"line {node.start_mark.line + 1}: {what}")
