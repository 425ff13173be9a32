"""``on_error=`` and ``max_failures=``: what becomes of an item that has failed at last (invariant 7).

Nothing here is on the way of an item that is handled at the first attempt.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from ..checks import check_callback, is_whole, qualified_name
from ..core.emit import put_waiting
from ..core.isolation import InContext
from ..core.plan import Handler
from ..core.stage import ConsumerWorker, Outlet, Stage, stray
from ..core.tracked import Tracked, plain
from ..errors import DefinitionError, TooManyFailures
from ..failure import Failure, KeptFailure
from ..logs import WARNING, log
from ..wording import ITEM, annotate, escaped, forget_repeats, shown, summary

__all__ = ["Failures", "OnError"]


OnError = Literal["stop", "skip"] | Callable[[Failure], object] | asyncio.Queue[Failure]


class Failures(NamedTuple):
    """The option; every stage has it."""

    on_error: Any
    """``"stop"``, ``"skip"``, a function, a queue, or the handler of a consumer.

    None: as ``"stop"``, unless whoever waits for the item takes its failure.
    """
    max_failures: float | None
    """How many items may fail; a float below 1 is a share of the settled items."""

    @classmethod
    def made_from(cls, where: str, on_error: Any = None, max_failures: Any = None) -> Failures:
        """Take a policy by name, or a receiver; raises ``DefinitionError`` for what cannot receive failures."""
        if on_error not in (None, "stop", "skip") and not isinstance(on_error, (asyncio.Queue, Handler)):
            what = "'stop', 'skip', or a consumer, function or queue for Failures"
            check_callback(where, "on_error", on_error, what, may_be_async=True)
        return cls(on_error, max_failures)

    def check(self, where: str, handler: Handler) -> Handler:
        """Check for a number of items, or a share; only where failures do not stop the run."""
        most = self.max_failures
        if most is not None:
            if self.stops:
                raise DefinitionError(
                    f"{where}: max_failures= needs on_error='skip' or a receiver: else the first failure stops the run"
                )
            whole = is_whole(most) and most >= 0
            if not (whole or (isinstance(most, float) and 0 <= most < 1)):
                raise DefinitionError(
                    f"{where}: max_failures={shown(most)} must be a number of items, or a share below 1"
                )
        return handler._replace(dead_letters=self.on_error) if isinstance(self.on_error, Handler) else handler

    @property
    def stops(self) -> bool:
        """Whether the first failure ends the run."""
        return self.on_error is None or self.on_error == "stop"

    def install(self, stage: Stage) -> None:
        """Install the policy."""
        stage.give_up = GiveUp(self)

    def words(self) -> str:
        """Say what happens to items that fail."""
        if self.stops or isinstance(self.on_error, Handler):  # a stage of its own is in the picture
            return ""
        return (
            "skips what fails"
            if self.on_error == "skip"
            else f"what fails goes to {escaped(qualified_name(self.on_error))}"
        )


class GiveUp:
    """Counts a failed item of one stage and reports it under the policy; raises if it was one too many."""

    __slots__ = ("_max_failures", "_on_error", "_stops", "_taken")

    def __init__(self, policy: Failures) -> None:
        self._on_error = policy.on_error
        self._stops = policy.stops
        self._taken = ("all", "unhandled") if policy.on_error is None else ("all",)  # by whoever waits for an item
        self._max_failures = policy.max_failures

    async def __call__(
        self, worker: ConsumerWorker, item: Any, calls: int, error: Exception, history: Sequence[str] = ()
    ) -> None:
        """See the class."""
        stage = worker.stage
        forget_repeats(error)
        kept, what = (
            KeptFailure.of(plain(item), error, calls, stage.handler.name, history),
            f"{shown(plain(item))}: {summary(error)}",
        )
        takes = item.ticket.takes_failures if type(item) is Tracked else "none"
        if takes in self._taken and not (worker.cancelled and takes == "unhandled"):  # a cancel is nobody's failure
            item.ticket.fail(error, kept)
            stage.counts.last_failure = what
            worker.settle_failed(kept)
            return
        worker.given_up = kept  # whatever is raised below, the item has failed with its own error
        if worker.cancelled or self._stops:
            stage.counts.last_failure = what
            annotate(error, ITEM, _note(worker, item))
            raise error
        failed = stage.counts.failed + stage.counts.reporting + 1
        self._check_budget(stage, failed, error)
        if self._on_error != "skip":
            await self._report(worker, item, kept)
        worker.given_up = None
        stage.counts.last_failure = what
        worker.settle_failed(kept)
        if type(item) is Tracked and stage.dead_letters is None:
            item.ticket.skip(error)
        if failed & (failed - 1) == 0:  # 1, 2, 4, 8, …: not a line for each of a million
            name = stage.handler.name
            log(WARNING, "stage %r: %d failed, the last on %s", name, failed, what, stage=name)

    def _check_budget(self, stage: Stage, failed: int, error: Exception) -> None:
        allowed = self._max_failures
        if isinstance(allowed, float):
            allowed *= max(100, stage.done + stage.counts.failed + 1)
        if allowed is not None and failed > allowed:
            raise TooManyFailures(
                f"stage {stage.handler.name!r}: {failed} items failed, max_failures={self._max_failures} allows no more"
            ) from error

    async def _report(self, worker: ConsumerWorker, item: Any, kept: KeptFailure) -> None:
        """Deliver the failure to the receiver that ``on_error`` names, and wait for that."""
        stage = worker.stage
        failure = kept.failure()
        stage.counts.reporting += 1
        try:
            if stage.dead_letters is not None:
                await _put(worker, stage.dead_letters, item, kept, failure)
            else:
                delivery = self._deliver(worker, failure)
                # in a copy of the item's own context, which may be in use now; nobody else sees what the function sets
                await (delivery if worker.inside is None else InContext(delivery, worker.inside.copy()))
        finally:
            stage.counts.reporting -= 1

    async def _deliver(self, worker: ConsumerWorker, failure: Failure) -> None:
        try:
            if isinstance(self._on_error, asyncio.Queue):
                await self._on_error.put(failure)
            elif inspect.isawaitable(result := self._on_error(failure)):
                await result
        except asyncio.CancelledError as cancel:
            raise stray(worker, cancel, "on_error=") from cancel


def _note(worker: ConsumerWorker, item: Any) -> str:
    """Which item an error that ends the run is about, and how many were in the call with it."""
    others = len(worker.item) - 1 if worker.stage.handler.takes_lists and isinstance(worker.item, deque) else 0
    batch = f" and {others} more in its batch" if others else ""
    return f"{shown(plain(item))}{batch}"


async def _put(worker: ConsumerWorker, dead_letters: Outlet, item: Any, kept: KeptFailure, failure: Failure) -> None:
    """Put the failure into the channel of its receiver; it ends there, and counts, even after a cancel."""
    dead_letter = Tracked(failure, item.ticket) if type(item) is Tracked else failure
    assert dead_letters.channel is not None
    try:
        await put_waiting(worker, dead_letters.channel, dead_letter)
    except asyncio.CancelledError:
        dead_letters.emitted += 1
        worker.settle_failed(kept)
        raise
    dead_letters.emitted += 1
