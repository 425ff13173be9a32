"""``running.on_signals()``: a program that has a loop of its own stops as cleanly as under ``run``."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Child, run_child
from support import BUSY, both, ignore

from asyncpc import (
    DefinitionError,
    Pipeline,
    PipelineError,
    Report,
    Running,
    StateError,
    Unfinished,
    consumer,
    producer,
    testing,
)
from asyncpc.testing import now

SIGNALS = (signal.SIGINT, signal.SIGTERM)

both_signals = pytest.mark.parametrize("number", SIGNALS)


@producer
async def endless() -> AsyncIterator[int]:
    """Ten at once, then idle."""
    for n in range(10):
        yield n
    await asyncio.Event().wait()


@consumer
async def slow(n: int) -> None:
    """One item a second."""
    await asyncio.sleep(1)


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


def came(number: int) -> None:
    """A signal for this process; its handler runs before the next line."""
    signal.raise_signal(signal.Signals(number))


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The handlers that a test finds are those that it leaves."""
    before = handlers()
    yield
    assert handlers() == before
    assert signal.set_wakeup_fd(-1) == -1


@both
@both_signals
def test_the_first_signal_drains_and_the_report_names_it(number: signal.Signals, eager: bool) -> None:
    """What was accepted is handled, though the source is idle; the exit status is what a shell expects."""

    async def main() -> Report:
        async with Pipeline(endless, slow) as running, running.on_signals():
            asyncio.get_running_loop().call_later(2.5, came, number)
            report = await running.wait()
        assert running.report is report
        return report

    report = testing.run(main(), eager=eager)
    assert (report.done, report.signal, report.exit_status) == (10, number, 128 + number)
    assert report.statistics.stop_asked


@both_signals
def test_the_second_signal_cancels(number: signal.Signals) -> None:
    """Somebody who presses Ctrl-C again does not want to wait for the queue."""

    async def main() -> Report:
        async with Pipeline(endless, slow) as running, running.on_signals():
            for after in (2.5, 3.5):
                asyncio.get_running_loop().call_later(after, came, number)
            report = await running.wait()
        assert now() < 3.6
        return report

    report = testing.run(main())
    assert (report.done, report.signal, len(report.unfinished)) == (3, number, 7)


def test_signals_are_handled_while_the_block_is_left() -> None:
    """A block that ends by itself drains too; SIGTERM in the midst of that kills nothing."""

    async def main() -> Report:
        async with Pipeline(slow) as running, running.on_signals():
            for n in range(5):
                await running.put(n)
            asyncio.get_running_loop().call_later(2.5, came, signal.SIGTERM)
        assert running.report is not None
        return running.report

    report = testing.run(main())
    assert (report.done, report.signal) == (5, signal.SIGTERM)


def test_signals_are_handled_while_the_items_left_are_saved() -> None:
    """SIGTERM after the run has ended must not end the process before ``on_unfinished`` has saved what was left."""
    saved: list[int] = []

    async def save(items: tuple[Unfinished, ...]) -> None:
        came(signal.SIGTERM)
        await asyncio.sleep(1)
        saved.append(len(items))

    async def main() -> int | None:
        async with Pipeline(endless, slow, on_unfinished=save) as running, running.on_signals():
            await asyncio.sleep(2.5)
            report = await running.drain(0)
        return report.signal

    assert testing.run(main()) == signal.SIGTERM
    assert saved == [8]


@pytest.mark.parametrize("limit", [1.0, None])
def test_its_drain_timeout_is_its_own_or_the_pipeline_s(limit: float | None) -> None:
    """The nearer place wins, as with ``run``."""

    async def main() -> float:
        async with Pipeline(endless, slow, drain_timeout=2) as running, running.on_signals(limit):
            came(signal.SIGTERM)
            await running.wait()
        return now()

    assert testing.run(main()) == pytest.approx(limit or 2, abs=0.1)


def test_a_drain_timeout_that_is_none_is_refused_at_once() -> None:
    """It would be needed when SIGTERM comes, which is too late to find out."""

    async def main() -> None:
        async with Pipeline(slow) as running:
            with pytest.raises(DefinitionError, match=r"drain_timeout='1 s' must be"):
                await running.on_signals("1 s").__aenter__()  # type: ignore[arg-type]  # the mistake under test

    testing.run(main())


def test_an_error_of_the_block_and_its_cancel_come_out() -> None:
    """As they do without signals: an error drains first, a cancel cancels; each time the handlers are restored."""

    async def fails() -> None:
        async with Pipeline(slow) as running, running.on_signals():
            await running.put(1)
            raise LookupError

    async def waits() -> None:
        async with Pipeline(slow) as running, running.on_signals():
            await running.put(1)
            await asyncio.Event().wait()

    async def main() -> None:
        with pytest.raises(LookupError):
            await fails()
        assert now() == 1
        task = asyncio.create_task(waits())
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert now() == 1.5

    testing.run(main())


