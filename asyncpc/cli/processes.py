"""``asyncpc run --processes N``: the command in the parent, which prints what its processes have done together."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio

from ..remote.processes.outcome import Outcome
from ..remote.processes.parent import Processes, Terms
from ..remote.processes.shown import ProcessesShown
from .as_json import as_line, report_as_json
from .metrics import served
from .output import UsageError, print_error, print_left, print_line, print_text
from .web import PageTerms, page_served

if TYPE_CHECKING:
    from ..metrics import Metrics
    from ..web.app import Page

__all__ = ["run_in_processes"]

PASSED_ON: Final = ("target", "set", "loop", "drain_timeout", "log_level", "failed", "traceback")
"""The options that a child needs; what is printed and served is up to the parent."""


def run_in_processes(options: argparse.Namespace) -> int:
    """Run the pipeline in several processes, and print one report; the exit status is as for one process."""
    if options.reload:
        raise UsageError(
            "--reload runs one process: leave --processes out while you edit; "
            "with --processes, SIGHUP replaces the processes by new ones with the new code"
        )
    if options.live:
        raise UsageError(
            "--live shows one process: leave --processes out, or write --web 8000 in place of --live, "
            "and type in another terminal: asyncpc top http://127.0.0.1:8000"
        )
    if not hasattr(signal, "SIGHUP"):
        raise UsageError("--processes needs a POSIX system; start 'asyncpc run' several times instead")
    shown: list[Metrics] = []
    on_page: list[ProcessesShown] = []

    def named(name: str) -> None:
        if not on_page:
            on_page.append(ProcessesShown(name, processes, asyncio.get_running_loop()))
        for metrics in shown:
            from ..metrics import watch_elsewhere  # here, since it needs an extra

            watch_elsewhere(metrics, name, processes)
        shown.clear()

    terms = Terms(
        options.processes,
        [sys.executable, "-m", "asyncpc.cli.child"],
        {name: getattr(options, name) for name in PASSED_ON} | {"views": _views(options)},
    )
    note = _be_silent if options.quiet else print_error
    processes = Processes(terms, print_error, note, named)

    def look(running: Processes) -> None:
        now = running.statistics()
        if now is not None:
            failed = f" · {now.failed:,} failed" if now.failed else ""
            note(f"{options.processes} processes: {now.done:,} done in {now.elapsed:.0f} s{failed}")

    with page_served(partial(_page, on_page), options), served(shown.append, options.metrics) as around:
        outcome = anyio.run(processes.run, around, look)
    _tell(outcome, options)
    return outcome.exit_status


def _views(options: argparse.Namespace) -> str:
    """What a child tells of its run, beside the counts."""
    return "none" if options.web is None else "payloads" if options.web_payloads else "plain"


def _page(on_page: Sequence[ProcessesShown], terms: PageTerms) -> Page:
    from ..web.app import Page  # here, since it needs an extra
    from ..web.guard import Guard

    guard = Guard(terms.token, terms.hosts)
    return Page(lambda: [one for every in on_page for one in every.all()], guard, payloads=terms.payloads)


def _be_silent(line: str) -> None:
    """Show nothing but errors, for ``--quiet``."""


def _tell(outcome: Outcome, options: argparse.Namespace) -> None:
    for told in outcome.lines:
        print_error(told)
    report = outcome.report
    if report is None:
        return
    if options.json:
        errors = [*outcome.errors]
        whole: dict[str, Any] = report_as_json(report, outcome.exit_status, errors)
        together = {"count": options.processes, "crashes": outcome.crashes}
        print_line(as_line(whole | {"failures": [*outcome.failures], "processes": together}))
    elif not options.quiet:
        crashes = f", of which {outcome.crashes} ended unexpectedly and were replaced" if outcome.crashes else ""
        print_text(f"{report}\nin {options.processes} processes{crashes}")
    print_left(report)
