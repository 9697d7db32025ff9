"""Splits by their usual names: of cells in tables, of files and of folders."""

from __future__ import annotations

import re

from st_ssl.core.errors import DataError, nearest

SPLITS = {
    **{"train": "train", "training": "train", "trainval": "train"},
    **{"val": "val", "valid": "val", "validation": "val", "validate": "val", "dev": "val", "eval": "val"},
    **{"evaluation": "val", "test": "test", "testing": "test"},
}
_WORD = re.compile(rf"(?:list|set|split)?({'|'.join(SPLITS)})(?:list|set|split|part|data)?s?")
_TOKENS = re.compile(r"[a-z]+|[0-9]+")
# What may stand beside the split in the name of a folder: videos_train, train_256, rawframes_val.
_NEUTRAL = {
    *("video", "videos", "clip", "clips", "frame", "frames", "rawframes", "rgb", "image", "images", "img"),
    *("cloud", "clouds", "point", "points", "scan", "scans", "set", "split", "data", "part", "subset", "list"),
}


def split_name(where: str, name: str) -> str:
    """The split by its usual name; an empty cell is "train"."""
    known = SPLITS.get(name.lower() or "train")
    if known is None:
        raise DataError(f"{where}: split {name!r}, expected one of {', '.join(SPLITS)}{nearest(name.lower(), SPLITS)}")
    return known


def split_in(name: str) -> tuple[str, tuple[str, ...]] | None:
    """The split that the name of a file says, and what else it says, in pieces: "val" and ``("k400", "")`` of
    ``k400_val.csv`` (the split itself is "" there). None where it names no split, or several."""
    stem = name.lower().rsplit(".", 1)[0] if "." in name[1:] else name.lower()
    tokens = _TOKENS.findall(stem)
    words = [(at, found[1]) for at, token in enumerate(tokens) if (found := _WORD.fullmatch(token))]
    if len(words) != 1:
        return None
    at, word = words[0]
    rest = tokens[at].replace(word, "", 1)
    return SPLITS[word], (*tokens[:at], rest, *tokens[at + 1 :])


def folder_split(name: str) -> str | None:
    """The split that the name of a folder says (``train``, ``train_256``, ``videos_val``), or None."""
    found = split_in(name)
    if found is None:
        return None
    others = [token for token in found[1] if token and not token.isdigit()]
    return found[0] if _NEUTRAL.issuperset(others) else None
