from __future__ import annotations

from st_ssl.core.summary import decimals, extent, plus_minus


def test_a_single_value_has_no_spread() -> None:
    assert plus_minus({"mean": 12.34, "std": 0.0, "values": [12.34]}) == "12.3"
    assert plus_minus({"mean": 12.34, "std": 0.52, "values": [12.0, 12.68]}) == "12.3 ± 0.5"
    assert plus_minus({"mean": 12.34, "std": 0.52}) == "12.3 ± 0.5"
    assert plus_minus({"mean": 12.34, "std": 0.0, "interval": 1.26, "values": [12.34]}) == "12.3 ± 1.3"
    assert plus_minus({"mean": 0.12345, "std": 0.0067}, 3) == "0.123 ± 0.007"
    assert plus_minus({"mean": None, "std": None, "values": [None]}) == "–"


def test_values_are_told_as_numbers() -> None:
    assert [decimals(key) for key in ("knn", "R@1", "knn_r2", "ridge_rank")] == [1, 1, 3, 3]
    assert [extent({"classes": 8}), extent({"range": [0.1234567, 3500.0]})] == ["8 classes", "0.1235 to 3500"]
