from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args

import pytest
from pydantic import TypeAdapter

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.registry import Registry
from st_ssl.encoders.base import ENCODERS
from st_ssl.methods.base import METHODS


class RedConfig(Config):
    name: Literal["red"] = "red"
    shade: int = 1


class BlueConfig(Config):
    name: Literal["blue"] = "blue"


@pytest.fixture
def colours() -> Registry[object]:
    registry: Registry[object] = Registry("colour", "st_ssl.objectives")  # a package that registers nothing here

    @registry.register(RedConfig)
    class Red:
        def __init__(self, config: RedConfig, extra: int) -> None:
            self.total = config.shade + extra

    return registry


def test_builds_the_class_that_a_configuration_names(colours: Registry[object]) -> None:
    assert colours.names() == ["red"]
    assert colours.config("red") is RedConfig
    assert vars(colours.build(RedConfig(shade=3), 4)) == {"total": 7}


def test_unknown_name_names_the_nearest(colours: Registry[object]) -> None:
    with pytest.raises(ConfigError, match=r"no colour named 'rde'; did you mean 'red'\? \(there are: \['red'\]\)"):
        colours.check("rde")
    with pytest.raises(ConfigError, match="no colour named 'blue'"):
        colours.build(BlueConfig())


def test_a_name_belongs_to_one_class(colours: Registry[object]) -> None:
    with pytest.raises(ConfigError, match="colour 'red' is registered twice"):

        @colours.register(RedConfig)
        class Other:
            pass


def test_union_tells_members_apart_by_name(colours: Registry[object]) -> None:
    assert colours.union() is RedConfig

    @colours.register(BlueConfig)
    class Blue:
        pass

    read = TypeAdapter(colours.union()).validate_python
    assert isinstance(read({"name": "blue"}), BlueConfig)
    assert read({"name": "red", "shade": 5}) == RedConfig(shade=5)


def test_modules_of_the_package_are_found_on_first_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "found_here" / "deeper"
    inner.mkdir(parents=True)
    (tmp_path / "found_here" / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "late.py").write_text(
        "from tests.core.test_registry import LATE, BlueConfig\n\n\n@LATE.register(BlueConfig)\nclass Late:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "found_here" not in sys.modules
    assert LATE.names() == ["blue"]
    for name in [n for n in sys.modules if n.split(".")[0] == "found_here"]:
        monkeypatch.delitem(sys.modules, name)


LATE: Registry[object] = Registry("late thing", "found_here")


@pytest.mark.parametrize("registry", [ENCODERS, METHODS], ids=lambda r: r.kind)
def test_configurations_agree_with_the_names_they_are_registered_under(registry: Registry[object]) -> None:
    assert len(registry.names()) >= 2
    for name in registry.names():
        field = registry.config(name).model_fields["name"]
        assert field.default == name
        assert get_args(field.annotation) == (name,)
