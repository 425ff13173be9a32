"""Snapshots are shared by all who watch, and made only for them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
from support import until

from asyncpc.run import turns
from asyncpc.web.feed import EVERY, Feed


async def test_all_clients_share_one_snapshot() -> None:
    """Ten open pages cost a run what one costs."""
    made = itertools.count(1)
    feed = Feed(lambda kept: b"%d" % next(made))
    first = await asyncio.gather(*[feed.after(0) for _ in range(10)])
    second = await asyncio.gather(*[feed.after(1) for _ in range(10)])
    assert {one.text for one in first} == {b"1"}
    assert {one.text for one in second} == {b"2"}
    assert next(made) == 3


@pytest.mark.realtime
async def test_there_are_two_snapshots_a_second_at_most() -> None:
    """Nobody can make a run be looked at more often, by asking in a loop or by coming again and again."""
    made = itertools.count(1)
    feed = Feed(lambda kept: b"%d" % next(made))
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
    feed = Feed(lambda kept: b"x")
    for number in range(3):
        await feed.after(number)
    assert (await feed.after(0)).number == 3


async def test_what_was_under_way_is_not_the_last() -> None:
    """At the end of a run a snapshot may be half made, so the one after it is the first that shows the end."""
    may_end = Event()

    def make(kept: bool) -> bytes:
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

    def make(kept: bool) -> bytes:
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

    def make(kept: bool) -> bytes:
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


# -- news of a run in another loop ----------------------------------------------------------------


@contextmanager
def watched(feed: Feed, seen: list[bytes]) -> Iterator[None]:
    """A client in a loop of its own, in a thread."""

    async def client() -> None:
        number = 0
        while not seen or seen[-1] != b"end":
            snapshot = await feed.after(number)
            number = snapshot.number
            seen.append(snapshot.text)

    thread = Thread(target=asyncio.run, args=(client(),))
    thread.start()
    try:
        yield
    finally:
        thread.join()


async def test_a_client_has_the_news_when_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the page works in the turn that the loop gives it, on what the run has told, and asks nothing."""
    monkeypatch.setattr(turns, "MOST", 10)  # it would go on sooner on a busy machine
    monkeypatch.setattr("asyncpc.web.feed.EARLY", 10)
    monkeypatch.setattr("asyncpc.web.feed.EVERY", 10)  # nobody asks by itself
    monkeypatch.setattr("asyncpc.web.feed.PATIENCE", 10)
    texts = iter([b"asked", b"told", b"told again", b"end"])
    kinds: list[bool] = []
    seen: list[bytes] = []

    def make(kept: bool) -> bytes:
        kinds.append(kept)
        return next(texts)

    feed = Feed(make)
    assert not feed.is_awaited
    feed.tell()  # nobody is there
    with watched(feed, seen):
        await until(lambda: seen == [b"asked"] and feed.is_awaited)
        feed.tell()
        assert seen == [b"asked", b"told"]
        feed.tell()
        assert seen == [b"asked", b"told", b"told again"]
        assert feed.end() == 4
        feed.tell()  # what was seen before the end is not the last
    assert seen[3:] == [b"end"]
    assert kinds == [False, True, True, False]


async def test_news_that_come_early_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several runs on one page tell more often than anybody wants to know."""
    monkeypatch.setattr(turns, "MOST", 10)
    monkeypatch.setattr("asyncpc.web.feed.EVERY", 1000)
    texts = iter([b"asked", b"end"])
    seen: list[bytes] = []
    feed = Feed(lambda kept: next(texts))
    with watched(feed, seen):
        await until(lambda: feed.is_awaited)
        feed.tell()
        assert seen == [b"asked"]
        feed.end()
    assert seen == [b"asked", b"end"]


async def test_in_its_own_loop_it_tells_nobody() -> None:
    """A page in the loop of the run itself gets no turn of it: a snapshot is made in a thread, as ever."""
    made = itertools.count(1)
    feed = Feed(lambda kept: b"%d %s" % (next(made), str(kept).encode()))
    await feed.after(0)
    client = asyncio.create_task(feed.after(1))
    await until(lambda: feed.is_awaited)
    feed.tell()
    assert (await client).text == b"2 False"
