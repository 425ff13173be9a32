"""The failures that the screens show: those alike together, and a bounded number of them, whatever fails."""

from __future__ import annotations

from collections.abc import Callable

from support import named

from asyncpc import Failure, Pipeline, testing
from asyncpc.watch.failures import KEPT, Failures, FailuresAlike


def seen_of(items: int, error_of: Callable[[int], Exception]) -> tuple[FailuresAlike, ...]:
    """What is seen of a run whose every item fails."""

    async def fails(n: int) -> None:
        raise error_of(n)

    def forget(failure: Failure) -> None: ...

    async def main() -> tuple[FailuresAlike, ...]:
        async with Pipeline(named("fails", fails, on_error=forget)) as running:
            failures = Failures(running)
            for n in range(items):
                await running.put(n)
            await running.drain()
        return failures.alike()

    return testing.run(main())


def test_thirty_alike_push_no_other_out() -> None:
    """The only one of its kind may be the one that matters."""
    often, once = seen_of(100, lambda n: KeyError(n) if n == 0 else ValueError(n))
    assert (often.kind, often.times, often.message) == ("ValueError", 99, "99")
    assert (once.kind, once.times, once.stage) == ("KeyError", 1, "fails")
    assert once.place.startswith("test_failures.py:")
    assert once.place.endswith(" in fails")


def test_the_kinds_seen_last_are_kept() -> None:
    """A program may make a class for each error."""
    seen = seen_of(KEPT + 20, lambda n: type(f"E{n}", (Exception,), {})())
    assert [one.kind for one in seen] == [f"E{n}" for n in reversed(range(20, KEPT + 20))]


def test_the_beginning_of_a_long_message_is_kept() -> None:
    """It may hold what a server has answered; a page gets it again every second."""
    (seen,) = seen_of(1, lambda n: ValueError("line\n" + 1_000_000 * "x"))
    assert seen.message.startswith("line xxx")
    assert len(seen.message) < 300
