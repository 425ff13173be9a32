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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from types import FunctionType
from typing import Any, Final

from scenarios import Scenario, draw, play
from virtual import Deadlock, VirtualLoop, ran

from asyncpc import Pipeline, PipelineError, Retry, consumer
from asyncpc.core import channel, emit, queue, source, stage, waiting, worker
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


def _change(change: Change) -> FunctionType | property:
    """The function with the change made."""
    original = change.owner.__dict__[change.name]
    is_property = isinstance(original, property)
    live: Any = original.fget if is_property else original
    text = textwrap.dedent(inspect.getsource(live)).removeprefix("@property\n")
    if change.old not in text:
        raise Withered(f"{change.owner.__name__}.{change.name} has no {change.old!r}")
    module = sys.modules[live.__module__].__dict__
    made: dict[str, Any] = {}
    flag = __future__.annotations.compiler_flag
    exec(compile(text.replace(change.old, change.new), f"<planted {change.name}>", "exec", flag), module, made)
    function = made[change.name]
    assert isinstance(function, FunctionType)
    return property(function) if is_property else function


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


def refused_values_that_are_given_again() -> list[str]:
    """A generator whose second value is refused: it is not called again, and its first value is given once."""
    got: list[str] = []

    @consumer(retry=Retry(2, wait=lambda attempt: 0.0), on_error="skip")
    async def give(n: int) -> AsyncIterator[str]:
        yield "good"
        yield "bad"

    @consumer(key=lambda value: {"good": 1}[value])
    async def keep(value: str) -> None:
        got.append(value)

    ran(Pipeline([1], give >> keep))
    return [] if got == ["good"] else [f"given: {got}"]


def drains_with_a_broken_log() -> list[str]:
    """A worker ignores every cancel, and the log raises: the drain ends all the same."""
    is_over: list[bool] = []

    def log_first() -> None:
        raise OSError("the log is broken")

    @consumer
    async def ignores(n: int) -> None:
        while not is_over:
            with suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    async def main() -> bool:
        async with asyncio.timeout(10):
            async with Pipeline(ignores) as running:
                await running.put(1)
                await asyncio.sleep(1)
                report = await running.drain(timeout=0.1)
        return bool(report.abandoned)

    supervisor.__dict__["log_first"] = log_first
    loop = VirtualLoop()
    loop.set_exception_handler(lambda loop, context: None)
    try:
        return [] if loop.run_until_complete(main()) else ["nobody was abandoned"]
    except (TimeoutError, Deadlock, PipelineError) as error:
        return [f"the drain did not end: {error!r}"]
    finally:
        del supervisor.__dict__["log_first"]
        is_over.append(True)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(1))
        loop.close()


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
_STAGE, _PRODUCER, _RUN = stage.Stage, source.ProducerWorker, supervisor.Supervisor

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
        (_RUN, "_cascade", "inbox.close()", "inbox.closed or inbox.items.append(None); inbox.close()"),
    ),
    _fault("push without the give-back", "I2", (_CHANNEL, "put_or_leave", "self._leave(item)\n        raise", "raise")),
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
    _fault(
        "bound not looked at again",
        "A10, I1",
        (
            _CHANNEL,
            "put_or_leave",
            "in_vain = True",
            "in_vain = True; break",
        ),
    ),
    _fault("room asked for never", "backpressure", (_CHANNEL, "wait_for_room", "if not has_room", "if False")),
    _fault("source not closed", "B10, I6", (_PRODUCER, "_produce", "await iterator.aclose()", "pass")),
    _fault("generator not closed", "B10, I6", (emit, "_close", "await values.aclose()", "pass")),
    _fault(
        "cancel counted as a failure",
        "I7",
        (worker, "_work", "except asyncio.CancelledError:\n        raise", "except ImportError:\n        raise"),
    ),
    _fault(
        "END while work is under way",
        "I3",
        (_STAGE, "is_idle", " and inbox.workers == inbox.getters.waiting + len(self.staff.opening)", ""),
    ),
    _fault("drain without a deadline", "C1", (_RUN, "stop", "self._limit(", "(lambda seconds: None)(")),
    _fault("caller's cancel swallowed", "B5", (_RUN, "wait_hastening", "raise cancelled", "pass")),
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
        (running, "leave", "isinstance(error, Exception)", "False"),
        check=streams_that_fail_twice,
    ),
    _fault(
        "item counted before it is emitted",
        "H3, I4",
        (
            emit,
            "emit",
            "        channel.enqueue(value)",
            "        outlet.emitted += 1; channel.enqueue(value); outlet.emitted -= 1",
        ),
    ),
    _fault(
        "value emitted twice on a retry",
        "H3",
        (worker, "_recovered", "isinstance(error, Refused)", "isinstance(error, ImportError)"),
        check=refused_values_that_are_given_again,
    ),
    _fault(
        "log call before the finish",
        "H2",
        (_RUN, "_abandon", "self._finish()\n", "log_first(); self._finish()\n"),
        check=drains_with_a_broken_log,
    ),
)
"""Each of these must be caught."""
