"""``Intake``: how items come into a run from outside its sources, by ``put`` and by :func:`feed`, and until when."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar
from functools import partial
from threading import get_ident
from typing import Any

from ..core.channel import Channel
from ..core.plan import Plan
from ..core.seams import Ticket
from ..core.stage import NO_ITEM, ConsumerWorker
from ..core.tracked import Tracked, fed, settle_all
from ..errors import QueueShutDown, StateError
from .accounting import Accounts

__all__ = ["Intake", "feed", "tickets_in_flight"]

_current: ContextVar[Intake] = ContextVar("asyncpc_run")
"""The intake of the run that the calling handler belongs to."""

_worker: ContextVar[ConsumerWorker | None] = ContextVar("asyncpc_worker", default=None)
"""The worker that made the call, where items may have tickets."""


def feed(item: Any) -> None:
    """Put ``item`` into the first stage of the run that the calling handler belongs to, without waiting.

    It ignores the bound of the queue, so a full queue cannot deadlock on its own workers. The report counts the item as
    ``fed``. The run does not end before the item, and all that its handling feeds in turn, has been handled. A handler
    in a thread may call it too; many calls wake the loop once.

    Raises ``StateError`` outside a handler, and in a process, which cannot reach the run; ``QueueShutDown`` when the
    run has ended.
    """
    intake = _current.get(None)
    if intake is None:
        from ..offload.child import serving  # here, since most programs have none

        if serving:
            raise StateError(
                f"feed() does not reach the run from a process or interpreter of stage {serving!r}: return the items, "
                "or yield them, and let the next stage feed them"
            )
        raise StateError("feed() works only inside a consumer's handler; elsewhere, use 'await running.put(item)'")
    worker = _worker.get()
    intake.feed(item, None if worker is None else worker.ticket)


def tickets_in_flight() -> list[Ticket | None]:
    """Those of the items that the calling handler has got, in their order; None for one that nobody waits for."""
    worker = _worker.get()
    if worker is None or worker.item is NO_ITEM:
        return []
    taken = worker.item
    if type(taken) is deque:  # a batch is given up item by item, and the first one is being dealt with
        taken = [taken[0]] if taken else []  # none is left once the last has been settled
    items = worker.stage.inbox.items_in(taken)
    return [one.ticket if type(one) is Tracked else None for one in items]


class Intake:
    """What comes into the ``first`` channel of one run from outside its sources.

    ``has_ended`` says whether the run has.
    """

    __slots__ = ("_accounts", "_first", "_has_ended", "_plan")

    def __init__(
        self,
        plan: Plan,
        first: Channel[Any],
        accounts: Accounts,
        has_ended: Callable[[], bool],
    ) -> None:
        self._plan = plan
        self._first = first
        self._accounts = accounts
        self._has_ended = has_ended

    def open(self, context: Context, runs_here: Callable[[], bool]) -> None:
        """Let handlers feed, which begin in copies of ``context``, and do not let them wait for room in ``put``.

        ``runs_here`` says whether the caller is one of the run's workers.
        """
        context.run(_current.set, self)
        context.run(_worker.set, None)  # or a run in a handler would take what is in flight there for its own
        self._first.check_waiter = partial(self._check_waiter, runs_here)

    def close(self) -> None:
        """Refuse callers of ``put`` from now on, since the run drains or has ended; handlers may still feed."""
        self._first.refuse(partial(_refusal, self._plan, self._has_ended))

    def fail(self, where: str) -> None:
        """Refuse callers of ``put``, since the run has failed in ``where``."""
        why = f"pipeline {self._plan.name!r} failed in {where}: the item was not taken"
        self._first.refuse(partial(QueueShutDown, why))

    def know(self, worker: ConsumerWorker, context: Context) -> None:
        """Let what the worker's handler feeds count as made of its item; it begins in ``context``."""
        context.run(_worker.set, worker)

    def feed(self, item: Any, ticket: Ticket | None) -> None:
        """See :func:`feed`; ``ticket`` is that of the item in whose call it was called."""
        first = self._first
        if len(self._plan.entries) > 1:
            assert first.refusal is not None
            raise first.refusal()
        if get_ident() != first.thread:
            from ..offload.bridge import bridge_to  # here, since most programs have no threads

            bridge_to(first).feed(item, ticket, self)
            return
        first.check_caller()
        if self._has_ended() or first.closed:
            raise QueueShutDown("feed() after the end of its run: the item was not taken")
        item = fed(item, ticket)
        try:
            first.enqueue(item)  # first, since key= or priority= may refuse it
        except BaseException:
            settle_all([item])
            raise
        self._accounts.fed += 1

    def count_fed(self, items: int) -> None:
        """Count items that handlers have fed in threads."""
        self._accounts.fed += items

    def _check_waiter(self, runs_here: Callable[[], bool]) -> None:
        """Refuse to let a handler of this run wait for room in ``put``: it may be the one that has to make it."""
        if _current.get(None) is self and (get_ident() != self._first.thread or runs_here()):
            raise StateError(
                f"the queue of stage {self._plan.nodes[self._plan.entries[0]].handler.name!r} is full, and a handler "
                "of the same run that waits for room there may wait for itself: write feed(item), which never waits, "
                "give the stage a larger maxsize=, or put from outside the handlers"
            )


def _refusal(plan: Plan, has_ended: Callable[[], bool]) -> QueueShutDown:
    state = "has ended" if has_ended() else "is draining"
    return QueueShutDown(f"pipeline {plan.name!r} {state}: the item was not taken")
