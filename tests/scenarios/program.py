"""The program that a scenario describes, as a user would write it: sources, handlers, and callers of ``put``.

Each part writes into the ledger what it sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from functools import partial
from threading import Thread
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
    WorkerCancelled,
    broadcast,
    consumer,
    feed,
    producer,
    route,
    source,
)

from .ledger import CALLERS, Boom, Item, Ledger, OwnCancel, Touchy, key_of
from .remote import make_remote_source
from .spec import SourceSpec, StageSpec

__all__ = ["make_branching", "make_dead_letters", "make_source", "make_stage", "pause", "put_all"]


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


def make_source(spec: SourceSpec, place: int, ledger: Ledger) -> Any:
    """What a user would pass as a source."""
    name, give = f"source-{place}", partial(ledger.give, ledger.entries[place])
    if spec.kind == "remote":
        return make_remote_source(place, spec, name, ledger)
    items = iter([Item(name, (number,)) for number in range(spec.count)])
    if spec.kind == "list":
        return source(_Telling(items, give), name)
    if spec.kind == "iterator":
        return source(_iterator(items, name, give, ledger), name)
    if spec.kind == "iterable":
        return source(_AsyncIterable(items, spec, give, ledger), name)
    restart = Restart(spec.restarts, within=1e9, backoff=lambda attempt: 0.002 * attempt) if spec.restarts else None
    raised = 0

    @producer(restart=restart, name=name)
    async def generator() -> AsyncIterator[Item]:
        nonlocal raised
        with ledger.opened(name):
            try:
                async for item in _give(items, spec, give, ledger):
                    yield item
            except Boom as error:
                raised += 1
                if raised > spec.restarts:
                    ledger.limit(ledger.scenario.drain_timeout)
                    ledger.raised(error)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                await _clean_up(ledger, spec.clean_up, ledger.raised)
                raise

    return generator


async def _give(
    items: Iterator[Item], spec: SourceSpec, give: Callable[[Item], None], ledger: Ledger
) -> AsyncIterator[Item]:
    for item in items:
        ledger.ask()
        await pause(ledger, spec.delay)
        if spec.trouble and item.path[0] >= spec.at:
            if spec.trouble == "raise":
                raise Boom(f"source at {item}")
            ledger.own_cancels += 1
            raise OwnCancel
        give(item)
        yield item
    if spec.idles:
        await asyncio.Event().wait()


class _Telling(list[Item]):
    """A list that tells the ledger which of its items were taken."""

    def __init__(self, items: Iterator[Item], give: Callable[[Item], None]) -> None:
        super().__init__(items)
        self.give = give

    def __iter__(self) -> Iterator[Item]:
        for item in super().__iter__():
            self.give(item)
            yield item


def _iterator(items: Iterator[Item], name: str, give: Callable[[Item], None], ledger: Ledger) -> Iterator[Item]:
    with ledger.opened(name):
        for item in items:
            give(item)
            yield item


class _AsyncIterable:
    """An async iterable that is no generator, so there is nothing to close."""

    def __init__(self, items: Iterator[Item], spec: SourceSpec, give: Callable[[Item], None], ledger: Ledger) -> None:
        self.items = items
        self.spec = spec
        self.give = give
        self.ledger = ledger

    def __aiter__(self) -> _AsyncIterable:
        return self

    async def __anext__(self) -> Item:
        await pause(self.ledger, self.spec.delay)
        for item in self.items:
            self.give(item)
            return item
        if self.spec.idles:
            await asyncio.Event().wait()
        raise StopAsyncIteration


def make_branching(spec: StageSpec, stage: int, ledger: Ledger, branches: list[Any], dead_letters: Any) -> Any:
    """A route or broadcast; what a broadcast does is seen by nobody, see :meth:`_Play.look_into_broadcasts`."""
    if spec.branching == "broadcast":
        return broadcast(*branches, maxsize=spec.maxsize, name=f"stage-{stage}")

    def by(given: Any) -> int:
        item = ledger.known(given)
        with ledger.handling(stage, [item]):
            call = ledger.calls[stage]
            ledger.calls[stage] += 1
            if call == spec.at and spec.trouble in ("cancel", "interrupt", "raise"):
                _raise(spec, stage, item, ledger)
            if spec.refuses == "by" and ledger.is_odd(spec, item):
                raise Boom(f"by of stage {stage} at {item}")
        branch = key_of(item) % len(branches)
        ledger.emit(stage, item, [item], branch)
        return branch

    unwritten: Any = None if ledger.scenario.is_remote else "stop"
    policy: Any = "skip" if "skip" in spec.options else dead_letters if "dead letters" in spec.options else unwritten
    return route(by, dict(enumerate(branches)), on_error=policy, maxsize=spec.maxsize, name=f"stage-{stage}")


def make_dead_letters(ledger: Ledger) -> Any:
    """The consumer that is told of failures, whatever stage they are from."""

    @consumer(concurrency=2)
    async def dead_letters(failure: Failure) -> None:
        item = ledger.known(failure.item)
        ledger.look_at_roots("the consumer of failures", item)
        letter = failure.stage, item
        if letter in ledger.told:
            ledger.problems.append(f"told twice that {item} failed in {failure.stage}")
        ledger.told[letter] = False
        await pause(ledger, "some")
        ledger.told[letter] = True

    return dead_letters


def make_stage(spec: StageSpec, stage: int, ledger: Ledger, dead_letters: Any) -> Any:
    """The consumer of a stage, as a user would write it."""
    function = _generator(spec, stage, ledger) if spec.generates else _handler(spec, stage, ledger)
    options: dict[str, Any] = {"concurrency": spec.concurrency, "maxsize": spec.maxsize, "name": f"stage-{stage}"}
    options |= _options(spec, stage, ledger)
    if "dead letters" in spec.options:
        options["on_error"] = dead_letters
    if not spec.context:
        return consumer(**options)(function)

    @asynccontextmanager
    async def resource() -> AsyncIterator[object]:
        with ledger.opened(f"resource of stage {stage}"):
            await asyncio.sleep(0.001 if spec.context == "slow" else 0)
            try:
                yield asyncio.current_task()
            finally:
                await asyncio.sleep(0.001 if spec.context == "slow" else 0)

    return consumer(context=resource, **options)(_with_resource(function, spec, ledger))


def _with_resource(function: Callable[[Any], Any], spec: StageSpec, ledger: Ledger) -> Callable[[Any, object], Any]:
    async def handle_with(given: Any, resource: object) -> Any:
        _check_resource(resource, ledger)
        return await function(given)

    async def generate_with(given: Any, resource: object) -> AsyncIterator[Any]:
        _check_resource(resource, ledger)
        values = function(given)
        try:
            async for value in values:
                yield value
        finally:
            await values.aclose()

    return generate_with if spec.generates else handle_with


def _handler(spec: StageSpec, stage: int, ledger: Ledger) -> Callable[[Any], Any]:
    """A function that gives one value for each item."""

    async def handle(given: Any) -> Item:
        item = ledger.known(given)
        with ledger.handling(stage, [item]):
            await _work(spec, stage, item, ledger)
        value = item.child(0)
        ledger.emit(stage, value, [item])
        return value

    async def handle_batch(batch: list[Any]) -> list[Item]:
        items = _items_of(batch, ledger)
        with ledger.handling(stage, items):
            _change(batch, spec.changes)
            await _work(spec, stage, items[0], ledger)
        values = [item.child(0) for item in items]
        for item, value in zip(items, values, strict=True):
            ledger.emit(stage, value, [item])
        return values

    return handle_batch if "batch" in spec.options else handle


def _generator(spec: StageSpec, stage: int, ledger: Ledger) -> Callable[[Any], Any]:
    """A function that gives any number of values, for an item or for a batch."""
    ends = ledger.following[stage] == [len(ledger.following)]
    ordered = "ordered" in spec.options and (ledger.streamed or ledger.scenario.sinks or not ends)

    async def generate(given: Any) -> AsyncIterator[Any]:
        items = _items_of(given, ledger) if "batch" in spec.options else [ledger.known(given)]
        late: list[Item] = []
        with ledger.opened(f"generator of stage {stage}"), ledger.handling(stage, items):
            _change(given, spec.changes)
            for item in items:
                for number in range(ledger.rng.randrange(spec.fan + 1)):
                    await _work(spec, stage, item, ledger)
                    value = item.child(number)
                    if ordered:  # they leave together, once the generator has ended
                        late.append(value)
                    else:
                        ledger.emit(stage, value, items)
                    yield value
            if spec.gives_list:
                value = items[-1].child(spec.fan)
                ledger.list_as_item(given, value)
                ledger.emit(stage, value, items)
                yield given
        for value in late:
            ledger.emit(stage, value, items)

    return generate


def _items_of(batch: list[Any], ledger: Ledger) -> list[Item]:
    if not batch:
        ledger.problems.append("a handler of batches got an empty one")
        raise Boom("an empty batch")
    return [ledger.known(one) for one in batch]


def _change(batch: list[Any], how: str) -> None:
    """What a handler may do to a list that it was given."""
    if how == "pops":
        while batch:
            batch.pop()
    elif how == "appends":
        batch.append("nobody's")
    elif how == "reverses":
        batch.reverse()


def _options(spec: StageSpec, stage: int, ledger: Ledger) -> dict[str, Any]:
    """The arguments that the options stand for; retries outlast all trouble, and no timeout is ever reached."""
    of_item = partial(ledger.function_of_item, stage)
    few, longest = ledger.rng.randint(1, 2), 0.001 if ledger.must_not_wait else None
    within = ledger.rng.choice([longest, 0.002, 0 if ledger.scenario.is_remote else 0.01])
    batch = Batch(
        spec.size or few,
        within=longest if spec.size else within,
        weigh=of_item("weigh", lambda item: 1 + item.path[-1] % 2) if spec.gathers == "weigh" else None,
        key=of_item("batch key", lambda item: sum(item.path) % spec.keys) if spec.gathers == "key" else None,
    )
    given: dict[str, dict[str, Any]] = {
        "batch": {"batch": batch},
        "breaker": {"breaker": Breaker(1, 0.002)},
        "key": {"key": of_item("key", key_of)},
        "ordered": {"ordered": True},
        "overflow": {"overflow": "drop_newest", "on_drop": lambda item: ledger.drop(stage, ledger.known(item))},
        "priority": {"priority": of_item("priority", lambda item: -item.path[-1])},
        "raise": {"overflow": "raise"},
        "rate": {"rate": Rate(1000)},
        "retry": {"retry": Retry(1000, wait=lambda attempt: 0.001)},
        "skip": {"on_error": "skip"},
        "stop": {"on_error": "stop"},
        "timeout": {"timeout": 1e6},
    }
    asked: dict[str, Any] = {}
    for option in spec.options & given.keys():
        asked |= given[option]
    return asked


def _check_resource(resource: object, ledger: Ledger) -> None:
    if resource is not asyncio.current_task():
        ledger.problems.append("a handler got the resource of another worker")


async def _work(spec: StageSpec, stage: int, item: Item, ledger: Ledger) -> None:
    """What every handler does: wait, feed, fail, and clean up when it is cancelled."""
    call = ledger.calls[stage]
    ledger.calls[stage] += 1
    if spec.sets:
        CALLERS.set(Touchy())
    feeds = spec.feeds and item.depth < 2 and ledger.rng.random() < 0.5
    if feeds and _feed(ledger.books[stage].together[item], ledger):
        await asyncio.sleep(0)  # as for a handler in a thread: the loop hears of its end after what it fed
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
    raise OwnCancel


def _feed(items: list[Item], ledger: Ledger) -> bool:
    """Feed in a call that has these items; whether that was in a thread."""
    in_thread = ledger.scenario.threads and ledger.rng.random() < 0.7
    ledger.fed += 1  # before, since an eager task may handle it at once, and feed too
    child = Item("fed", (ledger.fed,), items[0].depth + 1)
    child.roots = child.roots.union(*(item.roots for item in items))
    try:
        if in_thread:
            child.origin = "fed in a thread"  # there is no order between the two
            _in_thread(copy_context().run, feed, child)
        else:
            feed(child)
    except QueueShutDown:
        ledger.fed -= 1
        ledger.problems += [] if ledger.over else ["END came while a handler was at work: it could not feed"]
        raise
    except Boom:  # a function of the first stage does not take it
        ledger.fed -= 1
        raise
    ledger.accept(0, child)
    return in_thread


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
        except (asyncio.QueueFull, TimeoutError, Boom, WorkerCancelled):
            continue
        except QueueShutDown:
            return
        await pause(ledger, "some")


async def _put(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    how = ledger.rng.choice(["put", "put", "nowait", "timeout", "cancelled", "cancelled"])
    if ledger.scenario.threads and ledger.rng.random() < 0.5:
        item.origin += "'s thread"  # another producer: there is no order between the two
        _put_from_thread(running, item)
        ledger.take(0, item)
    elif how == "nowait":
        running.put_nowait(item)
        ledger.take(0, item)
    elif how == "cancelled":
        await _put_and_cancel(running, item, ledger)
    else:
        await running.put(item, timeout=ledger.rng.choice([0, 0.001, 0.004]) if how == "timeout" else None)
        ledger.take(0, item)


def _put_from_thread(running: Running[Item, Any], item: Item) -> None:
    _in_thread(running.put_from_thread, item, 0)


def _in_thread(function: Callable[..., object], *args: Any) -> None:
    """Call it in a thread while the loop stands still, so that both take turns in one way only."""
    raised: list[Exception] = []

    def call() -> None:
        try:
            function(*args)
        except Exception as error:
            raised.append(error)

    thread = Thread(target=call)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


async def _call(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    """A caller of ``call`` gets what came of its own item, and nothing else."""
    value = await running.call(item)
    if value.origin != item.origin or value.path[0] != item.path[0]:
        ledger.problems.append(f"the caller for {item} got {value}")


async def _put_and_cancel(running: Running[Item, Any], item: Item, ledger: Ledger) -> None:
    """Cancel a ``put`` so many steps of the loop after a timer that it may have been woken just before."""

    async def put() -> None:
        await running.put(item)
        ledger.take(0, item)

    task = asyncio.create_task(put())
    await asyncio.sleep(ledger.rng.choice([0, 0.001, 0.004]))
    for _ in range(ledger.rng.randrange(6)):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
