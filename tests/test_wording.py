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
from typing import Any, cast

import pytest
from spy import Sink
from support import Broken, balanced, both, counts, error_types, named, no_wait, until, workers

from asyncpc import (
    Adaptive,
    Batch,
    Breaker,
    DefinitionError,
    Failure,
    Pipeline,
    PipelineError,
    QueueShutDown,
    Rate,
    Retry,
    Running,
    StateError,
    Unroutable,
    broadcast,
    consumer,
    merge,
    producer,
    route,
    run,
    source,
    testing,
)
from asyncpc.graph.definitions import OPTIONS
from asyncpc.testing import now
from asyncpc.wording import place_of, shown

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
        testing.run(source(range(3)) >> handle, eager=eager)
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
        testing.run(main(), eager=eager)
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

    report = testing.run(source(range(3)) >> handle, eager=eager)
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
        testing.run(numbers >> consumer(sink), eager=eager)
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
        testing.run(main(), eager=eager)
    assert error_types(failed.value) == [kind]


# -- passwords and payloads are not printed (H11) -------------------------------------------------


SECRET = "hunter2"
URLS = [
    f"redis://me:{SECRET}@host:6379/0",
    f"amqp://:{SECRET}@host/",
    f"postgresql+asyncpg://me:{SECRET}@host/db?sslmode=require",
    f"nats://a:{SECRET}@one,nats://b:{SECRET}@two",
    f"redis://me:p@{SECRET}@host",
    f"smtp://me@example.com:{SECRET}@mail.example.com:587",
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
    report = testing.run(source([1]) >> stage)
    assert SECRET not in report.stages[0].last_failure
    assert "cannot reach" in report.stages[0].last_failure
    assert SECRET not in str(report)


CUT = [f"{'x' * filling} redis://me:{SECRET * 60}@host/0" for filling in (0, 100, 180, 190, 480)]
"""Messages too long to be shown whole; where they are cut, the password has not ended."""


@pytest.mark.parametrize("message", CUT, ids=len)
def test_h11_a_message_is_redacted_before_it_is_cut(message: str) -> None:
    """Cut first, the password would have no end that tells that it is one."""
    report = testing.run(source([1]) >> named("stage", failing_with(message), on_error="skip"))
    assert SECRET not in report.stages[0].last_failure
    assert SECRET not in str(report)


@urls
def test_h11_the_log_shows_no_password_of_an_item_that_failed(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The line that counts failed items."""
    with caplog.at_level(logging.DEBUG, "asyncpc"):
        testing.run(source([1]) >> named("stage", failing_with(f"cannot reach {url}"), on_error="skip"))
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
        testing.run(main())
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
        testing.run(pipeline)
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


async def each(url: str = URLS[0], *, needed: int = 1) -> AsyncIterator[int]:
    yield needed


async def handle(item: object) -> None: ...


URL: Any = URLS[0]
stage: Any = consumer
origin: Any = producer
pipeline: Any = Pipeline
"""As who does not ask a type checker meets them."""
SHOW: Any = named("show", handle)
GIVEN: dict[str, Callable[[], object]] = {
    "a part": lambda: source([1]) >> URL,
    "a first part": lambda: pipeline(functools.partial(print, URL), SHOW),
    "a part of parts": lambda: URL >> SHOW,
    "a pipeline": lambda: run(URL),
    "a branch": lambda: broadcast(SHOW, URL),
    "branches": lambda: route(str, URL),
    "by": lambda: route(URL, {1: SHOW}),
    "a name": lambda: stage(name=[URL])(handle),
    "a name that cannot be printed": lambda: source([1], f"{URL}\n"),
    "a named part": lambda: source([1], URL) >> cast(Any, source([2], URL)),
    "a source of a source": lambda: source(source([1], URL)),
    "a named stage": lambda: stage(name=URL, retry=-1)(handle),
    "a named pipeline": lambda: pipeline(SHOW, name=URL, maxsize=-1),
    "arguments of a producer": lambda: origin(each)(wrong=URL),
    "on_unfinished": lambda: pipeline(SHOW, on_unfinished=URL),
    "drain_timeout": lambda: pipeline(SHOW, drain_timeout=URL),
    "total": lambda: source([1], total=URL),
    "restart": lambda: origin(restart=URL)(each),
    "where a source is read": lambda: source([1], run_in=URL),
    "a loop": lambda: run(source([1]) >> SHOW, loop=URL),
    **{
        f"{option}=": functools.partial(lambda option: stage(**{option: URL})(handle), option)
        for option in OPTIONS
        if option not in ("name", "context")
    },
    "a rate": lambda: stage(rate=Rate(URL))(handle),
    "a breaker": lambda: stage(breaker=Breaker(1, URL))(handle),
    "a batch": lambda: stage(batch=Batch(URL))(handle),
    "a wait": lambda: stage(retry=Retry(2, wait=URL))(handle),
    "a range": lambda: stage(concurrency=Adaptive(1, URL, target=1))(handle),
}
"""Mistakes with a value that holds a password, at all places where one can be given."""


@pytest.mark.parametrize("mistake", GIVEN)
def test_h11_a_wrong_value_is_shown_without_its_password(mistake: str) -> None:
    """Somebody forgets an option's name, and pastes the error into a ticket."""
    with pytest.raises(DefinitionError) as refused:
        GIVEN[mistake]()
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "given", [[1] * 1000, "x" * 1000, {n: n for n in range(1000)}], ids=lambda given: type(given).__name__
)
def test_a_wrong_value_is_shown_in_part(given: Any) -> None:
    """A table in the place of a stage is no message."""
    for wrong in (lambda: source([1]) >> given, lambda: run(given), lambda: stage(maxsize=given)(handle)):
        with pytest.raises(DefinitionError) as refused:
            wrong()
        assert len(str(refused.value)) < 250


@urls
def test_h11_nothing_that_a_run_tells_shows_a_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The name of a source, a stage, a branch and a pipeline, an item and an error: each is a URL with a password."""

    async def fail(item: object) -> None:
        raise ConnectionError(f"cannot reach {url}")

    stages = {url: named(url, fail, on_error="skip"), "other": named(f"{url}/1", fail)}
    pipeline: Pipeline[Any, Any] = Pipeline(
        merge(source([url], name=url), source([(1, {url})], name=url)),
        route(lambda item: url if isinstance(item, str) else "other", stages, name=f"{url}/2"),
        name=f"{url}/3",
    )

    async def look(running: Running[Any, Any]) -> list[str]:
        with pytest.raises(StateError) as unknown:
            running.scale(f"redis://:{SECRET}@nowhere", 2)
        running.scale(url, 2)
        running.set_rate(url, Rate(10))
        told = [str(unknown.value), *workers(), running.bottleneck(), str(running.statistics())]
        await asyncio.sleep(10)
        now = running.statistics()
        return [*told, str(now), now._repr_html_(), str(now.as_dict()), running.bottleneck()]

    async def main() -> tuple[PipelineError, list[str]]:
        with pytest.raises(PipelineError) as failed:
            async with pipeline as running:
                told = await look(running)
        return failed.value, told

    with caplog.at_level(logging.DEBUG, "asyncpc"):
        error, told = testing.run(main())
    report = error.report
    assert [failure.item for failure in report.failures] == [url, (1, {url})]
    told += [str(report), repr(report), report._repr_html_(), *report.left_by_stage(), *report.abandoned]
    told += [stage.last_failure for stage in report.stages]
    for failure in report.failures:
        told += [failure.error, failure.stage, failure.traceback]
    told += [str(error), repr(pipeline), pipeline._repr_html_(), *map(repr, stages.values()), repr(source([1], url))]
    told += [note for one in error.exceptions for note in one.__notes__]
    told += [caplog.text, *(record.getMessage() for record in caplog.records)]
    assert "cannot reach" in caplog.text
    assert len(error.exceptions[0].__notes__) == 2
    assert [text for text in told if SECRET in text] == []


def test_only_what_is_shown_of_an_item_is_read() -> None:
    """Protects the loop: a failed item may be a million rows."""
    read = 0

    class Row:
        def __repr__(self) -> str:
            nonlocal read
            read += 1
            return "a row"

    async def fail(item: object) -> None:
        raise ValueError

    rows = [Row()] * 1_000_000
    items = [rows, tuple(rows), dict.fromkeys(range(100_000), Row()), [rows] * 3, {1: rows}]
    report = testing.run(source(items) >> named("stage", fail, on_error="skip"))
    assert report.failed == len(items)
    assert read < 50 * len(items)


@pytest.mark.parametrize(
    "value",
    [[], (), {}, set(), [1], (1,), (1, 2), {1}, frozenset({1}), {"a": [1, {"b": ()}], "c": None}, "a" * 9, b"a", 1.5],
    ids=repr,
)
def test_a_small_value_is_shown_as_it_is(value: object) -> None:
    """Protects who reads it: what fits is what Python would show."""
    assert shown(value) == repr(value)


def test_a_value_inside_itself_is_shown() -> None:
    """It has no end, and what is shown of it has one."""
    rows: list[Any] = [1]
    rows.append(rows)
    assert shown(rows).startswith("[1, [1, [1, ")
    assert len(shown(rows)) == 80
    for _ in range(100):
        rows = [rows]
    assert shown(rows) == "[" * 21 + "…" + "]" * 21


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
        return testing.run(source([n]) >> fails).stages[0].last_failure

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
        testing.run(source([1]) >> handle)
    (error,) = failed.value.exceptions
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["handle", "deep"]


# -- where an error was raised --------------------------------------------------------------------


def raised_in(file: Path, text: str) -> str:
    """Where the error is said to have been raised that a file with this text raises when it is read."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    try:
        exec(compile(text, str(file), "exec"), {})
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None  # without this file
        return place_of(error)
    raise AssertionError


def test_a_place_is_told_whatever_its_file_is_called(tmp_path: Path) -> None:
    """The name of the function is left out, and of the file nothing."""
    assert raised_in(tmp_path / "made in house.py", "1 / 0") == "made in house.py:1"


def test_a_place_in_a_library_comes_before_one_in_the_standard_library(tmp_path: Path) -> None:
    """Without a line of the program's own, the library tells more than what it calls."""
    assert raised_in(tmp_path / "site-packages" / "driver.py", "import json\njson.loads('?')") == "driver.py:2"
