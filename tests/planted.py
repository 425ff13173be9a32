"""Faults planted on purpose, to prove that the suite would notice them.

A :class:`Fault` is a small change to the text of a live function or property: ``old`` is replaced by ``new``, and it is
compiled again in its module. A function of a module is changed where it is called from. If the text is no longer there,
:class:`Withered` says so: adapt the fault to the new code.
"""

from __future__ import annotations
import __future__

import asyncio
import inspect
import logging
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from types import FunctionType
from typing import Any, Final

from scenarios import Scenario, draw, play

from asyncpc import Pipeline, Running, consumer, testing
from asyncpc.core import channel, emit, queue, source, stage, tracked, waiting, worker
from asyncpc.core.queue import BoundedQueue
from asyncpc.graph import pipeline
from asyncpc.offload import bridge
from asyncpc.remote import delivery, settler
from asyncpc.run import accounting, outcome, results, supervisor
from asyncpc.testing import Deadlock, VirtualLoop

__all__ = ["FAULTS", "Fault", "Withered", "planted"]


class Withered(AssertionError):
    """The text a fault replaces is not in the code any more."""


@dataclass(frozen=True)
class Change:
    """In the function ``owner.name``, ``old`` becomes ``new``."""

    owner: Any
    name: str
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    name: str
    breaks: str
    """What it breaks: an invariant (I) or a fault (A, B) of the design."""
    changes: tuple[Change, ...]
    check: Callable[[], list[str]] | None = None
    """What must find it; by default the scenarios."""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def _changed(owner: Any, name: str, changes: list[Change]) -> Any:
    """The function or property with the changes made."""
    original = owner.__dict__[name]
    function = original.fget if isinstance(original, property) else original
    assert isinstance(function, FunctionType)
    text = textwrap.dedent(inspect.getsource(function))
    for change in changes:
        if change.old not in text:
            raise Withered(f"{owner.__name__}.{name} has no {change.old!r}")
        text = text.replace(change.old, change.new)
    made: dict[str, Any] = {}
    flag = __future__.annotations.compiler_flag
    exec(compile(text, f"<planted {name}>", "exec", flag), sys.modules[function.__module__].__dict__, made)
    return made[name]


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The live classes with ``fault`` in them, while the block runs."""
    by_function: dict[tuple[Any, str], list[Change]] = {}
    for change in fault.changes:
        by_function.setdefault((change.owner, change.name), []).append(change)
    with ExitStack() as stack:
        for (owner, name), changes in by_function.items():
            stack.callback(setattr, owner, name, owner.__dict__[name])
            setattr(owner, name, _changed(owner, name, changes))
        yield


def streams_that_fail_twice() -> list[str]:
    """Random streams whose block raises while a handler may have failed; among all scenarios they are rare."""
    drawn = map(draw, range(20_000))
    rare = (one for one in drawn if one.shape == "streamed" and one.ending == "raise" and _fails(one))
    return [problem for scenario in islice(rare, 150) for problem in play(scenario)]


def feeds_from_threads() -> list[str]:
    """Random scenarios with a remote source and handlers that feed from threads; among all scenarios they are rare."""
    drawn = map(draw, range(20_000))
    rare = (one for one in drawn if one.is_remote and one.threads)
    return [problem for scenario in islice(rare, 60) for problem in play(scenario)]


def _fails(scenario: Scenario) -> bool:
    return any(stage.trouble == "raise" for stage in scenario.stages)


def _fault(
    name: str, breaks: str, *changes: tuple[Any, str, str, str], check: Callable[[], list[str]] | None = None
) -> Fault:
    return Fault(name, breaks, tuple(Change(*change) for change in changes), check)


def waiters_that_sleep_on() -> list[str]:
    """Cancel the first of two waiters just after it was woken: the second must have the room, or the item.

    A pipeline heals a lost wake-up with the next item, so scenarios hardly ever see it.
    """

    async def cancel_the_first(wait: Callable[[], Any], wake: Callable[[], Any]) -> None:
        first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        wake()
        first.cancel()
        await second

    async def putters() -> None:
        full: BoundedQueue[int] = BoundedQueue(1)
        full.put_nowait(0)
        await cancel_the_first(lambda: full.put(1), full.get_nowait)

    async def getters() -> None:
        empty: BoundedQueue[int] = BoundedQueue(1)
        await cancel_the_first(empty.get, lambda: empty.put_nowait(0))

    return stuck_in([putters, getters])


async def join_after_a_cancelled_put() -> None:
    """A put that was cancelled while it waited was not accepted, so ``join`` does not wait for it."""
    full: BoundedQueue[int] = BoundedQueue(1)
    full.put_nowait(0)
    waiting = asyncio.ensure_future(full.put(1))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    full.get_nowait()
    full.task_done()
    await full.join()


def stuck_in(cases: list[Callable[[], Coroutine[Any, Any, None]]]) -> list[str]:
    """Which of the cases never end, and where they wait."""
    found = []
    for case in cases:
        loop = VirtualLoop()
        try:
            loop.run_until_complete(case())
        except Deadlock as stuck:
            found.append(f"{case.__name__}: {stuck}")
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    return found


def log_lines_before_the_end() -> list[str]:
    """What a run says of a worker that it abandons before it has finished: a log that raises there would stop it."""
    over = asyncio.Event()
    runs: list[Running[Any, Any]] = []
    found: list[str] = []

    async def ignore(item: int) -> None:
        while not over.is_set():
            with suppress(asyncio.CancelledError):
                await over.wait()

    async def abandoning() -> None:
        async with Pipeline([1], consumer(ignore)) as running:
            runs.append(running)
            await asyncio.sleep(1)
            await running.drain(0)
        over.set()
        await asyncio.sleep(1)

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if runs[0].report is None:
                found.append(record.getMessage())

    log, listener = logging.getLogger("asyncpc"), Listener()
    level, propagate = log.level, log.propagate
    log.addHandler(listener)
    log.setLevel(logging.WARNING)
    log.propagate = False
    try:
        testing.run(abandoning())
    finally:
        log.setLevel(level)
        log.propagate = propagate
        log.removeHandler(listener)
    return found


_QUEUE, _CHANNEL, _LINE = queue.BoundedQueue, channel.Channel, waiting.WaitQueue
_OUTCOME = outcome.Outcome
_STAGE, _PRODUCER, _RUN = stage.Stage, source.ProducerWorker, supervisor.Supervisor

_HAND_OVER = """queue = self._pass_on.__self__
            waiter.set_result([queue._queue.popleft()] if self is queue._getters and queue._queue else None)"""
_TAKE_HANDED = """handed = await waiter
        if handed:
            self._pass_on.__self__._queue.appendleft(handed[0])"""

_DELIVERY, _SETTLER = delivery.Delivery, settler.Settler
_BRIDGE, _ACCOUNTS = bridge.Bridge, accounting.Accounts

_EMIT = "            if outbox is not None and value is not DONE:\n"
_COUNT = "            settled += 1\n            worker.settled = settled\n"

FAULTS: Final = (
    _fault("acknowledged before all that was made of it", "E", (_DELIVERY, "hold", "self._values += more", "pass")),
    _fault(
        "fed in a thread without a hold",
        "E",
        (_BRIDGE, "take_fed", "fed(one.item, one.ticket) if type(one) is Tracked", "one.item if type(one) is Tracked"),
        check=feeds_from_threads,
    ),
    _fault("not given back at the deadline", "E", (_ACCOUNTS, "let_go", "release_all(_items_of(stage))", "pass")),
    _fault(
        "settled twice",
        "E",
        (tracked, "_passing_on", "        ticket.settle()  #", "        ticket.settle(); ticket.settle()  #"),
    ),
    _fault("given back in any order", "E", (_SETTLER, "_settle", "sorted(released, key=_how)", "released[::-1]")),
    _fault(
        "item handed to the waiter's future",
        "A1, I2",
        (_LINE, "wake", "waiter.set_result(None)", _HAND_OVER),
        (_LINE, "wait", "await waiter", _TAKE_HANDED),
    ),
    _fault(
        "wake-up not passed on", "A2, A3", (_LINE, "_leave", "self._pass_on()", "pass"), check=waiters_that_sleep_on
    ),
    _fault(
        "yield after take",
        "A8, I2",
        (
            worker,
            "_handle_some",
            "worker.item = item = take()",
            "item = take(); await asyncio.sleep(0); worker.item = item",
        ),
    ),
    _fault("one END too few", "I3", (_CHANNEL, "_release_getters", "len(self.getters)", "len(self.getters) - 1")),
    _fault(
        "one END too many",
        "I3",
        (
            worker,
            "_work",
            "worker.completed = True",
            "worker.completed = True; inbox.take_end(); await asyncio.sleep(0)",
        ),
    ),
    _fault(
        "END as an item",
        "A18, I3",
        (
            supervisor,
            "end_following_stages",
            "inbox.close()",
            "inbox.closed or inbox.items.append(None); inbox.close()",
        ),
    ),
    _fault("push without the give-back", "I2", (_CHANNEL, "put_or_leave", "self._leave(item)\n        raise", "raise")),
    _fault(
        "outside cancellation ignored",
        "B1, I7",
        (_OUTCOME, "judge", "not worker.completed and not worker.cancelled", "False"),
    ),
    _fault(
        "join counted on put-attempt",
        "A12",
        (
            _QUEUE,
            "put",
            "await self._putters.wait(cast(",
            "self._received += 1; await self._putters.wait(cast(",
        ),
        check=lambda: stuck_in([join_after_a_cancelled_put]),
    ),
    _fault("bound not looked at again", "A10, I1", (_CHANNEL, "put_or_leave", "while (", "if (")),
    _fault("room asked for never", "backpressure", (_CHANNEL, "wait_for_room", "if not has_room", "if False")),
    _fault(
        "writers asleep beside room while batches wait for them",
        "I3",
        (_CHANNEL, "made_room", " or not self.items", ""),
    ),
    _fault("source not closed", "B10, I6", (source, "_close", "await iterator.aclose()", "pass")),
    _fault("generator not closed", "B10, I6", (emit, "_close", "await values.aclose()", "pass")),
    _fault(
        "cancel counted as a failure",
        "I7",
        (worker, "_work", "except asyncio.CancelledError:\n        raise", "except ImportError:\n        raise"),
    ),
    _fault(
        "END while work is under way",
        "I3",
        (_STAGE, "is_idle", " and inbox.workers == inbox.getters.waiting + len(staff.opening) + staff.resting", ""),
    ),
    _fault("drain without a deadline", "C1", (_RUN, "_drain", "self._limit(", "(lambda seconds: None)(")),
    _fault("caller's cancel swallowed", "B5", (pipeline, "wait_hastening", "raise cancelled", "pass")),
    _fault(
        "context leaks between items", "B12", (worker, "_handle_some", "leaked = context != home", "leaked = False")
    ),
    _fault(
        "last in, first out",
        "I5",
        (worker, "_around", "items.popleft", "getattr(items, 'pop', items.popleft)"),
    ),
    _fault("only the first error told", "I7", (_OUTCOME, "result", "self.errors, self", "self.errors[:1], self")),
    _fault(
        "failure of a stream's block hides the run's",
        "I7",
        (results, "leave", "isinstance(error, Exception)", "False"),
        check=streams_that_fail_twice,
    ),
    _fault(
        "item counted before it is emitted",
        "I2, I4",
        (worker, "_handle_some", _EMIT, f"{_COUNT}{_EMIT}"),
        (worker, "_handle_some", f"{_COUNT}            if worker.interrupted", "            if worker.interrupted"),
    ),
    _fault(
        "value counted before it is emitted",
        "I4",
        (emit, "emit", "channel = outlet.channel\n", "channel = outlet.channel\n    outlet.emitted += 1\n"),
        (
            emit,
            "emit",
            "            outlet.emitted += 1\n            raise\n    outlet.emitted += 1\n",
            "            raise\n",
        ),
    ),
    _fault(
        "value emitted twice on a retry",
        "H3",
        (
            worker,
            "_recovered",
            "await give_up_all(worker, item, 1, error.error)",
            "return await stage.recover(worker, item, error.error)",
        ),
    ),
    _fault(
        "log call before the finish",
        "H2",
        (
            _RUN,
            "_abandon",
            "self._finish()",
            "__import__('logging').getLogger('asyncpc').error('left behind'); self._finish()",
        ),
        check=log_lines_before_the_end,
    ),
)
"""Each of these must be caught."""
