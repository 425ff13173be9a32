"""What a call on a SQLite file gives when another process changes the queue between two of its statements."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from remote.sqlite_process import LEASE, Clock, Process, attempts, bodies

from asyncpc.remote.engines.sqlite import lane as sqlite_lane
from asyncpc.remote.engines.sqlite import queue as sqlite_queue
from asyncpc.remote.engines.sqlite.queue import QueueFile


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands still unless a test sets it."""
    clock = Clock()
    monkeypatch.setattr(sqlite_queue, "time", clock)
    return clock


def at_each_step(process: Process, step: int, call: Callable[[], Any], change: Callable[[], None]) -> tuple[Any, bool]:
    """What ``call`` gives if ``change()`` is made before its statement of that number; and whether there was one.

    None is made while the process has the turn to write, as nobody else could make one.
    """
    read, left, has_turn = process.file.reading(), step, False

    def count_down(statement: str) -> None:
        nonlocal left, has_turn
        if statement in ("BEGIN IMMEDIATE", "COMMIT"):
            has_turn = statement != "COMMIT"
        elif not has_turn:
            left -= 1
            if left == 0:
                change()

    read.set_trace_callback(count_down)
    try:
        return call(), left <= 0
    finally:
        read.set_trace_callback(None)


class Busy:
    """A queue that has messages in every state, some of them at two processes."""

    def __init__(self, path: Path, clock: Clock, stack: ExitStack) -> None:
        self.one, self.other = (stack.enter_context(closing(Process(path, clock=clock))) for _ in range(2))
        one, other = self.one, self.other
        one.put("later", delay=2 * LEASE)
        one.put("suspect", "given back", "dead")
        first = one.take()
        one.call(QueueFile.bury, [(first[2], b"{}")])
        one.call(QueueFile.release, first[:1], 0.0, True)
        one.call(QueueFile.release, first[1:2], 0.0, False)
        self.suspect = other.take(1)
        one.put("over 1", "over 2", "kept 1", "kept 2", "ready 1", "ready 2")
        other.take(3)
        clock.now += LEASE / 2
        self.kept = other.take(2)
        clock.now += LEASE / 2 + 1


LOOKS: dict[str, Callable[[Process], Any]] = {
    "depth": lambda process: tuple(process.call(QueueFile.depth)[:4]),
    "peek": lambda process: attempts(process.call(QueueFile.peek, 100)),
}

CHANGES: dict[str, Callable[[Busy], Any]] = {
    "take": lambda busy: busy.other.take(),
    "take one": lambda busy: busy.other.take(1),
    "release": lambda busy: busy.other.call(QueueFile.release, busy.kept, 0.0, False),
    "release a suspect": lambda busy: busy.other.call(QueueFile.release, busy.suspect, 0.0, False),
    "ack": lambda busy: busy.other.ack(busy.kept),
    "bury": lambda busy: busy.other.call(QueueFile.bury, [(busy.kept[0], b"{}")]),
    "requeue": lambda busy: busy.other.call(QueueFile.requeue, [1]),
    "purge": lambda busy: busy.other.call(QueueFile.purge, False),
    "extend": lambda busy: busy.other.lost(busy.kept[:1]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("look", LOOKS)
def test_a_look_sees_the_queue_at_one_moment(tmp_path: Path, clock: Clock, look: str, change: str) -> None:
    """Protects who waits for an empty queue: no message is missed or seen twice while it goes from table to table."""
    began = clock.now
    step, was_made = 0, True
    while was_made:
        step, clock.now = step + 1, began
        with ExitStack() as stack:
            busy = Busy(tmp_path / f"{step}.db", clock, stack)
            look_at, make = partial(LOOKS[look], busy.one), partial(CHANGES[change], busy)
            before = look_at()
            found, was_made = at_each_step(busy.one, step, look_at, make)
            assert found in (before, look_at()), step
    assert step > 3


@pytest.mark.parametrize("at_once", [2, 100])
@pytest.mark.parametrize("limit", [1, 100])
def test_a_receive_gives_each_message_once(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, at_once: int, limit: int
) -> None:
    """Protects from a message that comes twice in one receive: its process may stand still longer than its lease."""
    monkeypatch.setattr(sqlite_lane, "AT_ONCE", at_once)
    began = clock.now
    step, was_made = 0, True
    while was_made:
        step, clock.now = step + 1, began
        with ExitStack() as stack:
            one, other = (stack.enter_context(closing(Process(tmp_path / f"{step}.db", clock=clock))) for _ in range(2))
            one.put(*"abcdef")
            one.call(QueueFile.release, one.take(1), 0.0, False)

            def change(other: Process = other) -> None:
                clock.now += LEASE + 1
                other.take(limit)

            ours, was_made = at_each_step(one, step, one.take, change)
            assert bodies(ours) == sorted(set(bodies(ours))), step
    assert step > 3
