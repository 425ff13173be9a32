"""Handlers that worker processes and interpreters import; a module of its own, since they import it whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asyncpc import RetryLater, consumer, feed


@consumer(concurrency=2, run_in="process")
def square(n: int) -> int:
    return n * n


@consumer(concurrency=2, run_in="process")
def where(n: int) -> tuple[int, int]:
    return n, os.getpid()


@consumer(run_in="process")
def words(line: str) -> Iterator[str]:
    yield from line.split()


@consumer(concurrency=2, run_in="process")
def kill_once(job: tuple[int, str]) -> int:
    """Kills its own process for item 7, the first time."""
    n, folder = job
    if n == 7 and not Path(folder, "killed").exists():
        Path(folder, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


@consumer(run_in="process", on_error="skip")
def kill_always(n: int) -> int:
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def mixed(item: Any) -> Any:
    """Grows a list, doubles all else, and refuses every seventh number."""
    if isinstance(item, list):
        item.append(0)
        return item
    if isinstance(item, int) and item % 7 == 3:
        raise ValueError(item)
    return 2 * item


@consumer(concurrency=2, run_in="process")
def noted(job: tuple[int, str]) -> int:
    """Notes each call in a file, and the first that is given 150 kills its process."""
    n, folder = job
    with open(Path(folder, "calls"), "a") as file:
        file.write(f"{n}\n")
    if n == 150 and not Path(folder, "killed").exists():
        Path(folder, "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return n


@consumer(run_in="process")
def announce(path: str) -> None:
    """Says its process, then works for ever."""
    Path(path + ".new").write_text(str(os.getpid()))
    Path(path + ".new").rename(path)
    while True:
        time.sleep(1)  # what is tested is that the process is ended in the middle of it


@consumer(run_in="process")
def stuck_for_a_path(item: int | str) -> int:
    """Works for ever with a path."""
    if isinstance(item, str):
        announce.__wrapped__(item)
    return int(item)


@consumer(run_in="process")
def stuck_once(path: str) -> str:
    """Works for ever, the first time."""
    if not Path(path).exists():
        announce.__wrapped__(path)
    return path


@consumer(run_in="process", timeout=0.5, on_error="skip")
def forks(path: str) -> None:
    """Starts a process of its own, which goes on, and works for ever itself, unless there is no path."""
    if path and (helper := os.fork()):
        Path(path + ".new").write_text(str(helper))
        Path(path + ".new").rename(path)
    while path:
        time.sleep(1)  # what is tested is that this process is ended, and not the other one


@consumer(run_in="process", timeout=0.2, on_error="skip")
def too_slow(n: int) -> int:
    while n == 1:
        time.sleep(1)  # longer than its timeout: the process is ended in the middle of it
    return n


class Unreadable(Exception):
    """Can be pickled, but not read back."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__("unreadable")


class Vanishing(Exception):
    """Can be pickled, but comes back as nothing."""

    def __reduce__(self) -> Any:
        return type(None), ()


class Explosive:
    """Cannot even be tried to pickle."""

    def __reduce__(self) -> Any:
        raise KeyboardInterrupt


@consumer(run_in="process")
def feeds(n: int) -> None:
    feed(n)


@consumer(run_in="process")
def fails(how: str) -> Any:
    if how == "plainly":
        raise ValueError("over there, at redis://me:hunter2@host")
    if how == "unreadably":
        raise Unreadable(1, 2)
    if how == "as nothing":
        raise Vanishing
    return lambda: None


def patient(path: str) -> str:
    """Asks for patience the first time."""
    with open(path, "a+") as file:
        file.seek(0)
        if not file.read():
            file.write("once")
            raise RetryLater(0.01)
    return path


def two_then_fails(n: int) -> Iterator[int]:
    """Gives two values, then raises."""
    yield n
    yield n + 1
    raise ValueError(n)


def double(n: int) -> int:
    return 2 * n


def raises(n: int) -> int:
    raise ValueError(n)


def interpreter_of(n: int) -> int:
    """Which interpreter it is called in, on Pythons that have several."""
    import _interpreters  # type: ignore[import-not-found]  # CPython 3.13 and later

    return int(_interpreters.get_current()[0])


def takes_long(path: str) -> str:
    """Says that it has begun, unless ``path`` is empty; then it works for a second."""
    if path:
        Path(path).touch()
        time.sleep(1)  # what is tested is what becomes of a call that goes on
    return path


def feeds_plainly(n: int) -> None:
    feed(n)


def gives_a_function(n: int) -> Any:
    return lambda: n