def test_a_failed_run_gives_the_signals_back_at_once() -> None:
    """The block may go on, and then SIGTERM must end it as if there were no pipeline."""
    received: list[int] = []
    in_block: list[Any] = []

    @consumer
    async def fails(n: int) -> None:
        raise ValueError

    async def work() -> None:
        async with Pipeline(fails) as running, running.on_signals():
            await running.put(1)
            await asyncio.sleep(1)
            came(signal.SIGTERM)
            in_block.append(signal.getsignal(signal.SIGTERM))

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await work()
        assert failed.value.report.signal is None
        assert received == [signal.SIGTERM]
        assert in_block == [mine]

    def mine(number: int, frame: Any) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, mine)
    try:
        testing.run(main())
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("apart", [0.0, 1.0], ids=["nested", "overlapping"])
def test_several_runs_get_every_signal(apart: float) -> None:
    """One SIGTERM stops all of a program; whoever leaves first leaves the others their signals."""

    async def run_one(wait: float, pipeline: Pipeline[int, None]) -> Report:
        await asyncio.sleep(wait)
        async with pipeline as running, running.on_signals():
            return await running.wait()

    async def main() -> list[Report]:
        short = Pipeline(range(2), slow)
        runs = [run_one(0, short), run_one(apart, Pipeline(endless, slow)), run_one(2 * apart, Pipeline(endless, slow))]
        asyncio.get_running_loop().call_later(5, came, signal.SIGTERM)
        return await asyncio.gather(*runs)

    assert [report.signal for report in testing.run(main())] == [None, signal.SIGTERM, signal.SIGTERM]


def test_twice_for_one_run_is_once() -> None:
    """Two parts of a program may both ask; the first signal still drains."""

    async def main() -> Report:
        async with Pipeline(endless, slow) as running, running.on_signals(), running.on_signals():
            came(signal.SIGINT)
            return await running.wait()

    report = testing.run(main())
    assert (report.produced, report.done, report.signal) == (10, 10, signal.SIGINT)


def test_a_streamed_run_is_cancelled_at_the_end_of_the_block() -> None:
    """Nobody reads its values any more, so a drain could not end."""

    async def main() -> float:
        async with Pipeline(endless, slow, maxsize=1).stream() as values, values.running.on_signals():
            async for _ in values:
                break
        return now()

    assert testing.run(main()) == 1


async def test_a_thread_that_is_not_the_main_one_is_refused_with_the_cure() -> None:
    """Python handles signals in the main thread only; to go on in silence would leave SIGTERM deadly."""
    errors: list[StateError] = []

    async def main() -> None:
        async with Pipeline(slow) as running:
            try:
                async with running.on_signals():
                    ...
            except StateError as error:
                errors.append(error)

    thread = threading.Thread(target=asyncio.run, args=[main()])
    thread.start()
    thread.join()
    assert "only in the main thread" in str(errors[0])
    assert "loop.call_soon_threadsafe(running.stop)" in str(errors[0])


def test_a_handler_that_would_wait_for_itself_is_refused() -> None:
    """As with ``wait()``."""
    found: list[Running[int, None]] = []

    @consumer
    async def asks(n: int) -> None:
        async with found[0].on_signals():
            ...

    async def work() -> None:
        async with Pipeline(asks) as running:
            found.append(running)
            await running.put(1)

    async def main() -> None:
        with pytest.raises(PipelineError) as failed:
            await work()
        assert "would wait for itself" in str(failed.value.exceptions[0])

    testing.run(main())


