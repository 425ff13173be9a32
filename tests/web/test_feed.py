"""Snapshots are shared by all who watch, and made only for them."""

from __future__ import annotations

import asyncio
import itertools
from threading import Event

import pytest

from asyncpc.web.feed import EVERY, Feed


async def test_all_clients_share_one_snapshot() -> None:
    """Ten open pages cost a run what one costs."""
    made = itertools.count(1)
    feed = Feed(lambda: b"%d" % next(made))
    first = await asyncio.gather(*[feed.after(0) for _ in range(10)])
    second = await asyncio.gather(*[feed.after(1) for _ in range(10)])
    assert {one.text for one in first} == {b"1"}
    assert {one.text for one in second} == {b"2"}
    assert next(made) == 3


@pytest.mark.realtime
async def test_there_are_two_snapshots_a_second_at_most() -> None:
    """Nobody can make a run be looked at more often, by asking in a loop or by coming again and again."""
    made = itertools.count(1)
    feed = Feed(lambda: b"%d" % next(made))
    loop = asyncio.get_running_loop()
    began, number = loop.time(), 0
    for _ in range(4):
        number = (await feed.after(number)).number
        for _ in range(5):
            await feed.now()
    assert loop.time() - began >= 3 * EVERY
    assert next(made) == 5


async def test_a_late_client_gets_the_newest() -> None:
    """Whoever is slow skips what is old, so nothing is kept for it."""
    feed = Feed(lambda: b"x")
    for number in range(3):
        await feed.after(number)
    assert (await feed.after(0)).number == 3


async def test_what_was_under_way_is_not_the_last() -> None:
    """At the end of a run a snapshot may be half made, so the one after it is the first that shows the end."""
    may_end = Event()

    def make() -> bytes:
        may_end.wait(10)
        return b"x"

    feed = Feed(make)
    assert feed.upcoming == 1
    first = asyncio.create_task(feed.after(0))
    await asyncio.sleep(0)
    assert feed.upcoming == 2
    may_end.set()
    assert (await first).number == 1
    assert feed.upcoming == 2


async def test_an_error_of_one_look_is_not_the_end() -> None:
    """The next who asks gets the next snapshot."""
    tries = itertools.count()

    def make() -> bytes:
        if next(tries) == 0:
            raise ValueError("once")
        return b"x"

    feed = Feed(make)
    with pytest.raises(ValueError, match="once"):
        await feed.after(0)
    assert (await feed.after(0)).text == b"x"


async def test_a_client_that_leaves_takes_nobody_with_it() -> None:
    """The one that makes the snapshot may be gone before it is ready; the others get theirs."""
    may_end = Event()

    def make() -> bytes:
        may_end.wait(10)
        return b"x"

    feed = Feed(make)
    leaves = asyncio.create_task(feed.after(0))
    await asyncio.sleep(0)
    stays = asyncio.create_task(feed.after(0))
    await asyncio.sleep(0)
    leaves.cancel()
    may_end.set()
    assert (await stays).text == b"x"
    assert leaves.cancelled()
