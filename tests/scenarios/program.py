"""The program that a scenario describes, as a user would write it: sources, handlers, and callers of ``put``.

Each part writes into the ledger what it sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from asyncpc import (
    Batch,
    Breaker,
    Failure,
    QueueShutDown,
    Rate,
    Restart,
    Retry,
    Running,
    broadcast,
    consumer,
    feed,
    producer,
    route,
    source,
)

from .ledger import CALLERS, Boom, Item, Ledger, Touchy, key_of
from .spec import SourceSpec, StageSpec

__all__ = ["make_branching", "make_letters", "make_source", "make_stage", "pause", "put_all"]


async def pause(ledger: Ledger, delay: str) -> None:
    if delay == "timed":
        await asyncio.sleep(ledger.rng.randrange(5) / 1000)
    elif delay == "zero":
        await asyncio.sleep(0)
    elif delay == "some" and ledger.rng.random() < 0.4:
        await asyncio.sleep(ledger.rng.choice([0, 0.001, 0.004]))


async def _clean_up(ledger: Ledger, how: str, failed: Callable[[Exception], None] | None = None) -> None:
    if how == "slow":
        await asyncio.sleep(0.003)
    elif how == "raise" and ledger.rng.random() < 0.5:
        error = Boom("while it was closed")
        if failed is not None:
            failed(error)
        raise error


def make_source(spec: SourceSpec, name: str, ledger: Ledger) -> Any:
    """What a user would pass as a source."""
    items = iter([Item(name, (number,)) for number in range(spec.count)])
    if spec.kind == "list":
        return source(_Telling(spec.count, name, ledger), name)
    if spec.kind == "iterator":
        return source(_iterator(items, name, ledger), name)
    if spec.kind == "iterable":
        return source(_AsyncIterable(items, spec, ledger), name)
    restart = Restart(spec.restarts, within=1e9, backoff=lambda attempt: 0.002 * attempt) if spec.restarts else None
    raised = 0

    @producer(restart=restart, name=name)
    async def generator() -> AsyncIterator[Item]:
        nonlocal raised
        with ledger.opened(name):
            try:
                async for item in _give(items, spec, ledger):
                    yield item
            except Boom as error:
                raised += 1
                if raised > spec.restarts:
                    ledger.limit(ledger.drain_timeout)
                    ledger.raised(error)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                await _clean_up(ledger, spec.clean_up, ledger.raised)
                raise

    return generator


async def _give(items: Iterator[Item], spec: SourceSpec, ledger: Ledger) -> AsyncIterator[Item]:
    for item in items:
        ledger.ask()
        await pause(ledger, spec.delay)
        if spec.trouble and item.path[0] >= spec.at:
            if spec.trouble == "raise":
                raise Boom(f"source at {item}")
            ledger.own_cancels += 1
            raise asyncio.CancelledError
        ledger.accept(0, item)
        yield item
    if spec.idles:
        await asyncio.Event().wait()


class _Telling(list[Item]):
    """A list that tells the ledger which of its items were taken."""

    def __init__(self, count: int, name: str, ledger: Ledger) -> None:
        super().__init__(Item(name, (number,)) for number in range(count))
        self.ledger = ledger

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            self.ledger.accept(0, item)
            yield item


def _iterator(items: Iterator[Item], name: str, ledger: Ledger) -> Iterator[Item]:
    with ledger.opened(name):
        for item in items:
            ledger.accept(0, item)
            yield item


class _AsyncIterable:
    """An async iterable that is no generator, so there is nothing to close."""

    def __init__(self, items: Iterator[Item], spec: SourceSpec, ledger: Ledger) -> None:
        self.items = items
        self.spec = spec
        self.ledger = ledger

    def __aiter__(self) -> _AsyncIterable:
        return self

    async def __anext__(self) -> Item:
        await pause(self.ledger, self.spec.delay)
        for item in self.items:
            self.ledger.accept(0, item)
            return item
        if self.spec.idles:
            await asyncio.Event().wait()
        raise StopAsyncIteration


def make_branching(spec: StageSpec, stage: int, ledger: Ledger, branches: list[Any]) -> Any:
    """A route or broadcast; what a broadcast does is seen by nobody, see :meth:`_Play.look_into_broadcasts`."""
    if spec.branching == "broadcast":
        return broadcast(*branches, maxsize=spec.maxsize, name=f"stage-{stage}")

    def by(item: Item) -> int:
        with ledger.handling(stage, [item], frozenset()):
            call = ledger.calls[stage]
            ledger.calls[stage] += 1
            if call == spec.at and spec.trouble in ("cancel", "interrupt", "raise"):
                _raise(spec, stage, item, ledger)
        branch = key_of(item) % len(branches)
        ledger.emit(stage, item, branch)
        return branch

    return route(by, dict(enumerate(branches)), maxsize=spec.maxsize, name=f"stage-{stage}")


def make_letters(ledger: Ledger) -> Any:
    """The consumer that is told of failures, whatever stage they are from."""
    book = ledger.letters

    @consumer(concurrency=2)
    async def letters(failure: Failure) -> None:
        book.started.append(failure.item)
        await pause(ledger, "some")
        book.done.add(failure.item)

    return letters


def make_stage(spec: StageSpec, stage: int, ledger: Ledger, letters: Any) -> Any:
    """The consumer of a stage, as a user would write it."""
    ends = ledger.following[stage] == [len(ledger.following)]
    ordered = "ordered" in spec.options and (ledger.streamed or not ends)

    async def handle(item: Item) -> Item:
        with ledger.handling(stage, [item], spec.options):
            await _work(spec, stage, item, ledger)
        value = item.child(0)
        ledger.emit(stage, value)
        return value

    async def handle_batch(items: list[Item]) -> list[Item]:
        with ledger.handling(stage, items, spec.options):
            await _work(spec, stage, items[0], ledger)
        values = [item.child(0) for item in items]
        for value in values:
            ledger.emit(stage, value)
        return values

    async def generate(item: Item) -> AsyncIterator[Item]:
        values = []
        with ledger.opened(f"generator of stage {stage}"), ledger.handling(stage, [item], spec.options):
            for number in range(ledger.rng.randrange(spec.fan + 1)):
                await _work(spec, stage, item, ledger)
                value = item.child(number)
                values.append(value)
                if not ordered:  # else they leave together, once the generator has ended
                    ledger.emit(stage, value)
                yield value
        for value in values if ordered else []:
            ledger.emit(stage, value)

    async def handle_with(item: Any, resource: object) -> Any:
        _check_resource(resource, ledger)
        return await (handle_batch if "batch" in spec.options else handle)(item)

    async def generate_with(item: Item, resource: object) -> AsyncIterator[Item]:
        _check_resource(resource, ledger)
        values = generate(item)
        try:
            async for value in values:
                yield value
        finally:
            await values.aclose()

    @asynccontextmanager
    async def resource() -> AsyncIterator[object]:
        with ledger.opened(f"resource of stage {stage}"):
            await asyncio.sleep(0.001 if spec.context == "slow" else 0)
            try:
                yield asyncio.current_task()
            finally:
                await asyncio.sleep(0.001 if spec.context == "slow" else 0)

    options: dict[str, Any] = {"concurrency": spec.concurrency, "maxsize": spec.maxsize, "name": f"stage-{stage}"}
    options |= {name: given for name, given in _given(stage, ledger).items() if name in wanted(spec.options)}
    if "letters" in spec.options:
        options["on_error"] = letters
    if spec.context:
        return consumer(context=resource, **options)(generate_with if spec.generates else handle_with)
    return consumer(**options)(generate if spec.generates else handle_batch if "batch" in spec.options else handle)


def wanted(options: frozenset[str]) -> set[str]:
    """The names of the arguments that the options stand for."""
    more = {"overflow": "on_drop", "skip": "on_error", "letters": "on_error"}
    return {*options, *(more[one] for one in options & more.keys())}


def _given(stage: int, ledger: Ledger) -> dict[str, Any]:
    """The argument for each option; retries outlast all trouble, and no timeout is ever reached."""
    return {
        "batch": Batch(
            ledger.rng.randint(1, 2), within=ledger.rng.choice([0.001 if ledger.calls_come else None, 0.002, 0.01])
        ),
        "breaker": Breaker(1, 0.002),
        "key": key_of,
        "on_drop": partial(ledger.drop, stage),
        "on_error": "skip",
        "ordered": True,
        "overflow": "drop_newest",
        "priority": lambda item: -item.path[-1],
        "rate": Rate(1000),
        "retry": Retry(1000, wait=lambda attempt: 0.001),
        "timeout": 1e6,
    }


def _check_resource(resource: object, ledger: Ledger) -> None:
    if resource is not asyncio.current_task():
        ledger.problems.append("a handler got the resource of another worker")


async def _work(spec: StageSpec, stage: int, item: Item, ledger: Ledger) -> None:
    """What every handler does: wait, feed, fail, and clean up when it is cancelled."""
    call = ledger.calls[stage]
    ledger.calls[stage] += 1
    if spec.sets:
        CALLERS.set(Touchy())
    if spec.feeds and item.depth < 2 and ledger.rng.random() < 0.5:
        _feed(item, ledger)
    try:
        await _patiently(spec, ledger)
    except asyncio.CancelledError:
        await _clean_up(ledger, spec.clean_up)
        raise
    if spec.trouble == "hang" and call == spec.at:
        await ledger.released.wait()
    elif spec.trouble and call == spec.at:
        _raise(spec, stage, item, ledger)


def _raise(spec: StageSpec, stage: int, item: Item, ledger: Ledger) -> None:
    if spec.trouble == "interrupt":
        raise KeyboardInterrupt
    if spec.trouble == "raise":
        raise Boom(f"stage {stage} at {item}")
    ledger.own_cancels += 1
    raise asyncio.CancelledError


def _feed(item: Item, ledger: Ledger) -> None:
    ledger.fed += 1  # before, since an eager task may handle it at once, and feed too
    child = Item("fed", (ledger.fed,), item.depth + 1)
    try:
        feed(child)
    except QueueShutDown:
        ledger.fed -= 1
        ledger.problems += [] if ledger.over else ["END came while a handler was at work: it could not feed"]
        raise
    ledger.accept(0, child)


async def _patiently(spec: StageSpec, ledger: Ledger) -> None:
    try:
        await pause(ledger, spec.delay)
    except asyncio.CancelledError:
        if not spec.swallows:
            raise
        ledger.swallowed += 1
        while spec.swallows == "ever" and not ledger.released.is_set():
            try:
                await ledger.released.wait()
            except asyncio.CancelledError:
                continue
        await asyncio.sleep(0)


async def put_all(running: Running[Item, Any], name: str, count: int, calls: bool, ledger: Ledger) -> None:
    """A caller of ``put`` in all its forms: what raised was not accepted."""
    for number in range(count):
        try:
            if calls and ledger.rng.random() < 0.4:
                await _call(running, Item(name, (number,), is_called=True), ledger)
            else:
                await _put(running, Item(name, (number,)), ledger)
        except (asyncio.QueueFull, TimeoutError, Boom):
            continue
        except QueueShutDown:
            return
        await pause(ledger, "some")


async def _put(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    how = ledger.rng.choice(["put", "put", "nowait", "timeout", "cancelled", "cancelled"])
    if how == "nowait":
        running.put_nowait(item)
        ledger.accept(0, item)
    elif how == "cancelled":
        await _put_and_cancel(running, item, ledger)
    else:
        await running.put(item, timeout=ledger.rng.choice([0, 0.001, 0.004]) if how == "timeout" else None)
        ledger.accept(0, item)


async def _call(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    """A caller of ``call`` gets what came of its own item, and nothing else."""
    value = await running.call(item)
    if value.origin != item.origin or value.path[0] != item.path[0]:
        ledger.problems.append(f"the caller for {item} got {value}")


async def _put_and_cancel(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    """Cancel a ``put`` so many steps of the loop after a timer that it may have been woken just before."""

    async def put() -> None:
        await running.put(item)
        ledger.accept(0, item)

    task = asyncio.create_task(put())
    await asyncio.sleep(ledger.rng.choice([0, 0.001, 0.004]))
    for _ in range(ledger.rng.randrange(6)):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
