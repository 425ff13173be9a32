"""How errors are put in words: whatever they are, and without a secret."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from spy import Sink
from support import Broken, balanced, counts, error_types, named, no_wait, until
from virtual import both, now, ran, run_virtual

from asyncpc import (
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Retry,
    Unroutable,
    consumer,
    producer,
    route,
    source,
)

# -- errors that refuse to be looked at (H2) ------------------------------------------------------


def _refuses(self: Any, *args: Any) -> Any:
    raise Broken


def hostile(**attributes: Any) -> type[Exception]:
    """An exception class, some of whose attributes raise."""
    return type("Hostile", (Exception,), attributes)


HOSTILE: dict[str, type[Exception]] = {
    "__traceback__": hostile(__traceback__=property(_refuses, _refuses)),
    "with_traceback": hostile(with_traceback=_refuses),
    "add_note": hostile(add_note=_refuses),
    "__str__": hostile(__str__=_refuses),
    "__notes__": hostile(__notes__=property(_refuses, _refuses)),
    "all": hostile(
        __traceback__=property(_refuses, _refuses),
        with_traceback=_refuses,
        add_note=_refuses,
        __str__=_refuses,
        __notes__=property(_refuses, _refuses),
    ),
}


def hostiles(test: Callable[..., None]) -> Callable[..., None]:
    """The test for each of these classes; where it fails it says so in words, since pytest would look at the error."""

    @functools.wraps(test)
    def in_words(*args: Any, **options: Any) -> None:
        try:
            test(*args, **options)
        except Exception as error:
            found = type(error).__name__
            with suppress(Exception):
                found += f": {error}"
        else:
            return
        pytest.fail(found)

    marked: Callable[..., None] = pytest.mark.parametrize("kind", HOSTILE.values(), ids=HOSTILE.keys())(in_words)
    return marked


@both
@hostiles
@pytest.mark.parametrize("retry", [None, Retry(2, wait=no_wait)], ids=["once", "retried"])
def test_h2_an_error_that_refuses_to_be_looked_at_ends_the_run_and_comes_out(
    kind: type[Exception], retry: Any, eager: bool
) -> None:
    """Its own class decides what its attributes do; the run fails of it, in time, and it is what comes out."""

    @consumer(retry=retry)
    async def handle(n: int) -> None:
        raise kind

    with pytest.raises(PipelineError) as failed:
        ran(source(range(3)) >> handle, eager=eager)
    assert error_types(failed.value) == [kind]
    assert failed.value.report.failed == 1
    assert balanced(failed.value.report)


@both
@hostiles
def test_h2_an_entered_run_that_fails_of_such_an_error_does_not_run_on(kind: type[Exception], eager: bool) -> None:
    """Puts are refused, the drain returns, and the error is not swallowed."""

    @consumer
    async def handle(n: int) -> None:
        raise kind

    async def main() -> None:
        async with Pipeline(handle, drain_timeout=5) as running:
            await running.put(1)
            await asyncio.sleep(1)
            assert running.statistics().state == "failed"
            with pytest.raises(QueueShutDown):
                await running.put(2)
            try:
                await running.drain(timeout=0.1)
            finally:
                assert now() < 1.2

    with pytest.raises(PipelineError) as failed:
        run_virtual(main, eager=eager)
    assert error_types(failed.value) == [kind]


@both
@hostiles
@pytest.mark.parametrize("on_error", ["skip", "told"])
def test_h2_an_item_that_fails_with_such_an_error_is_counted(kind: type[Exception], on_error: str, eager: bool) -> None:
    """Its policy holds, whatever the error does when it is looked at."""
    told: list[Failure] = []

    @consumer(on_error="skip" if on_error == "skip" else told.append)
    async def handle(n: int) -> None:
        if n == 1:
            raise kind

    report = ran(source(range(3)) >> handle, eager=eager)
    assert counts(report.stages[0]) == (3, 2, 1)
    assert ": Hostile" in report.stages[0].last_failure
    assert [one.item for one in told] == ([1] if on_error == "told" else [])


@both
@hostiles
def test_h2_a_source_that_raises_such_an_error_ends_the_run(kind: type[Exception], eager: bool) -> None:
    """Fault C13: what it gave is handled, then the error comes out."""
    sink = Sink()

    @producer
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise kind

    with pytest.raises(PipelineError) as failed:
        ran(numbers >> consumer(sink), eager=eager)
    assert error_types(failed.value) == [kind]
    assert sink.items == [1, 2]


@both
@hostiles
def test_h2_on_drop_that_raises_such_an_error_ends_the_run(kind: type[Exception], eager: bool) -> None:
    """It runs in the midst of somebody else's put, which has nothing to do with it."""

    def dropped(n: int) -> None:
        raise kind

    @consumer(maxsize=1, overflow="drop_newest", on_drop=dropped)
    async def handle(n: int) -> None:
        await asyncio.sleep(1)

    async def main() -> None:
        async with Pipeline(handle, drain_timeout=5) as running:
            for n in range(3):
                running.put_nowait(n)
            await asyncio.sleep(0.1)
            assert running.statistics().state == "failed"

    with pytest.raises(PipelineError) as failed:
        run_virtual(main, eager=eager)
    assert error_types(failed.value) == [kind]


