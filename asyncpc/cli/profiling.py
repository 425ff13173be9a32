"""``asyncpc profile``: measures while the program's output is hidden, and prints everything at the end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

from ..core.plan import Plan
from ..graph.decorators import consumer, source
from ..graph.pipeline import Pipeline, plan_of
from ..run.report import PipelineError, Report
from ..runner import run_watched
from ..watch.findings import Profile, Record, verdict
from ..watch.foot import PlainBoard
from ..watch.profile import profile
from ..wording import redacted
from .output import print_error, print_failure, print_text

__all__ = ["profile_and_tell"]

HIDDEN: Final = "what they print is hidden"


def profile_and_tell(pipeline: Pipeline[Any, Any], options: argparse.Namespace) -> int:
    """Print the profile of each stage, and which stage limits; the exit status."""
    found: list[Record | Profile] = []
    try:
        try:
            report = _measure(pipeline, options, found)
        finally:
            for part in found:
                print_text(f"{part}\n")
    except PipelineError as error:
        print_failure(error, options)
        return 1
    if report.signal is not None:
        print_error("asyncpc: stopped before all stages were measured")
        return report.exit_status
    record, profiles = found[0], [one for one in found if isinstance(one, Profile)]
    assert isinstance(record, Record)
    print_text(verdict(record, profiles))
    return 1 if not record.items or any(one.failed for one in profiles) else 0


def _measure(pipeline: Pipeline[Any, Any], options: argparse.Namespace, found: list[Record | Profile]) -> Report:
    """Measure; each part is put into ``found`` as soon as it is known."""
    plan = plan_of(pipeline)
    parts = source(profile(pipeline, options.items, options.seconds), plan.name)
    with _silence() as stderr, _saying(plan, stderr) as say:

        async def keep(part: Record | Profile) -> None:
            found.append(part)
            say(found)

        say(found)
        return run_watched(parts >> consumer(keep), loop=options.loop)


@contextmanager
def _saying(plan: Plan, stderr: TextIO) -> Iterator[Callable[[list[Record | Profile]], None]]:
    """Say on one line what is under way: on a terminal what it is now, elsewhere once what it will be."""
    names = [node.handler.name for node in plan.nodes[: plan.main] if node.handler.branches is None]
    sources = " + ".join([origin.name for origin in plan.origins])
    if not stderr.isatty():
        print_error(f"asyncpc: recording {sources}, then calling {', '.join(names)}, many times; {HIDDEN}", stderr)
        yield lambda found: None
        return
    board = PlainBoard(stderr)

    def say(found: list[Record | Profile]) -> None:
        measured = len([one for one in found if isinstance(one, Profile) and one.handler.branches is None])
        if not found:
            board.draw([[(redacted(f"asyncpc: recording {sources}"), "")]])
        elif measured < len(names):
            what = f"measuring {names[measured]}, {measured + 1} of {len(names)} stages"
            board.draw([[(redacted(f"asyncpc: {what}"), "")]])

    try:
        yield say
    finally:
        board.clear()


@contextmanager
def _silence() -> Iterator[TextIO]:
    """Let what this process and its children print vanish; gives what stderr was.

    The file descriptors are changed, since a C library prints too, and a process that a stage starts inherits them.
    """
    _flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with open(kept[1], "w", encoding="utf-8", errors="backslashreplace", closefd=False) as stderr:
            yield stderr
    finally:
        _flush()  # what was printed may wait in a buffer
        for number, before in enumerate(kept, 1):
            os.dup2(before, number)
            os.close(before)
        os.close(nowhere)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
