"""``retry=``: how often a handler that raised is called again with its item; and ``RetryLater``, which asks for it.

``RetryLater`` itself is in ``errors``, and the default wait between two calls, ``exponential``, in ``backoff``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import isfinite
from typing import Any, NamedTuple

from ..backoff import exponential
from ..checks import SECONDS_OF_ATTEMPT, at_least_1, check_callback, is_whole
from ..core.channel import Ended
from ..core.emit import Refused
from ..core.plan import Handler
from ..core.stage import DONE, ConsumerWorker, Stage, give_up_all, stray
from ..core.tracked import plain
from ..core.worker import next_attempt
from ..errors import DefinitionError, RetryLater
from ..events import ItemRetried
from ..failure import HISTORY_KEPT, LONGEST_EARLIER
from ..mistakes import explained
from ..wording import annotate, cut, described, forget_repeats, shown

__all__ = ["Retry", "Retrying"]


@explained
class Retry(NamedTuple):
    """How often a handler that raised is called again with its item; the item stays with its worker meanwhile."""

    attempts: int = 3
    """The most calls for one item, the first included."""
    on: type[Exception] | tuple[type[Exception], ...] = Exception
    """Exceptions after which the handler is called again; after any other the item fails at once."""
    wait: Callable[[int], float] = exponential
    """Returns the seconds to wait before attempt 2, 3, …; it gets the number of the last attempt, 1, 2, …

    If it raises, or returns something that is not a time, the item fails with that error.
    """


class Retrying(NamedTuple):
    """The option; a stage without a :class:`Retry` still obeys ``RetryLater``."""

    policy: Retry | None

    @classmethod
    def made_from(cls, where: str, retry: object = None) -> Retrying:
        """Take a number of attempts, or a :class:`Retry`; raises ``DefinitionError`` for anything else."""
        if is_whole(retry):
            retry = Retry(attempts=retry)
        if retry is not None and not isinstance(retry, Retry):
            raise DefinitionError(
                f"{where}: retry={shown(retry)} must be a number of attempts, or Retry(attempts, on=…)"
            )
        return cls(retry)

    def check(self, where: str, handler: Handler) -> Handler:
        """A number of attempts, classes of exceptions and a function of seconds."""
        if (retry := self.policy) is None:
            return handler
        at_least_1(where, "Retry attempts", retry.attempts)
        kinds = retry.on if isinstance(retry.on, tuple) else (retry.on,)
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise DefinitionError(
                f"{where}: Retry(on={shown(retry.on)}): on must be an Exception class, or a tuple of them"
            )
        check_callback(where, "Retry wait", retry.wait, SECONDS_OF_ATTEMPT)
        return handler

    def install(self, stage: Stage) -> None:
        """Try again before anything else becomes of an item."""
        stage.recover = Attempts(self.policy)

    def words(self) -> str:
        """How many attempts."""
        return "" if self.policy is None else f"{self.policy.attempts} attempts"


class Attempts:
    """Calls a handler that raised again; what it fails with at last is left to the stage."""

    __slots__ = ("_retry",)

    def __init__(self, retry: Retry | None) -> None:
        self._retry = retry

    async def __call__(self, worker: ConsumerWorker, item: Any, error: Exception) -> Any:
        """The value of a later attempt; DONE if the stage's policy gives the item up."""
        stage, attempts, calls = worker.stage, 1, 1
        history: list[str] = []  # of what was retried
        while not worker.cancelled:  # or the handler made an error of its cancel
            if isinstance(error, RetryLater):
                why = "the back-off that RetryLater asked for"
                forget_repeats(error)  # it may ask any number of times
            elif self._retry is not None and attempts < self._retry.attempts and isinstance(error, self._retry.on):
                why = "the back-off of its retries"
            else:
                break
            history = [*history, cut(described(error), LONGEST_EARLIER)][-HISTORY_KEPT:]
            try:
                seconds = self._seconds(stage, error, attempts)
            except Exception as no_time:
                error = no_time
                break
            attempts += not isinstance(error, RetryLater)
            stage.counts.retried += 1
            calls += 1
            _tell(stage, item, error, calls - 1, seconds)
            await stage.hold_back(worker, why, asyncio.sleep(seconds))
            try:
                return await next_attempt(worker)(item)
            except Refused as refused:  # no failure of the call: its values are gone, but for one
                await give_up_all(worker, item, calls, refused.error, history)
                return DONE
            except asyncio.CancelledError as cancel:
                await stage.fail_at_last(worker, item, calls, stray(worker, cancel), history)
                return DONE
            except Ended:
                raise
            except Exception as again:
                error = again
        if worker.cancelled and isinstance(error, RetryLater):  # made of a cancel: that is no failure
            raise asyncio.CancelledError from error
        if calls > 1:
            annotate(error, "after ", str(calls), " calls")
        await stage.fail_at_last(worker, item, calls, error, history)
        return DONE

    def _seconds(self, stage: Stage, error: Exception, attempts: int) -> float:
        """How long to wait after that error; raises what ``wait`` raises, and ``ValueError`` if it gives no time."""
        if isinstance(error, RetryLater):
            seconds = error.seconds
        else:
            assert self._retry is not None
            try:
                seconds = self._retry.wait(attempts)
            except Exception as raised:
                annotate(raised, f"in Retry(wait=) of stage {stage.handler.name!r}")
                raise
        if not _is_time(seconds):
            raise ValueError(
                f"stage {stage.handler.name!r}: cannot wait {shown(seconds)} seconds before another attempt; "
                "give a time"
            ) from error
        return max(0.0, seconds)  # the moment that a server named may just have passed


def _tell(stage: Stage, item: Any, error: Exception, calls: int, seconds: float) -> None:
    if events := stage.run.events:
        given = list(map(plain, item)) if stage.handler.takes_lists else plain(item)
        events.tell(ItemRetried(events.pipeline, stage.handler.name, given, described(error), calls, seconds))


def _is_time(seconds: Any) -> bool:
    try:
        return isfinite(seconds)
    except (TypeError, OverflowError):  # no number, or a whole one beyond all times
        return False