@both_signals
def test_a_signal_while_the_handlers_are_installed_stops_the_run(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come at any moment: no signal is lost, none recurses, and the program gets its handlers back."""
    install, at = signal.signal, number

    def install_and_raise(number: int, handler: Any) -> Any:
        before = install(number, handler)
        if number == at:
            monkeypatch.undo()
            came(number)
        return before

    async def main() -> Report:
        async with Pipeline(endless, slow) as running:
            monkeypatch.setattr(signal, "signal", install_and_raise)
            async with running.on_signals():
                return await running.wait()

    assert testing.run(main()).signal == number


def test_an_interrupt_before_the_handlers_are_installed_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then Ctrl-C has its own effect; what was installed by then is taken back."""
    install = signal.signal

    def interrupted(number: int, handler: Any) -> Any:
        if number == signal.SIGTERM:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return install(number, handler)

    async def main() -> list[Any]:
        before = handlers()
        async with Pipeline(slow) as running:
            monkeypatch.setattr(signal, "signal", interrupted)
            with pytest.raises(KeyboardInterrupt):
                await running.on_signals().__aenter__()
            assert handlers() == before
            async with running.on_signals():
                return handlers()

    assert len(set(testing.run(main()))) == 1  # ours, for both


PUT_BACK = """
import asyncio, signal
from asyncpc import Pipeline, consumer

@consumer
async def handle(n):
    pass

async def main():
    async with Pipeline(handle) as running, running.on_signals():
        return signal.getsignal(signal.SIGTERM)

signal.signal(signal.SIGTERM, asyncio.run(main()))
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.realtime
def test_a_signal_to_a_handler_that_was_put_back_after_the_run_has_its_default_action(tmp_path: Path) -> None:
    """Whoever keeps a handler in the block and restores it later must not make the signal run in circles."""
    assert run_child(tmp_path, "-c", PUT_BACK).status == -signal.SIGTERM


# -- beside the handlers of others ----------------------------------------------------------------


def test_a_handler_of_the_program_is_called_too() -> None:
    """A web server that was there first hears of SIGTERM, too, and shuts down."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))

    async def main() -> Report:
        async with Pipeline(endless, slow) as running, running.on_signals():
            came(signal.SIGTERM)
            return await running.wait()

    try:
        assert testing.run(main()).signal == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_an_ignored_signal_stays_ignored() -> None:
    """A shell lets ``program &`` ignore SIGINT, since Ctrl-C is meant for the program in front."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> Report:
        async with Pipeline(endless, slow) as running, running.on_signals():
            assert handlers()[0] is signal.SIG_IGN
            for _ in range(2):
                came(signal.SIGTERM)
            assert handlers()[0] is signal.SIG_IGN
            return await running.wait()

    try:
        assert testing.run(main()).signal == signal.SIGTERM
        assert handlers()[0] is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_handler_of_the_loop_is_called_too() -> None:
    """``loop.add_signal_handler`` is how other servers do it; the loop's own waking stays as it was."""
    received: list[str] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, received.append, "SIGTERM")
    try:
        async with Pipeline(endless, ignore) as running, running.on_signals():
            await asyncio.sleep(0)
            os.kill(os.getpid(), signal.SIGTERM)
            report = await running.wait()
        assert report.signal == signal.SIGTERM
        for _ in range(10):
            await asyncio.sleep(0)
        assert received == ["SIGTERM"]
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


# -- whole programs -------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
from asyncpc import Pipeline, consumer, producer

@producer
async def orders():
    for n in range(5):
        yield n
    print("idle", flush=True)
    await asyncio.Event().wait()

@consumer
async def handle(n):
    if "stuck" in sys.argv:
        await asyncio.Event().wait()
    await asyncio.sleep(0.01)

async def main():
    async with Pipeline(orders, handle) as running, running.on_signals():
        await running.wait()
    print(running.report.done, "done", flush=True)
    return running.report.exit_status

if "uvloop" in sys.argv:
    import uvloop
    sys.exit(uvloop.run(main()))
sys.exit(asyncio.run(main()))
"""


@pytest.mark.realtime
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@both_signals
def test_a_program_with_a_loop_of_its_own_drains(tmp_path: Path, loop: str, number: signal.Signals) -> None:
    """The program of the documentation, in a process, with a sleeping loop and a real signal."""
    child = Child(tmp_path, "-c", PROGRAM, loop)
    child.line_with("idle")
    child.send(number)
    ended = child.end()
    assert (ended.status, ended.out.splitlines()[-1], ended.err) == (128 + number, "5 done", "")
    assert ended.seconds < BUSY


BLOCKED = """
import asyncio, os, signal
from asyncpc import Pipeline, consumer

@consumer
async def blocks(n):
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGTERM)  # without a yield: the loop hears none of them
    os._exit(99)

async def main():
    async with Pipeline([1], blocks) as running, running.on_signals():
        await running.wait()

asyncio.run(main())
"""


@pytest.mark.realtime
def test_the_third_signal_has_its_default_action(tmp_path: Path) -> None:
    """A handler that never yields cannot be drained, but it can be ended by hand."""
    assert run_child(tmp_path, "-c", BLOCKED).status == -signal.SIGTERM


SERVED = """
import asyncio, sys
from contextlib import asynccontextmanager
import uvicorn
from asyncpc import Pipeline, consumer

sys.stderr = sys.stdout

@consumer
async def handle(n):
    await asyncio.sleep(0.01)

@asynccontextmanager
async def lifespan(app):
    async with Pipeline(handle) as orders, orders.on_signals():
        for n in range(20):
            orders.put_nowait(n)
        yield
    print(orders.report.done, "done after signal", orders.report.signal, flush=True)

async def app(scope, receive, send):
    async with lifespan(app):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})

uvicorn.run(app, port=0, lifespan="on")
"""


@pytest.mark.realtime
@both_signals
def test_a_web_server_hears_of_the_signal_too(tmp_path: Path, number: signal.Signals) -> None:
    """In a lifespan of uvicorn, whose own handlers are there first: the run drains, and the server shuts down."""
    child = Child(tmp_path, "-c", SERVED)
    child.line_with("running on")
    child.send(number)
    ended = child.end()
    assert f"20 done after signal {int(number)}" in ended.out
    assert "Finished server process" in ended.out
    assert ended.seconds < BUSY
