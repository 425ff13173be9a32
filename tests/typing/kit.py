"""The types of ``asyncpc.testing``, as ``api.py`` checks those of the package."""

from collections.abc import AsyncIterator
from typing import Any, assert_type

from api import Page, double, fetch, numbers, rows, show, words

from asyncpc import Pipeline, Report, consumer, testing
from asyncpc.testing import CancelWorker, Crash, Delay, Fault, Feed, Redeliver, Spy, collect, spied


@consumer
async def length(text: str) -> int:
    return len(text)


@consumer
def halves(text: str) -> str:
    return text


@consumer
async def letters(text: str) -> AsyncIterator[str]:
    yield text


async def kit() -> None:
    """What flows where."""
    faults: list[Fault] = [Crash(1, OSError), Crash(1, OSError("no"), times=2), Delay(2, 60), CancelWorker(3)]
    assert_type(Spy(double, *faults, Redeliver(4)), Spy[int, float])
    assert_type(Spy(fetch), Spy[str, Page])
    assert_type(Spy(rows), Spy[int, str])
    assert_type(Spy(length), Spy[str, int])
    assert_type(Spy(halves), Spy[str, str])
    assert_type(Spy(letters), Spy[str, str])
    assert_type(Spy(), Spy[Any, Any])
    assert_type(Spy(double).items, list[int])
    assert_type(numbers >> Spy(double) >> show, Pipeline[int, None])
    feed = Feed[int]()
    feed.give(1, 2)
    assert_type(Feed("a", "b") >> words, Pipeline[str, str])
    assert_type(spied(numbers >> double, Spy(double), source=feed), Pipeline[int, float])
    assert_type(await collect(numbers()), list[int])
    assert_type(await collect(feed >> double, most=3), list[float])


def ran() -> None:
    """In a loop of its own."""
    assert_type(testing.run(numbers >> show), Report)
    assert_type(testing.run(length("a"), eager=True), int)
    assert_type(testing.run(collect(numbers >> double)), list[float])


async def mistakes() -> None:
    """What must be refused."""
    feed = Feed[int]()
    feed.give("a")  # type: ignore[arg-type]
    _ = feed >> words  # type: ignore[operator]
    _ = numbers >> Spy(length)  # type: ignore[arg-type]
    Spy(print)  # type: ignore[call-overload]
    Spy(numbers >> double)  # type: ignore[call-overload]
    Spy(double, ValueError("no"))  # type: ignore[call-overload]
    Crash(1, BaseException())  # type: ignore[arg-type]
    spied(numbers >> double, double)  # type: ignore[arg-type]
    spied(numbers >> double, source=Feed("a"))  # type: ignore[misc]