# -- passwords and payloads are not printed (H11) -------------------------------------------------


SECRET = "hunter2"
URLS = [
    f"redis://me:{SECRET}@host:6379/0",
    f"amqp://:{SECRET}@host/",
    f"postgresql+asyncpg://me:{SECRET}@host/db?sslmode=require",
    f"nats://a:{SECRET}@one,nats://b:{SECRET}@two",
    f"redis://me:p@{SECRET}@host",
]
urls = pytest.mark.parametrize("url", URLS)


def failing_with(message: str) -> Callable[[Any], Any]:
    async def handle(item: Any) -> None:
        raise ConnectionError(message)

    return handle


@urls
def test_h11_the_report_shows_no_password(url: str) -> None:
    """``last_failure``, and the line of the report that shows it."""
    stage = named("stage", failing_with(f"cannot reach {url}"), on_error="skip")
    report = ran(source([1]) >> stage)
    assert SECRET not in report.stages[0].last_failure
    assert "cannot reach" in report.stages[0].last_failure
    assert SECRET not in str(report)


CUT = [f"{'x' * filling} redis://me:{SECRET * 60}@host/0" for filling in (0, 100, 180, 190, 480)]
"""Messages too long to be shown whole; where they are cut, the password has not ended."""


@pytest.mark.parametrize("message", CUT, ids=len)
def test_h11_a_message_is_redacted_before_it_is_cut(message: str) -> None:
    """Cut first, the password would have no end that tells that it is one."""
    report = ran(source([1]) >> named("stage", failing_with(message), on_error="skip"))
    assert SECRET not in report.stages[0].last_failure
    assert SECRET not in str(report)


