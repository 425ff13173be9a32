"""A thread beside a loop works in the turns that the loop gives it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from threading import Event, Thread

import pytest

from asyncpc.run import turns as module
from asyncpc.run.turns import Turns, give_turn


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than a loop waits."""
    monkeypatch.setattr(module, "MOST", 10)


def test_the_thread_has_worked_when_the_loop_goes_on() -> None:
    """So they never want the GIL at once; nothing is drawn twice, and nothing left out."""
    turns, done = Turns(), 0

    def work() -> None:
        nonlocal done
        while done < 100 and turns.rest(10):
            done += 1
        turns.end()

    thread = Thread(target=work)
    thread.start()
    turns.give()  # which is no turn yet, if the thread did not rest before
    before = done
    for count in range(1, 101 - before):
        turns.give()
        assert done == before + count
    thread.join()
    turns.give()  # and waits for nobody who is gone


def test_a_thread_that_is_slow_gets_no_turn_before_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that takes long is drawn less often, and the loop waits for it a few milliseconds at most."""
    monkeypatch.setattr(module, "MOST", 0.001)
    turns, begun, may_end = Turns(), Event(), Event()
    kinds: list[bool] = []

    def work() -> None:
        kinds.append(turns.rest(10))
        begun.set()
        may_end.wait(10)
        kinds.append(turns.rest(0))
        turns.end()

    thread = Thread(target=work)
    thread.start()
    while not begun.is_set():
        turns.give()
    for _ in range(3):
        turns.give()
    may_end.set()
    thread.join()
    assert kinds == [True, False]


def test_a_thread_that_has_no_turn_wakes_by_itself() -> None:
    """It looks then whether the loop is blocked."""
    turns = Turns()
    assert not turns.rest(0.001)
    turns.wake()
    assert turns.rest(10)


def test_another_loop_has_done_all_that_follows() -> None:
    """Also what the tasks do that were woken."""
    begun, over = Event(), asyncio.Event()
    done: list[Thread] = []
    loops: list[asyncio.AbstractEventLoop] = []
    wakes: list[Callable[[], None]] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        news, more = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            await news.wait()
            more.set()

        async def second() -> None:
            await more.wait()
            done.append(threading.current_thread())

        tasks = [asyncio.ensure_future(first()), asyncio.ensure_future(second())]
        await asyncio.sleep(0)
        wakes.append(news.set)
        begun.set()
        await over.wait()
        await asyncio.gather(*tasks)

    thread = Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert begun.wait(10)
    give_turn(loops[0], wakes[0])
    assert done == [thread]
    give_turn(loops[0], over.set)
    thread.join()
    give_turn(loops[0], over.set)  # a loop that is closed does nothing
