"""What the user wrote: what can be a source or a stage, and the mistakes that are refused."""

from __future__ import annotations

import functools
import gc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import Any

import pytest
from spy import Spy
from support import endless, ignore
from virtual import ran, run_virtual

from asyncpc import BoundedQueue, DefinitionError, Pipeline, PipelineError, Restart, consumer, merge, producer, source

# -- mistakes in the program ----------------------------------------------------------------------


async def coroutine(item: int) -> None: ...


async def two(item: int, other: int) -> None: ...


async def none() -> None: ...


async def generator() -> AsyncIterator[int]:
    yield 1


def plain(item: int) -> None: ...


class Methods:
    """What a class has that was not made an object yet."""

    async def handle(self, item: int) -> None: ...

    async def items(self) -> AsyncIterator[int]:
        yield 1


@wraps(generator)
def hidden() -> AsyncIterator[int]:
    return generator()


@asynccontextmanager
async def resource() -> AsyncIterator[None]:
    yield


# What a type checker is told to ignore in these is the mistake itself, which must be refused at run time too.
MISTAKES: dict[str, tuple[Callable[[], object], str, str]] = {
    "producer without yield": (lambda: producer(coroutine), "'coroutine'", "with 'yield'"),  # type: ignore[arg-type]
    "plain function in the loop": (lambda: consumer(run_in="loop")(plain), "'plain'", "write 'async def'"),
    "too many parameters": (lambda: consumer(two), "'two'", "must take item"),  # type: ignore[arg-type]
    "forgotten context": (lambda: consumer(two), "'two'", "context= adds the resource"),  # type: ignore[arg-type]
    "too few parameters": (lambda: consumer(none), "'none'", "must take item"),  # type: ignore[arg-type]
    "no room for the resource": (lambda: consumer(context=resource)(coroutine), "'coroutine'", "item and resource"),  # type: ignore[arg-type]
    "no concurrency": (lambda: consumer(concurrency=0)(coroutine), "'coroutine'", "at least 1"),
    "odd concurrency": (lambda: consumer(concurrency=1.5)(coroutine), "'coroutine'", "whole number"),  # type: ignore[call-overload]
    "stage's maxsize": (lambda: consumer(maxsize=-1)(coroutine), "'coroutine'", "0 means unbounded"),
    "pipeline's maxsize": (lambda: Pipeline(ignore, maxsize=-1), "'ignore'", "0 means unbounded"),
    "drain_timeout": (lambda: Pipeline(ignore, drain_timeout=-1), "'ignore'", "0 or more seconds"),
    "nan": (lambda: Pipeline(ignore, drain_timeout=float("nan")), "'ignore'", "0 or more seconds"),
    "producer in the middle": (lambda: Pipeline(range(3), endless, ignore), "<Producer endless>", "merge(a, b)"),  # type: ignore[call-overload]
    "function in the middle": (lambda: Pipeline(range(3), coroutine), "part 2", "decorate it with @consumer"),  # type: ignore[call-overload]
    "empty": (lambda: Pipeline(), "an empty pipeline", "at least one consumer"),  # type: ignore[call-overload]
    "no consumer": (lambda: Pipeline(endless), "an empty pipeline", "at least one consumer"),  # type: ignore[call-overload]
    "coroutine object": (lambda: consumer(coroutine(1)), "coroutine", "without calling it"),  # type: ignore[call-overload]
    "no source at all": (lambda: source(3), "source(int)", ""),  # type: ignore[arg-type]
    "arguments that do not fit": (lambda: endless(1), "'endless'", "compose endless("),  # type: ignore[call-arg]
    "empty merge": (lambda: merge(), "merge()", "at least one source"),  # type: ignore[call-overload]
    "called context": (lambda: consumer(context=resource())(two), "'two'", "pass the function"),  # type: ignore[arg-type]
    "Restart": (lambda: producer(restart=Restart(times=0))(endless.__wrapped__), "producer 'endless'", "at least 1"),
    "method": (lambda: consumer(Methods.handle), "'handle'", "self.handle = consumer(self.handle)"),  # type: ignore[arg-type]
    "method with a resource": (lambda: consumer(context=resource)(Methods.handle), "'handle'", "is a method"),  # type: ignore[arg-type]
    "method as a source": (lambda: producer(Methods.items), "producer 'items'", "is a method"),
    "option without a name": (lambda: consumer(4), "'int'", "consumer(concurrency=4)"),  # type: ignore[call-overload]
    "list before a stage": (lambda: [1] >> ignore, "<Consumer ignore>", "source(…) >> …"),  # type: ignore[operator]
    "function before a stage": (lambda: generator >> ignore, "<Consumer ignore>", "@producer"),  # type: ignore[operator]
    "source of a source": (lambda: source(endless), "<Producer endless>", "without source()"),  # type: ignore[arg-type]
    "sources in a list": (lambda: merge([endless, endless]), "merge()", "pass each as an argument of its own"),
    "decorated source": (lambda: producer(hidden), "'generator'", "or see whether a decorator hides it"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_where_it_is_written(mistake: str) -> None:
    """Each message names the stage and the cure; nothing is left un-awaited (warnings are errors)."""
    make, who, cure = MISTAKES[mistake]
    with pytest.raises(DefinitionError) as caught:
        make()
    assert who in str(caught.value)
    assert cure in str(caught.value)
    gc.collect()


async def test_mistakes_of_composition_name_the_cure() -> None:
    """A called handler, an undecorated source, a bare generator as a resource: each says what to write."""

    @consumer
    async def handle(n: int) -> None: ...

    async def bare() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(DefinitionError, match="coroutine object: pass the function itself"):
        source([1]) >> handle(1)  # type: ignore[operator]  # the mistake under test
    with pytest.raises(DefinitionError, match="decorate 'bare' with @producer"):
        Pipeline(bare, handle)  # type: ignore[call-overload]  # the mistake under test
    with pytest.raises(DefinitionError, match="decorate it with @asynccontextmanager"):
        consumer(context=bare)(handle.__wrapped__)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(DefinitionError, match="drain_timeout='5'"):
        Pipeline(handle, drain_timeout="5")  # type: ignore[call-overload]  # the mistake under test
    assert (source(range(10**30)) >> handle)._plan.origins[0].total is None


def test_mistakes_that_only_a_run_can_see() -> None:
    """No source to await; the same iterator, resource or pipeline used twice: refused, never a silent nothing."""

    async def main() -> None:
        with pytest.raises(DefinitionError, match="has no source, so to await it would wait for ever"):
            await Pipeline(ignore)
        with pytest.raises(DefinitionError, match="has no source"):
            async with Pipeline(ignore).stream():
                pass
        once = Pipeline(iter([1, 2]), ignore)
        assert (await once).done == 2
        with pytest.raises(PipelineError) as caught:
            await once
        assert "an earlier run used up this iterator" in str(caught.value.exceptions[0])

    run_virtual(main)


def test_a_resource_that_is_none_is_named() -> None:
    """Protects who writes ``@contextmanager`` for ``@asynccontextmanager``: the message says which option it is."""

    @contextmanager
    def session() -> Iterator[int]:
        yield 1

    @consumer(context=session)  # type: ignore[arg-type]  # the mistake under test
    async def handle(item: int, session: int) -> None: ...

    with pytest.raises(PipelineError) as failed:
        ran(source([1]) >> handle)
    assert "stage 'handle': context= gave a _GeneratorContextManager, which is no async" in str(failed.value.exceptions)


def test_a_forgotten_await_fails_the_run() -> None:
    """Protects from work that is never done and counted as done; what goes on to another stage may be any object."""

    @consumer
    async def forgets(item: int) -> Coroutine[Any, Any, None]:
        return coroutine(item)

    @consumer
    async def awaits(made: Coroutine[Any, Any, None]) -> None:
        await made

    with pytest.raises(PipelineError) as failed:
        ran(source([1, 2, 3]) >> forgets)
    (error,) = failed.value.exceptions
    assert "stage 'forgets' gave a coroutine that nobody awaits" in str(error)
    assert ran(source([1, 2, 3]) >> forgets >> awaits).done == 3
    gc.collect()


# -- what can be a source or a stage --------------------------------------------------------------


def test_a_queue_is_a_source_as_often_as_it_is_run() -> None:
    """Unlike an iterator it is not used up: what came since is there for the next run."""
    seen: list[int] = []

    @consumer
    async def handle(n: int) -> None:
        if n == 2:
            raise ValueError
        seen.append(n)

    async def main() -> None:
        queue: BoundedQueue[int] = BoundedQueue()
        await queue.put_many([1, 2])
        pipeline = Pipeline(queue, handle)
        with pytest.raises(PipelineError):
            await pipeline
        await queue.put_many([3, 4])
        queue.close()
        await pipeline
        assert seen == [1, 3, 4]

    run_virtual(main)


def test_a_method_of_an_object_is_a_stage() -> None:
    """Protects who keeps state in a class: the cure that the refusal names works."""

    class Sums:
        def __init__(self) -> None:
            self.total = 0
            self.add = consumer(concurrency=2)(self.add)  # type: ignore[has-type]  # the cure that is told

        async def add(self, item: int) -> None:  # type: ignore[no-redef]
            self.total += item

    sums = Sums()
    assert ran(source(range(5)) >> sums.add).done == 5
    assert sums.total == 10


def test_any_callable_can_be_a_handler() -> None:
    """Partials and callable objects are looked through; a decorated function is still the function."""
    spy = Spy()

    async def add(n: int, m: int) -> int:
        return n + m

    async def main() -> None:
        assert await consumer(functools.partial(add, 1))(2) == 3
        await Pipeline([1], consumer(functools.partial(add, 1)) >> consumer(spy))
        assert spy.handled == [2]

    run_virtual(main)
