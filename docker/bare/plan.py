"""From a Dockerfile to the steps of one target: every variable filled in, every path absolute, nothing done yet."""

from __future__ import annotations

import posixpath
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from dockerfile import Dockerfile, Instruction, Stage
from root import PATH
from variables import expand, words

SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True)
class Settings:
    """What an image says about how it is run; each stage begins with its base's."""

    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": PATH})
    user: str = "root"
    workdir: str = "/"
    shell: tuple[str, ...] = SHELL
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = "SIGTERM"


@dataclass(frozen=True)
class Run:
    """Run ``command`` as ``user`` in ``workdir``; ``caches`` are folders inside that are kept from build to build,
    ``bound`` maps a path inside to one of the context."""

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    user: str
    workdir: str
    network: bool = True
    caches: tuple[str, ...] = ()
    bound: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Copy:
    """Copy from the context, or from stage ``source``; ``owner`` is a user and maybe ``:group``, ``mode`` bits."""

    paths: tuple[str, ...]
    target: str
    source: str | None = None
    owner: str = "0:0"
    mode: int | None = None


@dataclass(frozen=True)
class MakeFolder:
    """Make the folder that WORKDIR names, unless it is there."""

    path: str


@dataclass(frozen=True)
class Step:
    """One thing to do, and the instruction that asks for it."""

    instruction: Instruction
    action: Run | Copy | MakeFolder


@dataclass(frozen=True)
class PlannedStage:
    """The steps of a stage over ``base`` (a stage, or an image where ``external``), and how the outcome is run."""

    name: str
    base: str
    external: bool
    start: Instruction
    steps: tuple[Step, ...]
    settings: Settings


def plan(recipe: Dockerfile, target: str | None, build_args: Mapping[str, str]) -> list[PlannedStage]:
    """The stages that ``target`` (the last where None) needs, itself last, in the order of the file.

    Raises ``DockerfileError`` with file and line for what cannot be done.
    """
    aim = recipe.stage(target) if target is not None else recipe.stages[-1]
    planned: dict[str, PlannedStage] = {}
    for stage in recipe.stages[: recipe.stages.index(aim) + 1]:
        external = stage.base not in planned
        start = Settings() if external else replace(planned[stage.base].settings)
        planned[stage.name] = _Planner(recipe, stage, start, build_args).plan(external)
        for step in planned[stage.name].steps:
            source = step.action.source if isinstance(step.action, Copy) else None
            if source is not None and (source not in planned or source == stage.name):
                raise step.instruction.error(
                    f"--from={source}: no stage before this one; there are {', '.join(planned)}"
                )
    needed = set(_needed(planned, aim.name))
    return [stage for name, stage in planned.items() if name in needed]


def _needed(planned: Mapping[str, PlannedStage], name: str) -> Iterator[str]:
    yield name
    stage = planned[name]
    if not stage.external:
        yield from _needed(planned, stage.base)
    for step in stage.steps:
        if isinstance(step.action, Copy) and step.action.source:
            yield from _needed(planned, step.action.source)