@urls
def test_h11_the_log_shows_no_password_of_an_item_that_failed(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The line that counts failed items."""
    with caplog.at_level(logging.DEBUG, "asyncpc"):
        ran(source([1]) >> named("stage", failing_with(f"cannot reach {url}"), on_error="skip"))
    assert "cannot reach" in caplog.text
    assert SECRET not in caplog.text


@urls
def test_h11_the_log_shows_no_password_of_a_run_that_failed(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The line of an entered run that failed, and the traceback below it."""

    async def main() -> None:
        with pytest.raises(PipelineError):
            async with Pipeline(named("stage", failing_with(f"cannot reach {url}"))) as running:
                await running.put(1)

    with caplog.at_level(logging.DEBUG, "asyncpc"):
        run_virtual(main)
    assert "cannot reach" in caplog.text
    assert SECRET not in " ".join(record.getMessage() for record in caplog.records)
    assert SECRET not in caplog.text


@urls
async def test_h11_the_log_shows_no_password_of_a_source_that_raises_late(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line for a source that was left to its thread: redacted, and on one line."""
    at_gate, gate, handled = Event(), Event(), asyncio.Event()

    @producer
    def late() -> Iterator[int]:
        yield 1
        at_gate.set()
        gate.wait(20)
        raise ConnectionError(f"cannot reach {url}\n\x1b[2J")

    @consumer
    async def handle(n: int) -> None:
        handled.set()

    with caplog.at_level(logging.DEBUG, "asyncpc"):
        async with Pipeline(late, handle) as running:
            await handled.wait()
            await until(at_gate.is_set)  # or a stop would close it before
            await running.drain(timeout=5)
        gate.set()
        await until(lambda: "cannot reach" in caplog.text)
    assert SECRET not in caplog.text
    assert all(record.getMessage().isprintable() for record in caplog.records)


APP = """
from asyncpc import consumer, source

async def fails(n):
    raise ConnectionError(MESSAGE)

skipped = source([1]) >> consumer(on_error="skip", name="stage")(fails)
stopped = source([1]) >> consumer(name="stage")(fails)
"""


@pytest.mark.parametrize("message", [f"cannot reach {URLS[0]}", f"cannot reach {URLS[4]}", CUT[-1]], ids=len)
@pytest.mark.parametrize("pipeline", ["skipped", "stopped"])
def test_h11_the_command_line_shows_no_password(pipeline: str, message: str, tmp_path: Path) -> None:
    """Neither with the report on stdout nor with the errors and log lines on stderr."""
    (tmp_path / "app.py").write_text(APP.replace("MESSAGE", repr(message)))
    command = [sys.executable, "-m", "asyncpc", "run", f"app:{pipeline}", "--traceback"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=50)
    assert ended.returncode == 1
    assert "ConnectionError" in ended.stdout + ended.stderr
    assert SECRET not in ended.stdout
    assert SECRET not in ended.stderr


def unroutable(key: Any) -> str:
    """What ``Unroutable`` says of an item with that key."""
    pipeline = source([1]) >> route(lambda item: key, {"known": named("known", Sink())}, name="sort")
    with pytest.raises(PipelineError) as failed:
        ran(pipeline)
    (error,) = failed.value.exceptions
    assert isinstance(error, Unroutable)
    return str(error)


def test_h11_unroutable_shows_no_password_of_a_key() -> None:
    """A key may be a whole payload, such as a URL; where it is cut, the password may not have ended."""
    for key in [*URLS, f"{'x' * 40} redis://me:{SECRET * 20}@host", (1, URLS[0])]:
        assert SECRET not in unroutable(key)


class Repr:
    """A key with a representation of its own."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def __repr__(self) -> str:
        if self.text is None:
            raise ValueError
        return self.text


@pytest.mark.parametrize("key", ["k" * 500, Repr("k" * 500), b"k" * 500], ids=["str", "repr", "bytes"])
def test_h11_unroutable_shows_the_beginning_of_a_key_only(key: Any) -> None:
    """At most 80 characters of its representation, which say which kind of key it was."""
    told = unroutable(key)
    assert "kkk" in told
    assert told.count("k") <= 80 + len("sort no branch for known key")


def test_h11_unroutable_shows_nothing_that_plays_with_a_terminal() -> None:
    """Fault F9: a representation is the program's, and may be of data."""
    assert unroutable(Repr("\x1b[2J\nrow")).isprintable()


def test_h11_unroutable_needs_no_representation() -> None:
    """A key that cannot be shown is no branch's all the same."""
    assert "sort" in unroutable(Repr(None))


# -- what users read ------------------------------------------------------------------------------


def test_the_last_failure_is_safe_to_look_at() -> None:
    """Faults F8, F9: one line, bounded, without what moves a cursor; an error that cannot be shown is named."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    errors: list[Exception] = [ValueError("\x1b[2Ja\nb" + "x" * 1000), Mute()]

    @consumer(on_error="skip")
    async def fails(n: int) -> None:
        raise errors[n]

    def told(n: int) -> str:
        return ran(source([n]) >> fails).stages[0].last_failure

    assert re.fullmatch(r"0: ValueError: \\x1b\[2Ja b" + "x" * 193 + r"… \(test_wording\.py:\d+\)", told(0))
    assert re.fullmatch(r"1: Mute: \(its message cannot be shown\) \(test_wording\.py:\d+\)", told(1))


def test_the_traceback_of_an_error_begins_with_the_users_code() -> None:
    """Protects who reads it: of asyncpc's own frames there are none, of the user's there are all."""

    def deep(item: int) -> None:
        raise ValueError(item)

    @consumer
    async def handle(item: int) -> None:
        deep(item)

    with pytest.raises(PipelineError) as failed:
        ran(source([1]) >> handle)
    (error,) = failed.value.exceptions
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["handle", "deep"]
