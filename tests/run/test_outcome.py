"""How a run ended: what it failed with, and what it left. All in virtual time."""

from __future__ import annotations

import asyncio
import logging

import pytest
from spy import spying
from support import both, cancelled_with, left, left_after_cancel, named, same

from asyncpc import DrainTimeout, Pipeline, PipelineError, Report, consumer, source, testing

# -- what a run failed with -----------------------------------------------------------------------


def test_every_failure_comes_out_in_the_group() -> None:
    """Invariant 7: errors that siblings raise while they are cancelled are told too, and ``except*`` finds them."""

    @consumer(concurrency=3)
    async def handle(n: int) -> None:
        try:
            await asyncio.sleep(1 if n == 0 else 5)
            raise ValueError
        except asyncio.CancelledError:
            raise KeyError(n) from None

    async def main() -> None:
        kinds: list[str] = []
        try:
            await Pipeline(range(3), handle)
        except* ValueError as group:
            kinds += [type(error).__name__ for error in group.exceptions]
        except* KeyError as group:
            kinds += [type(error).__name__ for error in group.exceptions]
        assert kinds == ["ValueError", "KeyError", "KeyError"]

    testing.run(main())


def test_c2_leaving_the_block_raises_what_could_not_be_finished() -> None:
    """Fault C2, invariant 7: nobody asked for the report, so leaving items behind is an error that has it."""

    async def main() -> None:
        with pytest.raises(PipelineError) as caught:
            async with Pipeline(spying(100), drain_timeout=1) as running:
                await running.put("item")
        assert [type(error) for error in caught.value.exceptions] == [DrainTimeout]
        assert left(caught.value.report) == [("item", "spy")]

    testing.run(main())


def test_the_failure_of_an_entered_run_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Protects a service, which would learn of it at its shutdown; whoever awaits a run has the error at once."""

    @consumer
    async def handle(item: int) -> None:
        raise ValueError(f"item {item}")

    async def main() -> None:
        async with Pipeline(handle) as running:
            await running.put(1)
            await asyncio.sleep(1)
            (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
            assert record.getMessage().startswith("pipeline 'handle' failed in handle-1: ValueError: item 1 (test_")
            assert record.exc_info is not None
            with pytest.raises(PipelineError):
                await running.wait()
        caplog.clear()
        with pytest.raises(PipelineError):
            await (source([1]) >> handle)
        assert not [record for record in caplog.records if record.levelno == logging.ERROR]

    testing.run(main())
    caplog.clear()


# -- a cancelled run says what it left (H10) ------------------------------------------------------


@consumer(concurrency=2)
async def fetch(n: int) -> int:
    return n


@consumer(concurrency=2)
async def save(n: int) -> None:
    await asyncio.Event().wait()


@both
@pytest.mark.parametrize("cancels", [1, 2])
def test_h10_the_cancel_of_a_run_carries_its_report(cancels: int, eager: bool) -> None:
    """``await pipeline`` cannot return the report then, so the ``CancelledError`` has it."""

    async def main() -> None:
        async def run() -> Report:
            return await (source(range(6)) >> fetch >> save)

        assert left_after_cancel(await cancelled_with(run, cancels)) == {"save": 6}

    testing.run(main(), eager=eager)


@both
def test_h10_a_timeout_around_a_run_has_the_report_in_its_cause(eager: bool) -> None:
    """``asyncio.timeout`` makes a ``TimeoutError`` of the cancel, whose cause it is."""

    async def main() -> None:
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(1):
                await (source(range(6)) >> fetch >> save)
        assert left_after_cancel(late.value.__cause__) == {"save": 6}

    testing.run(main(), eager=eager)


@both
def test_h10_a_cancelled_run_logs_what_was_left_by_stage(eager: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A warning names the stages and how many items each left; never an item."""

    async def main() -> None:
        async def run() -> Report:
            return await (source(f"item {n}" for n in range(6)) >> named("fetch", same) >> save)

        await cancelled_with(run)

    with caplog.at_level(logging.WARNING, "asyncpc"):
        testing.run(main(), eager=eager)
    (line,) = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert "save" in line
    assert "6" in line
    assert "item" not in line.replace("items", "")


@both
def test_h10_the_report_of_a_cancelled_run_counts_what_failed_meanwhile(eager: bool) -> None:
    """A handler that fails while it is cancelled: the cancel comes out, and its report tells of both."""

    @consumer(concurrency=2)
    async def stage(n: int) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if n == 1:
                raise ValueError from None
            raise

    async def main() -> None:
        async def run() -> Report:
            return await (source(range(3)) >> stage)

        error = await cancelled_with(run)
        report = getattr(error, "report", None)
        assert isinstance(report, Report)
        assert (report.failed, report.left_by_stage()) == (1, {"stage": 2})

    testing.run(main(), eager=eager)
