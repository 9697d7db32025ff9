"""Carry out planned stages: each step in a layer of its own, kept under a name that says all it was made from.

Not in that name: what RUN steps are given of this machine, the binds and the variables that ``root.PASSED`` lists.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import posixpath
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import layers
from ignore import Ignore
from plan import Copy, MakeFolder, PlannedStage, Run, Step
from root import Root, RootError, claim, discard

IMAGE = re.compile(r"(?:docker\.io/)?(?:library/)?debian:([a-z]+)(?:-slim)?(?:@sha256:[0-9a-f]{64})?")
LAST_LINES = 30
CONTAINER = "container-"  # how the folders of those begin that run


@dataclass(frozen=True)
class Built:
    """A stage that was built: its root, the name of its last layer, and its layers' own bytes."""

    root: Root
    key: str
    size: int


@dataclass
class Builder:
    """Builds stages of one context in ``work``, telling each step; ``log`` has all that they print."""

    context: Path
    dockerfile: Path
    work: Path
    binds: Mapping[str | Path, str] = field(default_factory=dict)
    reuse: bool = True

    def __post_init__(self) -> None:
        self.ignore = Ignore.of(self.context, self.dockerfile)
        self.built: dict[str, Built] = {}
        self.used: set[str] = set()
        self.done = 0

    @property
    def log(self) -> Path:
        return self.work / "build.log"

    @contextmanager
    def build(self, stages: list[PlannedStage], prune: bool = False) -> Iterator[Built]:
        """Build all; yields the last, whose layers nobody removes within the block.

        With ``prune``, the layers that this build did not use are removed after it. Raises ``DockerfileError`` with the
        line of the step that failed.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            with locked(self.work / "lock", fcntl.LOCK_EX):  # two builds would make, or remove, the same layers
                built = self._build(stages)
                if prune:
                    self._prune()
                held.enter_context(locked(self._in_use, fcntl.LOCK_SH))
            yield built

    def _build(self, stages: list[PlannedStage]) -> Built:
        self.log.write_text("")
        total = sum(len(stage.steps) for stage in stages)
        for stage in stages:
            base = self._image(stage) if stage.external else self.built[stage.base]
            self._tell(f"stage {stage.name} from {stage.base}")
            for step in stage.steps:
                base = self._step(step, base, f"step {self.done + 1}/{total}")
                self.done += 1
            self.built[stage.name] = base
        return self.built[stages[-1].name]

    def _prune(self) -> None:
        """Remove the layers that this build did not use, and what killed containers left."""
        old = [folder for folder in self._layers.iterdir() if folder.name not in self.used]
        with locked(self._in_use, fcntl.LOCK_EX):
            for folder in (*old, *self.work.glob(f"{CONTAINER}*")):
                discard(folder)
        self._tell(f"removed {len(old)} layers of earlier builds")

    @property
    def _layers(self) -> Path:
        return self.work / "layers"

    @property
    def _in_use(self) -> Path:
        return self.work / "in-use"

    def _tell(self, text: str) -> None:
        print(text, flush=True)
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"=== {text}\n")

    def _image(self, stage: PlannedStage) -> Built:
        match = IMAGE.fullmatch(stage.base)
        if not match:
            raise stage.start.error(
                f"{stage.base}: only debian:SUITE and debian:SUITE-slim can be made without an engine"
            )
        started = time.monotonic()
        root = Root.make(self.work / f"debian-{match[1]}", suite=match[1])
        self._tell(f"{stage.base}: made by debootstrap --variant=minbase ({time.monotonic() - started:.0f} s)")
        return Built(root, _digest((root.folder / "recipe.json").read_text()), disk_use(root.tree))

    def _step(self, step: Step, base: Built, number: str) -> Built:
        """The layer of a step over ``base``: the one that is there, if it was made from the very same, or a new one."""
        self._tell(f"{number} {self.dockerfile.name}:{step.instruction.line} {step.instruction}")
        action = step.action
        if isinstance(action, MakeFolder) and base.root.find(base.root.resolve(action.path)) is not None:
            return base
        items = self._items(step) if isinstance(action, Copy) else {}
        key = _digest(base.key, repr(action), *self._made_from(action, items))
        self.used.add(key)
        layer = base.root.layer(self._layers / key)
        note = layer.folder / "step.json"
        if self.reuse and note.is_file():
            noted = json.loads(note.read_text())
            self._tell(f"    made before ({noted['seconds']:.0f} s, {megabytes(noted['bytes'])})")
            return Built(layer, key, base.size + noted["bytes"])
        if layer.folder.exists():
            with locked(self._in_use, fcntl.LOCK_EX):
                discard(layer.folder)
        claim(layer.folder)
        layer.tree.mkdir()
        started = time.monotonic()
        try:
            self._carry_out(step, layer, items)
        except BaseException as error:
            discard(layer.folder)  # also where it was interrupted: half a layer is of no use
            if isinstance(error, (RootError, OSError)):
                raise step.instruction.error(str(error)) from error
            raise
        seconds, size = time.monotonic() - started, disk_use(layer.tree)
        note.write_text(json.dumps({"step": str(step.instruction), "seconds": seconds, "bytes": size}))
        self._tell(f"    {seconds:.0f} s, {megabytes(size)}")
        return Built(layer, key, base.size + size)

    def _made_from(self, action: Run | Copy | MakeFolder, items: Mapping[str, dict[str, Path]]) -> list[str]:
        if isinstance(action, Run):
            return [contents(self._bound(source)) for _, source in action.bound]
        if isinstance(action, MakeFolder):
            return []
        if action.source is not None:
            return [self.built[action.source].key]
        return [
            contents({posixpath.join(top, name): path for top, files in items.items() for name, path in files.items()})
        ]

    def _items(self, step: Step) -> dict[str, dict[str, Path]]:
        """What a COPY copies; an error names the sources that are not there, or that .dockerignore leaves out."""
        action = step.action
        assert isinstance(action, Copy)
        items: dict[str, dict[str, Path]] = {}
        for path in action.paths:
            if action.source is not None:
                root = self.built[action.source].root
                files = layers.merged(root, root.resolve(path))
                found = {posixpath.basename(path): files} if files else {}
            else:
                found = layers.select(self._context_files(), path)
            if not found:
                where = f"stage {action.source}" if action.source else f"{self.context}, or .dockerignore leaves it out"
                raise step.instruction.error(f"{path}: not in {where}")
            items |= found
        return items

    def _context_files(self) -> dict[str, Path]:
        return self.ignore.files(self.context)

    def _bound(self, source: str) -> dict[str, Path]:
        return {
            name: path
            for files in layers.select(self._context_files(), source).values()
            for name, path in files.items()
        }

    def _carry_out(self, step: Step, layer: Root, items: Mapping[str, dict[str, Path]]) -> None:
        action = step.action
        if isinstance(action, MakeFolder):
            layers.make_folder(layer, layer.resolve(action.path))
        elif isinstance(action, Copy):
            account = layer.account(action.owner)
            layers.copy(layer, items, action.target, (account.uid, account.gid), action.mode, action.source is not None)
        else:
            self._run(step, action, layer)

    def _run(self, step: Step, action: Run, layer: Root) -> None:
        binds = dict(self.binds)
        for path in action.caches:
            kept = self.work / "caches" / _digest(path)
            kept.mkdir(parents=True, exist_ok=True)
            binds[kept] = path
        for path, source in action.bound:
            binds[self.context / source] = f"{path}:ro"
        with self.log.open("a", encoding="utf-8") as log:
            done = layer.run(
                action.command,
                cwd=action.workdir,
                env=dict(action.env),
                user=action.user,
                network=action.network,
                binds=binds,
                echo=log,
            )
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
            raise step.instruction.error(f"ended with {done.returncode}; {self.log} has all, its last lines:\n{tail}")


@contextmanager
def locked(file: Path, kind: int) -> Iterator[None]:
    """Within it, this process holds the lock; says so where it has to wait for another one."""
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for what else runs in {file.parent}: it holds {file.name}", flush=True)
            fcntl.flock(handle, kind)
        yield


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def contents(files: Mapping[str, Path]) -> str:
    """A digest of names, modes and contents."""
    total = hashlib.sha256()
    for name, path in sorted(files.items()):
        state = path.lstat()
        total.update(f"{name}\0{state.st_mode:o}\0".encode())
        if path.is_symlink():
            total.update(os.readlink(path).encode())
        elif path.is_file():
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def disk_use(tree: Path) -> int:
    """Bytes of all files of a tree, as an image counts them: also those that are links to another layer's."""
    return sum(Path(folder, name).lstat().st_size for folder, _, files in os.walk(tree) for name in files)


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
