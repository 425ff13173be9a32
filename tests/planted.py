"""Faults planted on purpose, to prove that the suite would notice them.

A :class:`Fault` is a small change to the text of a live function: ``old`` is replaced by ``new``, and the function is
compiled again in its module. If the text is no longer there, :class:`Withered` says so: adapt the fault to the new
code.
"""

from __future__ import annotations
import __future__

import asyncio
import inspect
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from types import FunctionType
from typing import Any, Final

from scenarios import Scenario, draw, play
from virtual import Deadlock, VirtualLoop

from asyncpc.core import channel, queue, stage, waiting, worker
from asyncpc.core.queue import BoundedQueue
from asyncpc.run import outcome, running, supervisor

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


def _change(change: Change) -> FunctionType:
    """The function with the change made."""
    text = textwrap.dedent(inspect.getsource(getattr(change.owner, change.name)))
    if change.old not in text:
        raise Withered(f"{change.owner.__name__}.{change.name} has no {change.old!r}")
    module = sys.modules[getattr(change.owner, change.name).__module__].__dict__
    made: dict[str, Any] = {}
    flag = __future__.annotations.compiler_flag
    exec(compile(text.replace(change.old, change.new), f"<planted {change.name}>", "exec", flag), module, made)
    function = made[change.name]
    assert isinstance(function, FunctionType)
    return function


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """The live classes with ``fault`` in them, while the block runs."""
    with ExitStack() as stack:
        for change in fault.changes:
            original = change.owner.__dict__[change.name]
            setattr(change.owner, change.name, _change(change))
            stack.callback(setattr, change.owner, change.name, original)
        yield


def streams_that_fail_twice() -> list[str]:
    """Random streams whose block raises while a handler may have failed; among all scenarios they are rare."""
    drawn = map(draw, range(20_000))
    rare = (one for one in drawn if one.shape == "streamed" and one.ending == "raise" and _fails(one))
    return [problem for scenario in islice(rare, 150) for problem in play(scenario)]


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


_QUEUE, _CHANNEL, _LINE = queue.BoundedQueue, channel.Channel, waiting.WaitQueue
_OUTCOME = outcome.Outcome
_STAGE, _CONSUMER, _PRODUCER, _RUN = stage.Stage, worker.ConsumerWorker, worker.ProducerWorker, supervisor.Supervisor

_HAND_OVER = """queue = self._pass_on.__self__
            waiter.set_result([queue._queue.popleft()] if self is queue._getters and queue._queue else None)"""
_TAKE_HANDED = """handed = await waiter
        if handed:
            self._pass_on.__self__._queue.appendleft(handed[0])"""

FAULTS: Final = (
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
        (_CONSUMER, "_consume", "self.hand = item = take()", "item = take(); await asyncio.sleep(0); self.hand = item"),
    ),
    _fault("one END too few", "I3", (_CHANNEL, "_release_getters", "len(self.getters)", "len(self.getters) - 1")),
    _fault(
        "one END too many",
        "I3",
        (
            _CONSUMER,
            "_consume",
            "self.completed = True",
            "self.completed = True; inbox.take_end(); await asyncio.sleep(0)",
        ),
    ),
    _fault(
        "END as an item",
        "A18, I3",
        (_RUN, "_cascade", "inbox.close()", "inbox.closed or inbox.items.append(None); inbox.close()"),
    ),
    _fault(
        "push without the give-back", "I2", (_CHANNEL, "put_or_leave", "self.enqueue(item)\n        raise", "raise")
    ),
    _fault(
        "outside cancellation ignored",
        "B1, I7",
        (_RUN, "_judge", "not worker.completed and not worker.cancelled", "False"),
    ),
    _fault(
        "join counted on put-attempt",
        "A12",
        (
            _QUEUE,
            "put",
            "await self._until_room(self._deadline(timeout))",
            "self._received += 1; await self._until_room(self._deadline(timeout)); self._received -= 1",
        ),
        check=lambda: stuck_in([join_after_a_cancelled_put]),
    ),
    _fault("bound not looked at again", "A10, I1", (_CHANNEL, "put_or_leave", "while len(", "if len(")),
    _fault("room asked for never", "backpressure", (_CHANNEL, "wait_for_room", "if not has_room", "if False")),
    _fault("source not closed", "B10, I6", (_PRODUCER, "_produce", "await iterator.aclose()", "pass")),
    _fault("generator not closed", "B10, I6", (worker, "emitting", "await values.aclose()", "pass")),
    _fault(
        "cancel counted as a failure",
        "I7",
        (_CONSUMER, "_consume", "except asyncio.CancelledError:\n        raise", "except ImportError:\n        raise"),
    ),
    _fault(
        "END while work is under way",
        "I3",
        (_STAGE, "is_idle", " and self.inbox.workers == self.inbox.getters.waiting + len(self.opening)", ""),
    ),
    _fault("drain without a deadline", "C1", (_RUN, "stop", "self._limit(", "(lambda seconds: None)(")),
    _fault("caller's cancel swallowed", "B5", (_RUN, "wait_hastening", "raise cancelled", "pass")),
    _fault("context leaks between items", "B12", (_CONSUMER, "_consume", "leaked = context != home", "leaked = False")),
    _fault(
        "last in, first out",
        "I5",
        (_CONSUMER, "_consume", "take = items.popleft", "take = items.pop"),
    ),
    _fault("only the first error told", "I7", (_OUTCOME, "result", "self.errors, self", "self.errors[:1], self")),
    _fault(
        "failure of a stream's block hides the run's",
        "I7",
        (running, "leave", "isinstance(error, Exception)", "False"),
        check=streams_that_fail_twice,
    ),
)
"""Each of these must be caught."""
