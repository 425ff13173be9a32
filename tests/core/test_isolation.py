"""Context variables: each call sees those of the caller, and none that another call has set (fault B12)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from support import both, ignore

from asyncpc import Failure, Pipeline, Retry, consumer, source, testing

variable: ContextVar[Any] = ContextVar("variable")


class Array:
    """A value that cannot be compared, as numpy's arrays cannot."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = object.__hash__


@both
@pytest.mark.parametrize("make", [object, Array])
@pytest.mark.parametrize("generates", [False, True])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_b12_each_call_sees_the_callers_context(
    make: Callable[[], object], generates: bool, concurrency: int, eager: bool
) -> None:
    """Fault B12: each call sees what the caller has set; what a call sets is seen by no other, whatever the value."""
    callers = make()
    seen: list[object] = []

    async def work() -> None:
        seen.append(variable.get())
        mine = make()
        variable.set(mine)
        await asyncio.sleep(0.001)
        assert variable.get() is mine

    @consumer(concurrency=concurrency)
    async def handle(n: int) -> int:
        await work()
        return n

    @consumer(concurrency=concurrency)
    async def generate(n: int) -> AsyncIterator[int]:
        await work()
        yield n
        await asyncio.sleep(0.001)
        yield n

    async def main() -> None:
        variable.set(callers)
        await Pipeline(range(9), (generate if generates else handle) >> ignore)
        assert len(seen) == 9
        assert all(value is callers for value in seen)
        assert variable.get() is callers

    testing.run(main(), eager=eager)


def test_b12_a_resource_may_set_variables_for_its_worker() -> None:
    """Fault B12: what ``context=`` sets when it is entered is there for each call, and can be reset when it is left."""
    seen: list[str] = []

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        token = variable.set("from the resource")
        yield
        variable.reset(token)

    @consumer(context=resource)
    async def handle(n: int, given: None) -> None:
        seen.append(variable.get())
        variable.set(n)

    async def main() -> None:
        await Pipeline(range(3), handle)
        assert seen == ["from the resource"] * 3

    testing.run(main())


@both
def test_the_context_of_an_item_that_was_tried_again_is_gone_with_it(eager: bool) -> None:
    """Fault B12: the next item fails without another attempt, and has no context of its own."""
    variable: ContextVar[str] = ContextVar("variable", default="none")
    told: list[tuple[int, str]] = []
    calls: list[int] = []

    @consumer(
        retry=Retry(2, on=ConnectionError, wait=lambda attempt: 0.0),
        on_error=lambda f: told.append((f.item, variable.get())),
    )
    async def handle(n: int) -> None:
        calls.append(n)
        if n == 2:
            raise ValueError
        if calls.count(1) == 1:
            raise ConnectionError
        variable.set("of item 1")

    testing.run(source([1, 2]) >> handle, eager=eager)
    assert told == [(2, "none")]


@both
def test_who_is_told_of_a_failure_sees_the_context_of_its_item(eager: bool) -> None:
    """Fault B12: a dead letter must not carry the request id of another item."""
    request: ContextVar[str | None] = ContextVar("request", default=None)
    told: list[tuple[int, str | None]] = []

    def tell(failure: Failure) -> None:
        told.append((failure.item, request.get()))

    @consumer(on_error=tell)
    async def handle(n: int) -> None:
        if n != 2:
            request.set(f"request {n}")
        raise ValueError(n)

    testing.run(source(range(4)) >> handle, eager=eager)
    assert told == [(0, "request 0"), (1, "request 1"), (2, None), (3, "request 3")]
