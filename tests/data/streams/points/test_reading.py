"""What files of clouds leave open is decided once for a data set: columns, numbers a point, ranges."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.data.points.dataset import PointDataConfig, PointSource
from st_ssl.data.streams.points import ReadOptions, read_cloud
from st_ssl.data.streams.points.columns import UnclearColumnsError, expand, guess_roles, plain, roles_of
from st_ssl.data.streams.points.reading import MOST_FILES, Reading, decide
from st_ssl.data.streams.points.units import Spread, decide_range, disagreement, spread
from st_ssl.encoders.base import ENCODERS, description, load_encoder, save_encoder

RNG = np.random.default_rng(0)
XYZ = RNG.uniform(0, 6, (400, 3))
NORMAL = RNG.normal(size=(400, 3))
NORMAL /= np.linalg.norm(NORMAL, axis=1, keepdims=True)
GREY = RNG.integers(0, 256, (400, 1))
COLOR = np.clip(GREY + RNG.integers(-9, 10, (400, 3)), 0, 255)  # as of real scans: channels change together
LABEL, INTENSITY = RNG.integers(0, 5, (400, 1)), RNG.integers(0, 2000, (400, 1))
PARTS = {"xyz": XYZ, "n": NORMAL, "rgb": COLOR, "l": LABEL, "o": LABEL * 7, "i": INTENSITY, "p": LABEL}
PARTS["-"] = RNG.normal(size=(400, 1))
READABLE = ("xyz", "xyz i", "xyz i -", "xyz n", "xyz rgb", "xyz n p", "xyz i n", "xyz rgb l", "xyz i rgb", "xyz i n l")
WIDE = ("xyz n l o", "xyz i rgb l", "xyz rgb l o", "xyz rgb n", "xyz n rgb", "xyz i rgb l o", "xyz rgb - - -")
WIDEST = ("xyz i rgb n", "xyz i n rgb", "xyz rgb n l", "xyz n rgb l")


def table(layout: str) -> np.ndarray:
    return np.hstack([PARTS[part] for part in layout.split()]).astype(np.float64)


@pytest.mark.parametrize("layout", [*READABLE, *WIDE, *WIDEST])
def test_columns_without_names_are_told_by_their_numbers(layout: str) -> None:
    assert guess_roles(table(layout)) == expand(layout)


def test_two_readings_that_fit_are_an_error_that_names_both() -> None:
    noise = RNG.integers(0, 256, (400, 4))  # an intensity and a colour, or a colour and one of 256 classes
    with pytest.raises(UnclearColumnsError, match=r"\[x,y,z,red,green,blue,segment\] or \[x,y,z,intensity,red"):
        guess_roles(np.hstack([XYZ, noise]))
    with pytest.raises(UnclearColumnsError, match=r"\[x,y,z,intensity\] or \[x,y,z,segment\]"):
        guess_roles(np.hstack([XYZ, LABEL]))
    assert guess_roles(np.hstack([XYZ, LABEL]), "bin")[3] == "intensity"  # sweeps have no labels in them
    assert guess_roles(np.hstack([XYZ, noise]), "pts")[3] == "intensity"
    with pytest.raises(UnclearColumnsError, match="has 12 columns"):
        guess_roles(np.zeros((9, 12)))


@pytest.mark.parametrize("columns", [(INTENSITY, LABEL, LABEL, LABEL), (INTENSITY, LABEL + 1, LABEL + 1)])
def test_numbers_of_returns_are_no_channels_of_a_colour(columns: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(UnclearColumnsError, match="that are none of"):
        guess_roles(np.hstack([XYZ, *columns]))


@pytest.mark.parametrize("first", [np.arange(400)[:, None], RNG.normal(size=(400, 1))])
def test_fractions_below_0_are_no_intensity(first: np.ndarray) -> None:
    with pytest.raises(UnclearColumnsError, match="that are none of"):  # an index first; the speed of a radar last
        guess_roles(np.hstack([first, XYZ - 1]))


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("X [m],Y [m],Z [m],Classification,Intensity", {"x": 0, "y": 1, "z": 2, "segment": 3, "intensity": 4}),
        ("//X;Y;Z;Scalar field;Reflectivity", {"x": 0, "y": 1, "z": 2, "intensity": 4}),
        ("x,y,z,scalar_Class,scalar_Intensity", {"x": 0, "y": 1, "z": 2, "segment": 3, "intensity": 4}),
        ("Easting,Northing,Height,R,G,B", {"x": 0, "y": 1, "z": 2, "red": 3, "green": 4, "blue": 5}),
        ('"Point X";"Point Y";"Point Z";"Sem Class"', {"x": 0, "y": 1, "z": 2, "segment": 3}),
        ("a,b,c", {}),
    ],
)
def test_names_of_columns_as_people_write_them(header: str, found: dict[str, int]) -> None:
    names = header.lstrip("/").split(";" if ";" in header else ",")
    assert roles_of(names) == found


def test_plain_names() -> None:
    assert [plain(name) for name in ("\ufeffX", " Scalar_Field (m) ", "scalar_Label", "scalar", "sem-class")] == [
        *("x", "scalarfield", "label", "scalar", "semclass")
    ]


HEADERS: dict[str, tuple[str, str | None]] = {
    "bom": ("\ufeffx,y,z,label,intensity", None),
    "units": ("X [m],Y [m],Z [m],Classification,Intensity", None),
    "words": ("# X; Y; Z; Sem Class; Intensity", None),
    "spaces": (
        "X Y Z Scalar field Intensity",
        r"its header has 6 names \(X, Y, Z, Scalar, field, Intensity\), its rows 5",
    ),
    "unknown": ("a,b,c,d,e", r"its header is not understood: no x, y and z among a, b, c, d, e; data.columns"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_read_or_an_error(tmp_path: Path, case: str) -> None:
    header, error = HEADERS[case]
    mark = next((mark for mark in ",;" if mark in header), " ")
    rows = np.hstack([XYZ, LABEL, INTENSITY % 256])
    text = header + "\n" + "".join(mark.join(f"{value:g}" for value in row) + "\n" for row in rows)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    if error is None:
        cloud = read_cloud(tmp_path / "a.txt")
        assert cloud.labels["segment"].tolist() == LABEL[:, 0].tolist()
        assert np.allclose(cloud.attributes["intensity"], (INTENSITY % 256) / 255, atol=1e-5)
        return
    with pytest.raises(SampleError, match=error):
        read_cloud(tmp_path / "a.txt")
    roles = ("x", "y", "z", "segment", "intensity")
    cloud = read_cloud(tmp_path / "a.txt", ReadOptions(layouts=(roles,), named=True))
    assert cloud.labels["segment"].tolist() == LABEL[:, 0].tolist()


def write_bins(folder: Path, columns: int, counts: range) -> list[str]:
    paths = []
    for number, count in enumerate(counts):
        more = [RNG.integers(0, 256, (count, columns - 3))] if columns > 3 else []
        rows = np.hstack([RNG.uniform(0, [8, 6, 3], (count, 3)), *more]).astype("<f4")
        paths.append(str(folder / f"{number:03d}.bin"))
        rows.tofile(paths[-1])
    return paths


@pytest.mark.parametrize("columns", [3, 4, 5, 6])
def test_bin_files_have_one_number_of_columns(tmp_path: Path, columns: int) -> None:
    paths = write_bins(tmp_path, columns, range(60, 180, 20))  # of five and six some sizes divide by sixteen bytes
    reading = decide(paths)
    assert reading.facts["bin_columns"] == columns
    assert [len(read_cloud(path, reading.options)) for path in paths] == list(range(60, 180, 20))
    found = read_cloud(paths[0], reading.options).attributes
    assert list(found) == {3: [], 4: ["intensity"], 5: ["intensity"], 6: ["color"]}[columns]


def test_places_alone_are_three_numbers_a_point(tmp_path: Path) -> None:
    for number in range(3):  # sizes are whole numbers of four, too, and all columns are alike
        RNG.normal(size=(240, 3)).astype("<f4").tofile(tmp_path / f"{number}.bin")
    assert decide([str(tmp_path / f"{number}.bin") for number in range(3)]).facts["bin_columns"] == 3


def test_bin_files_that_disagree_are_broken_samples(tmp_path: Path) -> None:
    paths = write_bins(tmp_path, 5, range(61, 81))
    np.zeros(62 * 4, "<f4").tofile(tmp_path / "odd.bin")
    options = decide(paths).options
    with pytest.raises(SampleError, match=r"has 992 bytes: no whole number of points of 5 .* \(data.bin_columns\)"):
        read_cloud(tmp_path / "odd.bin", options)
    assert decide(paths, ReadOptions(bin_columns=4)).options.bin_columns == 4  # what a key says stays


@pytest.mark.parametrize("dtype", ["<u4", "<i8", "u1"])
def test_bytes_that_are_no_measurements_are_refused(tmp_path: Path, dtype: str) -> None:
    RNG.integers(0, 255, 480).astype(dtype).tofile(tmp_path / "a.bin")
    with pytest.raises(SampleError, match="not a cloud of float32 numbers"):
        read_cloud(tmp_path / "a.bin")


def sweeps(folder: Path, tops: list[float], make: Callable[[int], np.ndarray] | None = None) -> list[str]:
    """Sweeps whose intensities are 40 to 200, and of each one point with the value of ``tops``."""
    paths = []
    for number, top in enumerate(tops):
        values = RNG.choice([40, 60, 120, 200], 300).astype(np.float32) if make is None else make(number)
        values[0] = top
        paths.append(str(folder / f"{number}.npz"))
        np.savez(paths[-1], points=RNG.uniform(0, 6, (300, 3)).astype(np.float32), intensity=values)
    return paths


def lowest(path: str, reading: Reading) -> float:
    values = read_cloud(path, reading.options).attributes["intensity"]
    return float(values.min())


def test_one_stray_point_does_not_scale_its_file(tmp_path: Path) -> None:
    paths = sweeps(tmp_path, [200, 260, 200, 260])
    reading = decide(paths)
    assert reading.options.intensity_range == (0, 255)
    assert {round(lowest(path, reading), 4) for path in paths} == {round(40 / 255, 4)}
    assert reading.told == (
        "intensity: 2 of 4 files looked at have a few values above 255 (up to 260), which are clipped",
    )
    assert lowest(paths[1], decide(paths, ReadOptions(intensity_range=(0, 400)))) == pytest.approx(0.1)


def test_a_file_of_another_range_is_told_of_and_broken(tmp_path: Path) -> None:
    paths = sweeps(tmp_path, [200, 200, 200, 0.5], lambda n: RNG.uniform(0, 1 if n == 3 else 250, 300))
    reading = decide(paths)
    assert "1 of 4 files looked at do not lie in 0 … 255" in reading.told[0]
    with pytest.raises(SampleError, match=r"its intensity lies in .* that of the data set in 0 … 255 \(data.intensity"):
        read_cloud(paths[3], reading.options)
    assert lowest(paths[0], reading) < 0.1


@pytest.mark.parametrize(
    ("values", "name", "decided"),
    [
        (np.array([0.1, 0.5, 1.0000001]), "color", (0, 1)),
        (np.array([0, 3, 254]), "color", (0, 255)),
        (np.array([0, 300, 60000], np.uint16), "color", (0, 65535)),
        (np.array([0, 1, 1], np.uint8), "color", (0, 255)),
        (np.array([0, 0.4, 1]), "intensity", (0, 1)),
        (np.array([-100.0, -90, 5, 900]), "intensity", (-2048, 2047)),
        (np.linspace(-40, 20.5, 50), "intensity", (-40, 20.5)),  # decibels
        (np.linspace(-0.9, 0.9, 50), "color", (-1, 1)),
        (np.array([0.0, 0, 0]), "intensity", (0, 1)),
        (np.array([1.0, 1e6, 1e6]), "intensity", (0, 1e6)),
    ],
)
def test_ranges(values: np.ndarray, name: str, decided: tuple[float, float]) -> None:
    one = spread(values)
    assert one is not None
    assert decide_range(name, [one]) == decided
    assert disagreement(name, one, decided) is None


def test_a_dark_file_is_no_other_range() -> None:
    dark, bright = Spread(0, 200, 0, 190, False, "int"), Spread(0, 60000, 0, 50000, False, "int")
    assert decide_range("intensity", [dark, bright, bright]) == (0, 65535)
    assert disagreement("intensity", dark, (0, 65535)) is None
    assert disagreement("intensity", bright, (0, 255)) is not None


def test_colours_of_other_widths_are_found_in_the_worker(tmp_path: Path) -> None:
    for number, width in enumerate((4, 3, 2)):
        color = RNG.integers(0, 256, (200, width)).astype(np.uint8)
        np.savez(tmp_path / f"{number}.npz", points=RNG.normal(size=(200, 3)), color=color)
    reading = decide([str(path) for path in sorted(tmp_path.glob("*.npz"))])
    assert [read_cloud(tmp_path / f"{n}.npz", reading.options).attributes["color"].shape for n in (0, 1)] == [
        (200, 3)
    ] * 2
    with pytest.raises(SampleError, match=r"its color is uint8 \[200, 2\]: expected numbers \[200, 3 or 4\]"):
        read_cloud(tmp_path / "2.npz", reading.options)


def test_a_data_set_is_read_from_a_few_files_and_alike_every_time(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 20):
        np.save(tmp_path / f"{number:03d}.npy", table("xyz rgb l")[number : number + 80])
    paths = [str(path) for path in sorted(tmp_path.glob("*.npy"))]
    first, again = decide(paths), decide(paths)
    assert first == again
    assert (first.facts["files"], first.facts["of"]) == (MOST_FILES, MOST_FILES + 20)
    assert first.options.layouts == (expand("xyz rgb l"),)
    np.save(tmp_path / "odd.npy", table("xyz i rgb l"))
    with pytest.raises(SampleError, match=r"has 8 columns, other files of the data set 7 \(data.columns names them\)"):
        read_cloud(tmp_path / "odd.npy", first.options)
    np.save(tmp_path / "bare.npy", XYZ)
    assert len(read_cloud(tmp_path / "bare.npy", first.options)) == len(XYZ)  # three columns leave nothing open
    noise = np.hstack([XYZ, RNG.integers(0, 256, (400, 4))])
    for path in paths:
        np.save(path, noise)
    with pytest.raises(DataError, match=r"\.npy: has 7 columns .* \(data.columns=\[…\] says which\)"):
        decide(paths)
    named = ReadOptions(layouts=(expand("xyz i rgb"),), named=True)
    assert set(read_cloud(paths[0], decide(paths, named).options).attributes) == {"intensity", "color"}


def test_columns_left_out_are_told(tmp_path: Path) -> None:
    rows = "".join(f"{x} {y} {z} 1 2\n" for x, y, z in XYZ[:50])
    (tmp_path / "a.xyz").write_text("x y z gps_time echo\n" + rows)
    told = decide([str(tmp_path / "a.xyz")]).told
    assert told == (
        "columns left out, whose names mean nothing to us: gps_time (in 1 of 1 files), echo (in 1 of 1 files)",
    )


def test_arrays_are_known_by_their_usual_names_and_others_are_told(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "sem_label": LABEL[:, 0],
        "Reflectance": INTENSITY,
        "velocity": INTENSITY,
        "label": np.array([3]),
    }
    np.savez(tmp_path / "a.npz", Points=XYZ, **arrays)
    reading = decide([str(tmp_path / "a.npz")])
    assert reading.told == ("columns left out, whose names mean nothing to us: velocity (in 1 of 1 files)",)
    cloud = read_cloud(tmp_path / "a.npz", reading.options)
    assert cloud.labels["segment"].tolist() == LABEL[:, 0].tolist()  # a single label is that of the whole cloud
    assert list(cloud.attributes) == ["intensity"]


def test_a_rare_kind_of_file_is_looked_at(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number:03d}.npy") for number in range(600)]
    for path in paths:
        np.save(path, XYZ[:5])
    write_bins(tmp_path, 4, range(61, 62))
    assert decide([*paths, str(tmp_path / "000.bin")]).facts["bin_columns"] == 4


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"columns": ["x", "y", "zed"]}, r"no column 'zed'"),
        ({"columns": ["x", "y"]}, "z is missing: x, y, z belong together"),
        ({"columns": ["x", "y", "z", "r", "g"]}, "blue is missing"),
        ({"columns": ["x", "y", "z", "z"]}, "z stands twice"),
        ({"intensity_range": [3, 3]}, "expected .low, high. with low below high"),
    ],
)
def test_keys_are_checked(keys: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        PointDataConfig.model_validate(keys)


def test_what_was_decided_goes_with_the_encoder(tmp_path: Path) -> None:
    """And other data are read in the same way, or the user is warned."""
    for name, top in (("bytes", 250), ("shares", 1)):
        (tmp_path / name).mkdir()
        sweeps(tmp_path / name, [top] * 3, lambda n, top=top: RNG.uniform(0, top, 300))  # type: ignore[misc]
    config = ENCODERS.config("dgcnn").model_validate({"widths": [8, 8], "dim": 8})
    encoder = ENCODERS.build(config, PointInputConfig(num_points=64, attributes=("intensity",)))
    encoder.prepared = PointSource(PointDataConfig(root=str(tmp_path / "bytes"))).prepared
    assert description(encoder)["data"] == {"intensity_range": [0, 255]}
    save_encoder(encoder, tmp_path / "run")
    assert load_encoder(tmp_path / "run").prepared == {"intensity_range": [0, 255]}

    other = PointSource(PointDataConfig(root=str(tmp_path / "shares")))
    other.follow(encoder.prepared)
    with pytest.warns(UserWarning, match=r"trained on intensity in 0 … 255, and these data have it in 0 … 1"):
        assert other.reading.options.intensity_range == (0, 1)
    dark = tmp_path / "dark"
    dark.mkdir()
    sweeps(dark, [3] * 3, lambda n: RNG.integers(0, 3, 300).astype(np.float64))
    alike = PointSource(PointDataConfig(root=str(dark)))
    alike.follow({"intensity_range": [0, 65535]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert alike.reading.options.intensity_range == (0, 65535)  # what they are alone does not count

    told = json.loads((tmp_path / "run" / "encoder.json").read_text())
    (tmp_path / "run" / "encoder.json").write_text(json.dumps(told | {"data": {"intensity_range": "wide"}}))
    with pytest.raises(ValueError, match=r"encoder.json: data: expected \[lowest, highest\] by names"):
        load_encoder(tmp_path / "run")
