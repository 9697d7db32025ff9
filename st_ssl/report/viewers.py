"""The clouds of a report in open3d's window, or as files for other viewers."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, UserError
from st_ssl.report.embedding import embed
from st_ssl.report.features import feature_scenes
from st_ssl.report.finetuned import finetuned
from st_ssl.report.folder import RunFolder
from st_ssl.report.matches import match_scenes
from st_ssl.report.pictures import method_scenes, view_scenes
from st_ssl.report.scenes import Links, Scene

_OPEN3D_LIBRARIES = "libegl1 libgl1 libgomp1 libusb-1.0-0"
_GAP = 2.2  # radii between the middles of clouds that stand side by side


def show_clouds(runs: Sequence[Path], save: Path | None = None) -> None:
    """Show the clouds in the reports of ``runs`` in windows, or write them to the folder ``save`` as ``.ply`` files.

    Raises ``MissingDependencyError`` where open3d is not installed, and ``UserError`` where there is no display,
    or nothing to see: runs of videos have no clouds.
    """
    open3d = require_open3d("--viewer open3d")
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if save is None and sys.platform.startswith("linux") and not display:
        told = "neither DISPLAY nor WAYLAND_DISPLAY is set: --save FOLDER writes .ply files"
        raise UserError(f"--viewer open3d needs a display, and {told}")
    folders = [RunFolder.open(run) for run in runs]
    scenes = [(f"{folder.name}, {what}", scene) for folder in folders for what, scene in cloud_scenes(folder)]
    if not scenes:
        raise UserError(f"{', '.join(map(str, runs))}: no clouds to show")
    if save is None:
        _in_open3d(open3d, scenes)
    else:
        _as_ply(open3d, scenes, save)


def cloud_scenes(run: RunFolder) -> Iterator[tuple[str, Scene]]:
    """All scenes of the report of ``run`` with the section they are from; what cannot be made is a warning."""
    if not run.of_clouds:
        return
    parts = {
        "views": lambda: view_scenes(run),
        "method": lambda: method_scenes(run)[0],
        "correspondences": lambda: match_scenes(run)[0],
        "features": lambda: feature_scenes(run, embed(run)),
        "fine-tuning": lambda: found.scenes if (found := finetuned(run)) else [],
    }
    for what, make in parts.items():
        try:
            scenes = make()
        except UserError as error:
            warnings.warn(f"{run.directory}: {what} is left out: {error}", stacklevel=2)
            continue
        yield from ((what, scene) for scene in scenes)


def placed(scene: Scene, points: np.ndarray, number: int) -> np.ndarray:
    """Points [N, 3] of the cloud ``number`` of a scene as they are shown: centred, in radii, the clouds side by side as
    seen from ``scene.eye``."""
    middle, radius = scene.frames()[number]
    turn = np.deg2rad(scene.eye.turn)
    return (points - middle) / radius + number * _GAP * np.array([np.cos(turn), np.sin(turn), 0.0])


def require_open3d(needed_for: str) -> Any:
    """The package open3d; ``MissingDependencyError`` where it is not installed, or cannot be loaded."""
    try:
        import open3d
    except (ImportError, OSError) as error:  # unless ModuleNotFoundError it is there, a library of the system is not
        also = "" if isinstance(error, ModuleNotFoundError) else f" ({error}), and apt-get install {_OPEN3D_LIBRARIES}"
        raise MissingDependencyError("open3d", "points", needed_for, also) from error
    return open3d


def _point_cloud(open3d: Any, points: np.ndarray, colour: np.ndarray) -> Any:
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.astype(np.float64)))
    cloud.colors = open3d.utility.Vector3dVector(colour.astype(np.float64))
    return cloud


def _in_open3d(open3d: Any, scenes: Sequence[tuple[str, Scene]]) -> None:
    """One window after the other; closing one (Q) opens the next."""
    for number, (what, scene) in enumerate(scenes, 1):
        window = open3d.visualization.Visualizer()
        captions = " | ".join(cloud.caption[0] for cloud in scene.clouds)
        title = f"{number} of {len(scenes)}: {what}, {scene.name}: {captions}"
        if not window.create_window(window_name=title, width=1400, height=700):
            raise UserError("open3d could not open a window: --save FOLDER writes .ply files instead")
        for place, cloud in enumerate(scene.clouds):
            window.add_geometry(_point_cloud(open3d, placed(scene, cloud.xyz, place), cloud.colour))
        if scene.links is not None:
            window.add_geometry(_lines(open3d, scene, scene.links))
        turn = np.deg2rad(scene.eye.turn)
        control = window.get_view_control()
        control.set_up([0, 0, 1])
        control.set_front([np.sin(turn), -np.cos(turn), np.tan(np.deg2rad(scene.eye.tilt))])
        window.run()
        window.destroy_window()


def _lines(open3d: Any, scene: Scene, links: Links) -> Any:
    ends = np.stack([placed(scene, links.start, 0), placed(scene, links.end, 1)], axis=1).reshape(-1, 3)
    lines = open3d.geometry.LineSet()
    lines.points = open3d.utility.Vector3dVector(ends)
    lines.lines = open3d.utility.Vector2iVector(np.arange(len(ends)).reshape(-1, 2))
    lines.colors = open3d.utility.Vector3dVector(links.colour)
    return lines


def _as_ply(open3d: Any, scenes: Sequence[tuple[str, Scene]], folder: Path) -> None:
    """``0001_1_views_00071.npz_View_1.ply`` and the like: the shown points where they lie in their cloud."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (what, scene) in enumerate(scenes, 1):
        for place, cloud in enumerate(scene.clouds, 1):
            name = f"{number:04d}_{place} {what} {scene.name} {cloud.caption[0]}"
            file = folder / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)[:120]}.ply"
            if not open3d.io.write_point_cloud(str(file), _point_cloud(open3d, cloud.xyz, cloud.colour)):
                raise UserError(f"{file} could not be written")