class _Planner:
    """Goes through one stage; ``settings`` and ``arguments`` are what holds at the current instruction."""

    def __init__(self, recipe: Dockerfile, stage: Stage, settings: Settings, build_args: Mapping[str, str]) -> None:
        self.recipe, self.stage, self.settings, self.build_args = recipe, stage, settings, build_args
        self.arguments: dict[str, str] = {}
        self.steps: list[Step] = []

    def plan(self, external: bool) -> PlannedStage:
        for one in self.stage.body:
            try:
                action = getattr(self, f"_{one.name.lower()}")(one)
            except ValueError as error:
                raise (error if type(error) is not ValueError else one.error(str(error))) from None
            if action is not None:
                self.steps.append(Step(one, action))
        return PlannedStage(
            self.stage.name, self.stage.base, external, self.stage.start, tuple(self.steps), self.settings
        )

    @property
    def values(self) -> dict[str, str]:
        return self.arguments | dict(self.settings.env)

    def _set(self, **changes: object) -> None:
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]

    def _arg(self, one: Instruction) -> None:
        for word in words(one.text, self.values):
            name, equals, default = word.partition("=")
            value = self.build_args.get(name, default if equals else self.recipe.arguments.get(name))
            if value is not None:
                self.arguments[name] = value

    def _pairs(self, one: Instruction) -> dict[str, str]:
        found = words(one.text, self.values)
        if "=" not in found[0]:
            raise one.error(f"{found[0]}: expected NAME=VALUE")
        wrong = next((word for word in found if "=" not in word), None)
        if wrong is not None:
            raise one.error(f"{wrong}: expected NAME=VALUE; a value with blanks needs quotes")
        return dict(word.split("=", 1) for word in found)

    def _env(self, one: Instruction) -> None:
        self._set(env=dict(self.settings.env) | self._pairs(one))

    def _label(self, one: Instruction) -> None:
        self._set(labels=dict(self.settings.labels) | self._pairs(one))

    def _user(self, one: Instruction) -> None:
        self._set(user=expand(one.text, self.values))

    def _stopsignal(self, one: Instruction) -> None:
        text = expand(one.text, self.values).upper().removeprefix("SIG")
        found = [number for number in signal.Signals if text in (str(int(number)), number.name.removeprefix("SIG"))]
        if not found:
            raise one.error(f"{one.text}: expected the name or number of a signal, such as SIGTERM")
        self._set(stop_signal=found[0].name)

    def _shell(self, one: Instruction) -> None:
        strings = one.strings()
        if not strings:
            raise one.error(f'{one.text}: expected a list of strings, such as ["/bin/bash", "-c"]')
        self._set(shell=tuple(strings))

    def _entrypoint(self, one: Instruction) -> None:
        self._set(entrypoint=self._command(one), command=())

    def _cmd(self, one: Instruction) -> None:
        self._set(command=self._command(one))

    def _command(self, one: Instruction) -> tuple[str, ...]:
        strings = one.strings()
        return tuple(strings) if strings is not None else (*self.settings.shell, one.text)

    def _workdir(self, one: Instruction) -> MakeFolder:
        self._set(workdir=posixpath.normpath(posixpath.join(self.settings.workdir, expand(one.text, self.values))))
        return MakeFolder(self.settings.workdir)

    def _run(self, one: Instruction) -> Run:
        caches, bound = [], []
        for options in (value for name, value in one.flags if name == "mount"):
            mount = dict(part.partition("=")[::2] for part in options.split(","))
            kind = mount.get("type", "bind")
            target = mount.get("target") or mount.get("dst") or mount.get("destination")
            if kind not in ("cache", "bind") or not target or "from" in mount:
                raise one.error(f"--mount={options}: expected type=cache or type=bind, a target, and no from")
            target = posixpath.join(self.settings.workdir, expand(target, self.values))
            if kind == "cache":
                caches.append(target)
            else:
                bound.append((target, mount.get("source") or mount.get("src") or "."))
        network = one.flag("network") or "default"
        if network not in ("default", "none", "host"):
            raise one.error(f"--network={network}: expected default, none or host")
        env, where = self.values, self.settings
        return Run(
            self._command(one),
            tuple(sorted(env.items())),
            where.user,
            where.workdir,
            network != "none",
            tuple(caches),
            tuple(bound),
        )

    def _copy(self, one: Instruction) -> Copy:
        listed = one.strings()
        parts = [expand(part, self.values) for part in listed] if listed else words(one.text, self.values)
        if len(parts) < 2:
            raise one.error(f"{one.text}: expected at least a source and a target")
        if len(parts) > 2 and not parts[-1].endswith("/") and posixpath.basename(parts[-1]) not in (".", ".."):
            raise one.error(f"{parts[-1]}: with several sources the target has to end with /")
        target = posixpath.join(self.settings.workdir, parts[-1])
        mode = one.flag("chmod")
        if mode is not None and not (mode.isdecimal() and set(mode) <= set("01234567")):
            raise one.error(f"--chmod={mode}: expected octal digits, such as 755")
        return Copy(
            tuple(parts[:-1]),
            target,
            one.flag("from"),
            expand(one.flag("chown") or "0:0", self.values),
            int(mode, 8) if mode else None,
        )
