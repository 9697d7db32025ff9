"""From names to classes. A class registers itself by decorator; the folder it lives in is searched on first use, so
adding a method, an encoder or a data set edits no list."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar, cast, get_args, get_origin

from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one ``kind`` by name; each is built from its own configuration model, as ``cls(config, ...)``.

    ``package`` is the package whose modules (and sub-packages) are imported to find them.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type[T]] = {}
        self._configs: dict[str, type[Config]] = {}
        self._searched = False

    def register(self, config: type[Config]) -> Callable[[type[T]], type[T]]:
        """Class decorator. ``config`` must have a field ``name`` of type ``Literal["the name"]`` with that default."""
        annotation = config.model_fields["name"].annotation
        assert get_origin(annotation) is Literal, f"{config.__name__}.name must be a Literal"
        (name,) = get_args(annotation)

        def decorate(cls: type[T]) -> type[T]:
            known = self._classes.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise ConfigError(f"{self.kind} {name!r} is registered twice: {known.__module__} and {cls.__module__}")
            self._classes[name] = cls
            self._configs[name] = config
            return cls

        return decorate

    def _search(self) -> None:
        if self._searched:
            return
        self._searched = True
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{self.package}."):
            importlib.import_module(module.name)

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._search()
        return sorted(self._classes)

    def check(self, name: str) -> str:
        """``name`` if it is registered, else ``ConfigError`` with the nearest name."""
        if name not in self.names():
            raise ConfigError(f"no {self.kind} named {name!r}{nearest(name, self.names())} (there are: {self.names()})")
        return name

    def config(self, name: str) -> type[Config]:
        """The configuration model of ``name``."""
        return self._configs[self.check(name)]

    def registered(self, name: str) -> type[T]:
        """The class of ``name``."""
        return self._classes[self.check(name)]

    def build(self, config: Config, *args: Any, **kwargs: Any) -> T:
        """Build the class that ``config`` (an instance of a registered model) names."""
        cls = self._classes[self.check(cast(Any, config).name)]
        return cast(Callable[..., T], cls)(config, *args, **kwargs)

    def union(self, which: Callable[[type[T]], bool] = lambda cls: True) -> Any:
        """The type of a configuration field that takes any registered model (of those ``which`` has), told apart by
        its ``name``."""
        models = tuple(self._configs[name] for name in self.names() if which(self._classes[name]))
        if len(models) == 1:
            return models[0]
        return Annotated[_union(models), Field(discriminator="name")]


def _union(models: tuple[type[Config], ...]) -> Any:
    union: Any = models[0]
    for model in models[1:]:
        union = union | model
    return union
