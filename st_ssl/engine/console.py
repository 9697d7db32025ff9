"""What a run tells while it goes: a progress bar for people, metrics.jsonl for programs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from st_ssl.core.errors import shown
from st_ssl.core.files import replace_text
from st_ssl.engine.run_files import whole_rows


class PlainConsole(Console):
    """A console that shows text as it is: what looks like markup or an emoji's code in a name stays that, and control
    characters are made visible."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(shown(text, keep="\n\t"), **settings)


console = PlainConsole(stderr=True, highlight=False, soft_wrap=True)


class MetricsFile:
    """``metrics.jsonl``: one line per logged step. Resuming cuts off what came after the step resumed from."""

    def __init__(self, file: Path, resume_step: int) -> None:
        kept = [row for row in whole_rows(file, "step") if row["step"] <= resume_step]
        replace_text(file, "".join(f"{json.dumps(row)}\n" for row in kept), alone=True)
        self._out: TextIO = file.open("a")

    def write(self, row: dict[str, Any]) -> None:
        """Append one row; floats keep all their digits."""
        self._out.write(json.dumps(row) + "\n")
        self._out.flush()

    def close(self, well: bool = True) -> None:
        self._out.close()


class RunProgress:
    """A bar with how things stand and the time left; plain lines where nobody watches. ``unit``: what is counted."""

    def __init__(self, name: str, total: int, done: int, enabled: bool, unit: str = "step") -> None:
        self._live = enabled and console.is_terminal
        self._lines = enabled and not console.is_terminal
        self._last = 0.0
        self._started = time.monotonic()
        self._done_before, self._total, self._name, self._unit = done, total, shown(name), unit
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task(self._name, total=total, completed=done, status="")

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """No more is told."""
        self._bar.stop()

    def update(self, step: int, status: str) -> None:
        """``step`` out of all are done; ``status`` is what else there is to tell."""
        self._bar.update(self._task, completed=step, status=status)
        now = time.monotonic()
        if self._lines and (now - self._last > 10 or step == self._total):
            self._last = now
            told = f"{self._name}: {self._unit} {step}/{self._total}, {status}"
            if step > self._done_before:  # before that nothing is known of how long one takes
                told += f", {(now - self._started) / (step - self._done_before) * (self._total - step):.0f} s left"
            print(told, file=sys.stderr, flush=True)
