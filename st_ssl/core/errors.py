"""Errors that a user can mend. The command line prints them without a traceback; everything else is our own fault."""

from __future__ import annotations

import difflib
import errno
import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something the user can mend: the message names the file, line or key, and what was expected."""


class ConfigError(UserError):
    """A key or value of the configuration that cannot be used."""


class DataError(UserError):
    """A data set that cannot be used as a whole."""


class OutputError(ConfigError, DataError):
    """A place for results that cannot be written to, or holds others: the call has to name another one."""


_LONGEST = 1000  # characters of a reason


class SampleError(UserError):
    """One sample that cannot be used: it is replaced, counted and listed, and the run goes on."""

    def __init__(self, path: str, reason: str) -> None:
        reason = reason if len(reason) <= _LONGEST else f"{reason[: _LONGEST - 1]}…"  # it may quote a damaged file
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, str]]:
        return (SampleError, (self.path, self.reason))  # survives the trip from a worker process


class UnfitError(ValueError):
    """What is wrong with the content of a sample; ``sample_fault`` makes a ``SampleError`` of it, as it stands."""


@contextmanager
def sample_fault(path: str) -> Iterator[None]:
    """Whatever goes wrong with the sample at ``path`` inside is a ``SampleError`` that names it. Errors that are not
    the sample's stay what they are: other errors of the user, and what the machine refuses (files, disk)."""
    try:
        yield
    except (SampleError, MissingDependencyError, MissingLibraryError, ConfigError, DataError, WorkerError):
        raise
    except UnfitError as error:
        raise SampleError(path, str(error)) from error
    except MemoryError as error:
        raise SampleError(path, "does not fit into memory") from error
    except Exception as error:
        if isinstance(error, OSError) and refusal(error) is not None and error.errno != errno.EACCES:
            raise
        text = str(error).strip().partition("\n")[0][:200]
        kind = "" if type(error) is ValueError and text else f"{type(error).__name__}{': ' if text else ''}"
        raise SampleError(path, f"cannot be used: {kind}{text}") from error


class MissingDependencyError(UserError):
    """An optional package that is needed for what was asked; the message says which extra installs it, and ``also``
    what else has to be done."""

    def __init__(self, package: str, extra: str, needed_for: str, also: str = "") -> None:
        super().__init__(f'{needed_for} needs the package {package}: pip install "st_ssl[{extra}]"{also}')
        self._parts = (package, extra, needed_for, also)

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str, str]]:
        return (MissingDependencyError, self._parts)  # survives the trip from a worker process


class MissingLibraryError(UserError):
    """A library of the system that is needed for what was asked; the message says how to get it."""


class WorkerError(UserError, RuntimeError):
    """Processes that work for this one end again and again: they are killed for want of memory, most often."""


_REFUSALS = {
    errno.ENOSPC: "",
    errno.EDQUOT: "",
    errno.EROFS: "",
    errno.EACCES: "",
    errno.ENOMEM: "",
    errno.EMFILE: ": ulimit -n 4096, or fewer workers",
    errno.ENFILE: "",
}
_MEMORY = "; less is needed with a smaller batch or fewer workers"
_PROCESSES = (os.strerror(errno.EAGAIN), "can't start new thread")


def refusal(error: BaseException) -> str | None:
    """What the machine refused, in one line: room, permission, memory, files or processes. None for any other error,
    which is then our own fault."""
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}{_REFUSALS[error.errno]}"
    # As fork says it, and in threads of Python and of torch; a full pipe means EAGAIN in other words.
    said = getattr(error, "strerror", None) or text
    if isinstance(error, (BlockingIOError, RuntimeError)) and said in _PROCESSES:
        return f"no more processes or threads may be started ({said}): a higher ulimit -u or pids.max, or fewer workers"
    if isinstance(error, MemoryError) or "can't allocate memory" in text or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory{f' ({text})' if text else ''}{_MEMORY}"
    return None


_WORD = 200  # characters of a name that are compared: the time grows with their square


def shown(text: str, keep: str = "") -> str:
    """``text`` as a terminal may get it: control characters (but those to ``keep``), marks that turn the direction of
    writing and bytes of file names that are no text stand there as Python writes them, ``\\x1b`` say."""
    return "".join(_visible(mark) if mark not in keep else mark for mark in text)


def _visible(mark: str) -> str:
    hidden = unicodedata.category(mark) in ("Cc", "Cs", "Zl", "Zp") or mark in _TURNS
    return mark.encode("unicode_escape").decode() if hidden else mark


_TURNS = frozenset(map(chr, (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))))


def nearest(name: str, options: Iterable[str]) -> str:
    """A sentence fragment that names the closest of ``options``: ``"; did you mean 'x'?"``, or ``""``."""
    match = difflib.get_close_matches(name[:_WORD], list(options), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""
