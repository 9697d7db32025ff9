"""The command line, one file per command. Nothing heavy is imported before the arguments are understood."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from st_ssl.core.config import Config

# Before torch is loaded: threads that wait for each other must sleep, not spin on the cores that decode (a fifth of the
# speed of training where workers share the cores).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

COMMANDS = {
    "pretrain": "pretrain an encoder, probe it and write the report",
    "prepare": "index, verify and pack videos and clouds, write planted ones",
    "probe": "measure what pretrained encoders learned",
    "study": "compare methods over seeds, with claims and a heat map",
    "finetune": "fine-tune pretrained encoders on a task",
    "predict": "say what videos and clouds show, by a fine-tuned network",
    "convert": "bring published weights in, take encoders out",
    "extract": "write the features of a whole data set",
    "report": "write the HTML page of a run",
    "benchmark": "measure speed as ratios on this machine",
    "methods": "list the pretraining methods, with their papers",
    "configs": "list the configurations that come with it, copy one to change",
    "doctor": "look at this machine: what works, what is missing, and the remedy",
}


EXIT_PREEMPTED = 75
"""Exit code of a run that was told to stop and saved first: the same command goes on from there (EX_TEMPFAIL)."""

TRACEBACK = "ST_SSL_TRACEBACK"
"""Where this variable of the environment is 1, messages on errors have their traceback before them."""


def main() -> int:
    """``st-ssl <command> …``: the same as ``python tools/<command>.py …``."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        width = max(map(len, COMMANDS))
        print("usage: st-ssl <command> [arguments]\n", *(f"  {n:{width}}  {t}" for n, t in COMMANDS.items()), sep="\n")
        if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
            return 0
        from st_ssl.core.errors import nearest

        print(f"\nno command {sys.argv[1]!r}{nearest(sys.argv[1], COMMANDS)}", file=sys.stderr)
        return 2
    command = sys.argv[1]
    sys.argv = [f"st-ssl {command}", *sys.argv[2:]]
    return run(command)


def run(command: str) -> int:
    """One of ``COMMANDS`` with the arguments of this process; returns its exit code."""
    return guarded(importlib.import_module(f"st_ssl.cli.{command}").main)


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest choice or option. Its help is ``text``, the docstring of a command: the
    first paragraph stands above the arguments, the rest below them as it is."""

    def __init__(self, text: str | None = None, **settings: Any) -> None:
        above, _, below = (text or "").partition("\n\n")
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(description=above, epilog=below, formatter_class=form, **settings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            from st_ssl.core.errors import nearest

            error.message += nearest(str(value), map(str, action.choices or ()))
            raise

    def parse(self) -> argparse.Namespace:
        """The arguments, of which positional ones may stand behind options. Not for a parser with sub-commands."""
        arguments, unknown = self.parse_known_intermixed_args()
        if unknown:
            self.refuse(unknown)
        return arguments

    def parse_step(self, steps: Any) -> tuple[argparse.Namespace, Parser]:
        """The arguments of a parser with sub-commands, those that ``add_subparsers`` gave, and the parser of the one
        that was called. Its ``overrides``, if it has any, may stand behind options, where they have a "=" in them."""
        arguments, rest = self.parse_known_args()
        step: Parser = steps.choices[getattr(arguments, steps.dest)]
        takes = "overrides" in arguments
        if unknown := [text for text in rest if not takes or text.startswith("-") or "=" not in text]:
            step.refuse(unknown)
        if takes:
            arguments.overrides += rest
        return arguments, step

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End with a message on arguments that it does not know."""
        from st_ssl.core.errors import nearest

        options = [text for action in self._actions for text in action.option_strings]
        name = unknown[0].partition("=")[0]
        what = "option" if name.startswith("-") else "argument"
        self.error(f"unknown {what} {name}{nearest(name, options)}")


