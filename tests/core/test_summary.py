from __future__ import annotations

from st_ssl.core.summary import plus_minus


def test_a_single_value_has_no_spread() -> None:
    assert plus_minus({"mean": 12.34, "std": 0.0, "values": [12.34]}) == "12.3"
    assert plus_minus({"mean": 12.34, "std": 0.52, "values": [12.0, 12.68]}) == "12.3 ± 0.5"
    assert plus_minus({"mean": 12.34, "std": 0.52}) == "12.3 ± 0.5"
    assert plus_minus({"mean": 12.34, "std": 0.0, "interval": 1.26, "values": [12.34]}) == "12.3 ± 1.3"
    assert plus_minus({"mean": None, "std": None, "values": [None]}) == "–"
