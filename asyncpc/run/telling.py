"""Where each worker of a run is, for a person who asks the process with a signal: SIGUSR1.

The answer is made in a thread of its own, which ends with it: while the event loop is blocked nobody else could tell,
and in the handler of a signal, which may come between any two steps of the program, hardly anything may be called.
"""

from __future__ import annotations

from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from ..core.stage import ConsumerWorker
from ..logs import WARNING, log
from .supervisor import Supervisor
from .verdict import verdict
from .workers import WorkerState, workers_of

__all__ = ["answer_apart", "where_all_are"]

NAMED: Final = 3
"""Workers that are named of those that do the same at the same place."""

WORDS: Final = {
    "opens its resource": "opening its resource",
    "is at work": "at work",
    "waits for room": "waiting for room in ",
    "is held back": "held back by ",
    "waits for items": "waiting for items",
}


def answer_apart(run: Supervisor, tell: Callable[[str], None] | None) -> None:
    """Tell it in a thread, line by line, by default as one record of the log; may be called by a signal handler."""

    def answer() -> None:
        with suppress(Exception):  # whatever is wrong with stderr, the run goes on
            lines = where_all_are(run)
            if tell is None:
                log(WARNING, "%s", "\n".join(lines), pipeline=run.plan.name)
            else:
                for line in lines:
                    tell(line)

    with suppress(RuntimeError):  # no thread can be had, and the run goes on without an answer
        start_new_thread(answer, ())  # a Thread takes a lock, which what the signal interrupted may have


def where_all_are(run: Supervisor) -> list[str]:
    """The verdict, and a line for all workers that do the same at the same place; not in the thread of the loop."""
    return [f"pipeline {run.plan.name!r}: {verdict(run.looks.look()).text}", *_places(run)]


def _places(run: Supervisor) -> Iterator[str]:
    workers = {worker.name: worker for stage in run.stages for worker in tuple(stage.staff.workers)}
    alike: dict[tuple[str, str, str, str], list[ConsumerWorker]] = {}
    for state in workers_of(run.stages, run.looks.seconds):
        if (worker := workers.get(state.name)) is not None:
            key = state.stage, state.doing, state.why, _place(run, state, worker)
            alike.setdefault(key, []).append(worker)
    for (_, doing, why, place), those in alike.items():
        names = ", ".join([worker.name for worker in those[:NAMED]])
        names += f" and {len(those) - NAMED} more" if len(those) > NAMED else ""
        seconds = max([run.looks.seconds(worker) for worker in those])
        since = f" for {'up to ' if len(those) > 1 else ''}{seconds:.0f} s" if seconds >= 1 else ""
        yield f"  {names}: {WORDS[doing]}{why}{since}{f' ({place})' if place else ''}"


def _place(run: Supervisor, state: WorkerState, worker: ConsumerWorker) -> str:
    return run.looks.place(worker) if state.doing in ("is at work", "opens its resource") else ""
