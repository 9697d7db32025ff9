"""KITTI's raw recordings (Geiger et al., IJRR 2013), synchronised: sweeps, poses from GPS and inertial sensors, and the
objects that the camera sees, as tracks."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.base import Place
from st_ssl.data.sources.drives import kitti
from st_ssl.data.sources.drives.base import (
    NOT_LABELLED,
    Layout,
    box_values,
    filled_times,
    known_name,
    numbers,
    sweeps_in,
    text_lines,
    velocities,
)
from st_ssl.data.sources.drives.kitti import COLUMNS, from_calib, read_calib
from st_ssl.data.sources.points.base import subfolders
from st_ssl.data.streams.points.drives import Camera, Drive, NamedBoxes, rigid, unposed

NAMES = {**kitti.NAMES, "Person (sitting)": "person_sitting"}
_EARTH = 6378137.0  # its radius in metres
_IN_IMAGE = (0, 1)  # whole, or cut off by its edge


def _read(place: Place, rate: float) -> list[Drive]:
    """``2011_09_26/2011_09_26_drive_0001_sync`` with ``velodyne_points``, ``oxts`` and ``tracklet_labels.xml``; the
    calibrations of a day are beside its drives. The root holds days, or is one. All drives are "train"."""
    folders = _folders(place.root)
    if not folders:
        raise DataError(
            f"{place.root}: no velodyne_points/data/*.bin in its drives, as KITTI's raw recordings have them"
        )
    return [_drive(place, folder, rate) for folder in folders]


def _folders(root: Path) -> list[Path]:
    """The folders of drives."""
    days = subfolders(root)
    drives = [root, *days, *(drive for day in days for drive in subfolders(day))]
    return [drive for drive in drives if sweeps_in(drive / "velodyne_points" / "data", ".bin")]


def _drive(place: Place, folder: Path, rate: float) -> Drive:
    files = sweeps_in(folder / "velodyne_points" / "data", ".bin")
    times = _times(folder / "velodyne_points" / "timestamps.txt", files, rate)
    calib, poses = folder.parent / "calib_imu_to_velo.txt", unposed(len(files))
    packets = [folder / "oxts" / "data" / f"{file.stem}.txt" for file in files]
    there = np.array([packet.is_file() for packet in packets])
    if there.any() and calib.is_file():
        own = read_calib(calib)
        to_sweep = np.eye(4)
        to_sweep[:3, :3], to_sweep[:3, 3] = (
            from_calib(calib, own, ("R",), 9).reshape(3, 3),
            from_calib(calib, own, ("T",), 3),
        )
        moves = oxts_poses(np.stack([_packet(packet) for packet in packets if packet.is_file()]))
        poses[there] = moves @ np.linalg.inv(to_sweep)
    elif there.any():
        place.tell(f"{folder}: no poses, since {calib.name} is not in {calib.parent}")
    found = Drive(str(folder), "train", tuple(map(str, files)), times, poses)
    camera = {at: partial(_camera, folder.parent) for at in range(len(files))} if _calibrated(folder.parent) else {}
    boxes = {at: partial(_given, own) for at, own in enumerate(_boxes(folder / "tracklet_labels.xml", found))}
    return replace(found, boxes=boxes, cameras=camera)


def _calibrated(day: Path) -> bool:
    return all((day / name).is_file() for name in ("calib_velo_to_cam.txt", "calib_cam_to_cam.txt"))


def _camera(day: Path) -> Camera:
    """The left colour camera. Raises ``SampleError``."""
    sweep, cameras = day / "calib_velo_to_cam.txt", day / "calib_cam_to_cam.txt"
    own, every, turn = read_calib(sweep), read_calib(cameras), np.eye(4)
    turn[:3, :3] = from_calib(cameras, every, ("R_rect_00",), 9).reshape(3, 3)
    move = [from_calib(sweep, own, ("R",), 9).reshape(3, 3), from_calib(sweep, own, ("T",), 3)[:, None]]
    width, height = from_calib(cameras, every, ("S_rect_02",), 2).astype(int).tolist()
    projection = from_calib(cameras, every, ("P_rect_02",), 12).reshape(3, 4)
    return Camera(projection @ turn @ rigid(np.hstack(move)), width, height)


def _given(boxes: NamedBoxes) -> NamedBoxes:
    return boxes


def _boxes(file: Path, drive: Drive) -> list[NamedBoxes]:
    """The boxes of each sweep of a drive, from its tracks; [] where it has none.

    A track has the size of one object and, from some sweep on, the middle of its bottom in the axes of each sweep.
    Where an object is outside of the image, nobody looked for it: its class is ``NOT_LABELLED``. Raises
    ``SampleError``.
    """
    if not file.is_file():
        return []
    try:
        tracks = ElementTree.parse(file).getroot().findall("tracklets/item")
    except ElementTree.ParseError as error:
        raise SampleError(str(file), f"no XML: {error}") from error
    sweeps = {int(Path(name).stem): at for at, name in enumerate(drive.files) if Path(name).stem.isdecimal()}
    places, names, rows, track, sweep, facts = [], [], [], [], [], []
    for number, one in enumerate(tracks):
        which = f"track {number + 1}"
        kind = known_name(file, which, one.findtext("objectType", "").strip(), NAMES)
        height, width, length, first = _numbers(file, which, one, ("h", "w", "l", "first_frame"))
        for later, pose in enumerate(one.findall("poses/item")):
            here = f"{which}, pose {later + 1}"
            x, y, z, yaw, cut, hidden = _numbers(file, here, pose, ("tx", "ty", "tz", "rz", "truncation", "occlusion"))
            if int(first) + later in sweeps:  # of some sweeps there is no file
                places.append(here)
                names.append(kind if cut in _IN_IMAGE else NOT_LABELLED)
                rows.append([x, y, z + height / 2, length, width, height, yaw])
                track.append(number)
                sweep.append(sweeps[int(first) + later])
                facts.append([cut, hidden])
    values, of = box_values(file, rows, places), np.array(sweep, dtype=np.int64)
    poses, tracks_of = drive.poses[of], np.array(track, dtype=np.int64)
    world = (poses[:, :3, :3] @ values[:, :3, None])[..., 0] + poses[:, :3, 3]
    moves = velocities(world, tracks_of, drive.times[of])
    values[:, 7:] = (poses[:, :3, :3].transpose(0, 2, 1) @ moves[..., None])[:, :2, 0]
    known = np.array(facts, dtype=np.float32).reshape(-1, 2)
    found = []
    for at in range(len(drive)):
        own = np.flatnonzero(of == at)
        given = {"track": tracks_of[own], "truncated": known[own, 0], "occluded": known[own, 1]}
        found.append(NamedBoxes(values[own], tuple(names[row] for row in own.tolist()), given))
    return found


def _numbers(file: Path, at: str, item: ElementTree.Element, names: tuple[str, ...]) -> list[float]:
    """What an item has by ``names``. Raises ``SampleError``."""
    found = []
    for name in names:
        text = item.findtext(name, "").strip()
        try:
            found.append(float(text))
        except ValueError as error:
            raise SampleError(str(file), f"{at}: {name} is {text!r}, expected a number") from error
    return found


def _times(file: Path, files: list[Path], rate: float) -> np.ndarray:
    """Times float64 [T] in seconds from the first sweep on; lines are of all sweeps, also of those that are missing."""
    times = np.full(len(files), np.nan)
    stamps = dict(enumerate(line for _, line in text_lines(file))) if file.is_file() else {}
    for at, sweep in enumerate(files):
        stamp = stamps.get(int(sweep.stem)) if sweep.stem.isdecimal() else None
        if stamp is not None:
            try:
                times[at] = datetime.fromisoformat(stamp[:26]).timestamp()  # to the microsecond
            except ValueError as error:
                raise SampleError(str(file), f"line {int(sweep.stem) + 1}: {stamp!r} is no time") from error
    times = filled_times(times, rate)
    return times - times[0]


def _packet(file: Path) -> np.ndarray:
    """Latitude and longitude in degrees, height in metres, roll, pitch and yaw in radians, float64 [6]."""
    rows = text_lines(file)
    if not rows or len(words := rows[0][1].split()) < 6:
        raise SampleError(str(file), "expected a line of latitude, longitude, altitude, roll, pitch, yaw …")
    return np.array(numbers(file, rows[0][0], words[:6]))


def oxts_poses(packets: np.ndarray) -> np.ndarray:
    """Poses float64 [T, 4, 4] of the inertial sensor from ``packets`` [T, 6] (see ``_packet``), in metres east, north
    and up of the first: a Mercator projection at the latitude of that one, as KITTI's development kit has it."""
    latitude, longitude, height, roll, pitch, yaw = packets.T
    scale = np.cos(np.radians(latitude[0]))
    east = scale * _EARTH * np.radians(longitude)
    north = scale * _EARTH * np.log(np.tan(np.radians(90 + latitude) / 2))
    places = np.stack([east, north, height], axis=1)
    poses = np.tile(np.eye(4), (len(packets), 1, 1))
    poses[:, :3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
    poses[:, :3, 3] = places - places[0]
    return poses


def _turn(axis: int, angle: np.ndarray) -> np.ndarray:
    """Rotations [T, 3, 3] about an axis."""
    turn = np.zeros((len(angle), 3, 3))
    one, two = (axis + 1) % 3, (axis + 2) % 3
    turn[:, axis, axis] = 1
    turn[:, one, one] = turn[:, two, two] = np.cos(angle)
    turn[:, two, one], turn[:, one, two] = np.sin(angle), -np.sin(angle)
    return turn


LAYOUT = Layout(
    "kitti_raw",
    _read,
    lambda place: _folders(place.root),
    NAMES,
    kitti.LAYOUT.classes,
    columns=COLUMNS,
    intensity_range=(0.0, 1.0),
)