def configured(
    model: type[Config], overrides: Sequence[str], values: Mapping[str, Any], options: Mapping[str, str] | None = None
) -> Any:
    """An instance of ``model`` of ``values``, with ``overrides`` laid on them. Where a value is a mistake, the error
    quotes its override, or what ``options`` has for its key: the option that set it."""
    from st_ssl.core.config import Place, parse_override, set_key, validate

    place = Place(Path("command line"))
    place.overrides = {(key,): text for key, text in (options or {}).items()}
    values = dict(values)
    for text in overrides:
        key, value = parse_override(text)
        place.overrides[key] = text
        set_key(values, key, value)
    return validate(model, values, place)


def split_runs(given: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Folders, and what sets keys: a text with a "=" in it that is no place."""
    overrides = [text for text in given if "=" in text and not Path(text).exists()]
    return [Path(text) for text in given if text not in overrides], overrides


def progress_bar(stack: ExitStack, name: str, unit: str, enabled: bool) -> Callable[[int, int, str], None]:
    """What shows how many of all are done, and a status, on a bar that comes with the first call and goes with the
    last one, where all are done, or with ``stack``."""
    from st_ssl.engine.console import RunProgress

    bars: list[RunProgress] = []

    def show(done: int, total: int, status: str) -> None:
        if not bars:  # how many there are is known now
            bars.append(stack.enter_context(RunProgress(name, total, done, enabled, unit)))
        bars[0].update(done, status)
        if done == total:
            bars.pop().stop()

    return show


def config_file(given: Path) -> Path:
    """The file that CONFIG means. Where that is one that comes with st_ssl, stderr says so; where there is none, it is
    a ``ConfigError``."""
    from st_ssl.cli.recipes import find_recipe

    file = find_recipe(given)
    theirs = file not in (given, Path(f"{given}.yaml"))
    if theirs and os.environ.get("RANK", "0") == "0":  # of several processes one says it
        print(f"{given} is not here: this is {file}, which comes with st_ssl", file=sys.stderr)
    return file


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command and turn what a user can mend into a message and an exit code: 2 for a mistake in the call or the
    configuration, 1 for anything else that stopped it, 75 for a run that saved itself when told to stop. With
    ``ST_SSL_TRACEBACK=1`` the traceback comes before the message."""
    from st_ssl.core.errors import ConfigError, UserError, refusal, shown

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a locale without ± is no reason to lose a table
    try:
        try:
            with _warnings_as_text():
                return command() or 0
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except UserError as error:
        _trace(error)
        print(f"error: {shown(str(error), _LINES)}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BaseException as error:
        if type(error).__name__ == "Preempted":  # by name: its module is heavy, and only a run can raise it
            print(f"{shown(str(error), _LINES)}; the same command goes on from there", file=sys.stderr)
            return EXIT_PREEMPTED
        told = refusal(error) or _not_installed(error)
        if told is None or not isinstance(error, Exception):
            raise
        _trace(error)
        print(f"error: {shown(told, _LINES)} ({TRACEBACK}=1 shows where)", file=sys.stderr)
        return 1


_LINES = "\n\t"


@contextmanager
def _warnings_as_text() -> Iterator[None]:
    """Warnings in one line, without the line of our source that warns. They name files, whose names may hold codes that
    a terminal obeys."""
    import warnings

    from st_ssl.core.errors import shown

    usual = warnings.formatwarning

    warnings.formatwarning = lambda message, category, filename, lineno, line=None: usual(
        shown(str(message), _LINES), category, filename, lineno, ""
    )
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _not_installed(error: BaseException) -> str | None:
    """Which of the packages that st_ssl needs is not there, and what installs it; None for any other error, such as a
    part that one lacks, or a mistake of ours."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    from st_ssl.core.packages import not_installed

    return not_installed(error.name.partition(".")[0]) or None


def _trace(error: BaseException) -> None:
    """The traceback, for those who ask for it: what looks like the machine's refusal may be our own mistake."""
    if os.environ.get(TRACEBACK) == "1":
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)  # doctor runs on any Python
