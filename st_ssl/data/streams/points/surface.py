"""Points on meshes: drawn evenly by area, the same ones from the same mesh wherever its file is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.core.random import keyed_rng
from st_ssl.data.streams.points.base import RawCloud

_PIECE = 1 << 18  # faces at a time: of a large mesh only areas are kept


def on_surface(
    path: str,
    vertices: np.ndarray,
    faces: np.ndarray,
    count: int,
    attributes: Mapping[str, np.ndarray] | None = None,
) -> RawCloud:
    """``count`` points on the triangles ``faces`` int64 [F, 3] of ``vertices`` float64 [V, 3], with the normals of
    their faces; the vertices themselves where there are no faces. Of the ``attributes`` [V, k] of vertices colour and
    intensity are interpolated.

    Every draw is a function of the mesh and ``count``. ``SampleError`` where a face names a vertex that is not there,
    or no face has an area.
    """
    if len(faces) == 0:
        return RawCloud(vertices)
    wrong = (faces < 0) | (faces >= len(vertices))
    if wrong.any():
        face, corner = (int(i) for i in np.argwhere(wrong)[0])
        raise SampleError(path, f"face {face} names vertex {int(faces[face, corner])}, of {len(vertices)} (from 0)")
    twice = np.concatenate(
        [np.linalg.norm(_cross(vertices, faces[at : at + _PIECE]), axis=1) for at in range(0, len(faces), _PIECE)]
    )
    twice[~np.isfinite(twice)] = 0  # a face with a corner that is nowhere
    until = np.cumsum(twice)
    if until[-1] <= 0:
        raise SampleError(path, f"none of its {len(faces)} faces has an area")
    draws = keyed_rng("surface", _content(vertices, faces), count).random((count, 3))
    chosen = np.searchsorted(until, draws[:, 0] * until[-1], side="right").clip(0, len(faces) - 1)
    chosen = np.where(twice[chosen] > 0, chosen, int(twice.argmax()))  # rounding at the very end
    # uniform in a triangle: Osada et al., 2002
    root, along = np.sqrt(draws[:, 1:2]), draws[:, 2:3]
    weights = np.concatenate([1 - root, root * (1 - along), root * along], axis=1)
    xyz = (weights[:, :, None] * vertices[faces[chosen]]).sum(axis=1)
    normals = _cross(vertices, faces[chosen]) / twice[chosen, None]
    cloud = RawCloud(xyz, {"normal": normals.astype(np.float32)}, drawn=True)
    for name in ("color", "intensity"):
        if attributes is not None and name in attributes:
            values = attributes[name]
            between = (weights[:, :, None] * values[faces[chosen]]).sum(axis=1)
            cloud.attributes[name] = between.round().astype(values.dtype) if values.dtype.kind in "iu" else between
    return cloud


def _cross(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals of faces, twice their area long."""
    corners = vertices[faces]
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _content(vertices: np.ndarray, faces: np.ndarray) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(vertices, dtype="<f8").data, digest_size=16)
    digest.update(np.ascontiguousarray(faces, dtype="<i8").data)
    return digest.hexdigest()
