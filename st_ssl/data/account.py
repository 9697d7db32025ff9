"""What was decided of a data set and what was left out, in lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_CLASSES = 40
_BY_FOLDER = ("folder", "modelnet")
"""Formats whose labels are the names of folders."""
_USUAL = {"key": "format", "items": "samples", "parts": "frames"}
"""What a listing calls the key of its format, its samples, and what these are of."""


def account_lines(account: Mapping[str, Any]) -> list[str]:
    """The lines of ``DataSource.account``: the format, the samples of each split, the classes with their counts, series
    and their lengths, what was left out, and how files are read that leave something open."""
    listing, reading = account.get("listing"), account.get("reading")
    return (_listing(listing) if listing else []) + (_reading(reading) if reading else [])


def _listing(listing: Mapping[str, Any]) -> list[str]:
    splits = ", ".join(f"{count} {name}" for name, count in listing["splits"].items())
    key, items, parts = (listing.get(name, usual) for name, usual in _USUAL.items())
    lines = [f"read as data.{key}={listing['format']}: {listing['samples']} {items} ({splits})"]
    where = "folders, " if listing["format"] in _BY_FOLDER else ""
    for target, classes in listing["classes"].items():
        name = "labels" if target == "label" else target
        shown = [f"{name} ({_counts(counts, listing['splits'])})" for name, counts in classes.items()]
        more = f", and {len(shown) - _MOST_CLASSES} more" if len(shown) > _MOST_CLASSES else ""
        lines.append(f"{name}: {where}{len(shown)} classes: {', '.join(shown[:_MOST_CLASSES])}{more}")
    if not listing["classes"]:
        why = "no folders of classes" if where else f"the format {listing['format']} tells no classes"
        lines.append(f"labels: none, {why}")
    if listing.get("unlabelled"):
        lines.append(f"without a label: {listing['unlabelled']} of {listing['samples']}")
    if listing["frames"]:
        low, middle, high = listing["frames"]
        known = listing.get("of_known_length", listing["samples"])
        of = "" if known == listing["samples"] else f" of {known} of {listing['samples']}"
        lines.append(f"known lengths{of}: {low} to {high} {parts} (median {middle})")
    return lines + list(listing["told"])


def _counts(counts: Mapping[str, int], splits: Mapping[str, int]) -> str:
    """How many of a class there are in each split; of a single split the bare number."""
    if len(splits) == 1:
        return str(sum(counts.values()))
    return ", ".join(f"{counts.get(split, 0)} {split}" for split in splits)


def _reading(facts: Mapping[str, Any]) -> list[str]:
    lines = []
    if "bin_columns" in facts:
        lines.append(f".bin files have {facts['bin_columns']} float32 numbers a point (data.bin_columns)")
    for roles in facts.get("columns", ()):
        lines.append(f"columns of tables without names: {', '.join(roles)} (data.columns)")
    for name in ("color", "intensity"):
        if name in facts:
            low, high = facts[f"{name}_range"]
            values = ", ".join(f"{value:g}" for value in facts[f"{name}_values"])
            seen = f"values {facts[name][0]:g} … {facts[name][1]:g}, as {values}"
            lines.append(f"{name} of the range {low:g} … {high:g} becomes 0 … 1 ({seen}; data.{name}_range)")
    if "meshes" in facts:
        count, points = facts["meshes"]
        surface = f"{points} points of their surface (data.surface_points)"
        read = surface if points else "their vertices, as of labelled ones"
        lines.append(f"{count} of the files looked at are meshes, read as {read}")
    if lines:
        lines.append(f"decided from {facts['files']} of {facts['of']} files")
    return lines + list(facts.get("told", ()))
