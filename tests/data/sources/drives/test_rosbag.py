from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.drives import read_drives
from st_ssl.data.sources.drives.rosbag import Track
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.streams.points.drives import DriveSweeps
from tests.data.drives.made import pose_at, source_of, world

pytest.importorskip("rosbags")

BEGIN = 1_600_000_000
MOUNT = np.array([1.0, 0.0, 2.0])
"""Where the sensor is on the vehicle."""


def seen(second: float) -> np.ndarray:
    """The world from the sensor of a vehicle at ``pose_at(second)``, float32 [N, 3]."""
    pose = pose_at(second)
    return ((world() - pose[:3, 3]) @ pose[:3, :3] - MOUNT).astype(np.float32)


class Bag:
    """Writes messages of ROS 1 or 2."""

    def __init__(self, path: Path, ros: int) -> None:
        from rosbags.rosbag1 import Writer as Writer1
        from rosbags.rosbag2 import Writer as Writer2
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore

        self.store = get_typestore(Stores.ROS1_NOETIC if ros == 1 else Stores.ROS2_HUMBLE)
        if ros == 1:  # a package of its own there
            text = "geometry_msgs/TransformStamped[] transforms"
            self.store.register(get_types_from_msg(text, "tf2_msgs/msg/TFMessage"))
        self.ros, self.writer = ros, Writer1(path) if ros == 1 else Writer2(path, version=8)
        self.connections: dict[str, Any] = {}

    def make(self, kind: str, *values: Any) -> Any:
        return self.store.types[kind](*values)

    def header(self, second: float, frame: str) -> Any:
        nanoseconds = round(second * 1e9)
        stamp = self.make("builtin_interfaces/msg/Time", BEGIN + nanoseconds // 10**9, nanoseconds % 10**9)
        return self.make("std_msgs/msg/Header", *((0,) if self.ros == 1 else ()), stamp, frame)

    def write(self, topic: str, second: float, message: Any) -> None:
        kind = message.__msgtype__
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        serialize = self.store.serialize_ros1 if self.ros == 1 else self.store.serialize_cdr
        self.writer.write(self.connections[topic], BEGIN * 10**9 + round(second * 1e9) + 5, serialize(message, kind))

    def cloud(self, topic: str, second: float) -> None:
        """x, y, z, a gap of four bytes, an intensity and a ring, in two rows with more bytes behind each."""
        table = np.zeros(400, {"names": ["x", "y", "z", "intensity", "ring"], "formats": ["<f4"] * 4 + ["<u2"],
                               "offsets": [0, 4, 8, 16, 20], "itemsize": 24})  # fmt: skip
        for at, name in enumerate("xyz"):
            table[name] = seen(second)[:, at]
        table["intensity"] = np.arange(400) % 256
        rows = np.hstack([table.view(np.uint8).reshape(2, -1), np.zeros((2, 7), np.uint8)])
        names = {"x": (0, 7), "y": (4, 7), "z": (8, 7), "intensity": (16, 7), "ring": (20, 4)}
        fields = [self.make("sensor_msgs/msg/PointField", name, *own, 1) for name, own in names.items()]
        shape = (2, 200, fields, False, 24, 200 * 24 + 7, rows.ravel(), True)
        self.write(topic, second, self.make("sensor_msgs/msg/PointCloud2", self.header(second, "lidar"), *shape))

    def moved(self, second: float, kind: str) -> None:
        """Where the vehicle is, as a transform or as odometry."""
        pose = pose_at(second)
        angle = np.arctan2(pose[1, 0], pose[0, 0]) / 2
        turn = self.make("geometry_msgs/msg/Quaternion", 0.0, 0.0, np.sin(angle), np.cos(angle))
        header = self.header(second, "odom")
        if kind == "tf":
            move = self.make("geometry_msgs/msg/Transform", self.make("geometry_msgs/msg/Vector3", *pose[:3, 3]), turn)
            self.transform("/tf", second, header, "base", move)
            return
        place = self.make("geometry_msgs/msg/Pose", self.make("geometry_msgs/msg/Point", *pose[:3, 3]), turn)
        none = self.make("geometry_msgs/msg/Vector3", 0.0, 0.0, 0.0)
        twist = self.make(
            "geometry_msgs/msg/TwistWithCovariance", self.make("geometry_msgs/msg/Twist", none, none), np.zeros(36)
        )
        placed = self.make("geometry_msgs/msg/PoseWithCovariance", place, np.zeros(36))
        self.write("/odometry", second, self.make("nav_msgs/msg/Odometry", header, "base", placed, twist))

    def transform(self, topic: str, second: float, header: Any, child: str, move: Any) -> None:
        one = self.make("geometry_msgs/msg/TransformStamped", header, child, move)
        self.write(topic, second, self.make("tf2_msgs/msg/TFMessage", [one]))

    def mounted(self) -> None:
        """Where the sensor is on the vehicle, once."""
        still = self.make("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0)
        move = self.make("geometry_msgs/msg/Transform", self.make("geometry_msgs/msg/Vector3", *MOUNT), still)
        self.transform("/tf_static", 0.0, self.header(0.0, "base"), "lidar", move)


def write_bag(path: Path, ros: int = 1, kind: str = "tf", topics: tuple[str, ...] = ("/points",)) -> Path:
    """Three sweeps at 10 Hz, and the place of the vehicle between them at 20 Hz."""
    bag = Bag(path, ros)
    with bag.writer:
        bag.mounted()
        for step in range(-1, 7):
            if kind:
                bag.moved(max(0.0, 0.05 * step - 0.025), kind)
            if step >= 0 and step % 2 == 0 and step < 6:
                for topic in topics:
                    bag.cloud(topic, 0.05 * step)
    return path


@pytest.mark.parametrize("ros", [1, 2])
@pytest.mark.parametrize("kind", ["tf", "odometry"])
def test_sweeps_of_a_bag_stand_where_the_world_is(tmp_path: Path, ros: int, kind: str) -> None:
    bag = write_bag(tmp_path / ("run.bag" if ros == 1 else "run"), ros, kind)
    for root in (tmp_path, bag):
        source = source_of(root)
        assert source.layout.name == "rosbag" and list(source.drives) == [str(bag)]
    (drive,) = source.drives.values()
    np.testing.assert_allclose(drive.times, [0, 0.1, 0.2], atol=1e-6)
    assert drive.posed.all()
    for at, cloud in DriveSweeps(drive, source.sweep_options).read(range(3)):
        np.testing.assert_array_equal(cloud.xyz, seen(at / 10))
        np.testing.assert_allclose(cloud.attributes["intensity"][:, 0], np.arange(400) % 256 / 255, atol=1e-6)
        assert cloud.pose is not None
        placed = cloud.xyz @ cloud.pose[:3, :3].T + cloud.pose[:3, 3]
        np.testing.assert_allclose(placed, world(), atol=1e-3)  # between two places the vehicle goes straight


def test_a_bag_with_several_topics_asks_which(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "run.bag", topics=("/front", "/roof"))
    with pytest.raises(DataError, match=r"run\.bag: several topics: data\.topic is one of /front, /roof"):
        read_drives(bag)
    with pytest.raises(DataError, match=r"no clouds in '/rof'; did you mean '/roof'\?"):
        read_drives(bag, topic="/rof")
    assert len(read_drives(bag, topic="/roof")[1][0]) == 3


def test_without_motion_there_are_no_poses(tmp_path: Path) -> None:
    _, (drive,), told = read_drives(write_bag(tmp_path / "run.bag", kind=""))
    assert not drive.posed.any() and "run.bag: no poses: lidar is in base, which nothing moves" in told[0]


def test_what_is_no_bag_or_not_in_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.bag").write_bytes(b"#ROSBAG V2.0\n" + bytes(100))
    with pytest.raises(DataError, match=r"a\.bag: not a ROS bag that can be read"):
        read_drives(tmp_path / "a.bag")
    bag = write_bag(tmp_path / "run.bag")
    with pytest.raises(SampleError, match="the bag has no such message"):
        read_cloud(f"{bag}#/points@17")


def test_a_turn_is_halved_halfway_and_far_from_any_nothing_is_known() -> None:
    half = 2**-0.5
    track = Track("odom", False, [1.0, 1.2], [(0, 0, 0), (2, 0, 0)], [(1, 0, 0, 0), (-half, 0, 0, -half)])
    found = track.at(np.array([1.0, 1.1, 1.2, 1.3, 1.5]))
    np.testing.assert_allclose(np.degrees(np.arctan2(found[:, 1, 0], found[:, 0, 0]))[:4], [0, 45, 90, 90])
    np.testing.assert_allclose(found[:4, 0, 3], [0, 1, 2, 2])
    assert np.isnan(found[4]).all()
