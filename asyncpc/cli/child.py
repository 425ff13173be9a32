"""What a process of ``--processes`` does: ``python -m asyncpc.cli.child FD``, with its end of the pipe."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
import traceback
from contextlib import suppress

from ..errors import DefinitionError, StateError
from ..graph.pipeline import plan_of
from ..remote.processes.child import Parent, check_shared
from ..run.report import Report
from .as_json import report_as_json
from .main import run_once
from .output import OutputError, UsageError, fill_standard_files, flush, let_go_of_stdout, logged_at, print_error
from .target import load

__all__ = ["main"]


def main() -> int:
    """Run what the parent says, and tell it how that went; the exit status is for the parent too."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal tells them to all processes; the parent passes them on
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGHUP])
    logging.getLogger("asyncpc").addHandler(logging.NullHandler())
    fill_standard_files()
    parent = Parent(socket.socket(fileno=int(sys.argv[1])), print_error)
    try:
        status = _run(parent)
        with suppress(BrokenPipeError):
            flush()
            return status
    except OutputError as error:
        print_error(f"asyncpc: cannot write to stdout: {error}")
    finally:
        parent.close()
    let_go_of_stdout()
    return 1


def _run(parent: Parent) -> int:
    options = argparse.Namespace(**parent.options(), metrics=None, web=None)

    def tell(report: Report, status: int, errors: list[str]) -> None:
        parent.say("report", report=report_as_json(report, status, errors))

    try:
        with logged_at(options.log_level):
            pipeline = load(options.target, options.set)
            plan = plan_of(pipeline)
            check_shared(plan)
            return run_once(pipeline, options, [parent.begins(plan, options.drain_timeout, options.views)], tell)
    except (UsageError, DefinitionError, StateError) as error:
        cause = error.__cause__ if isinstance(error, UsageError) else error
        trace = traceback.format_exception(cause) if options.traceback and cause is not None else []
        parent.say("failed", status=2, lines=[f"asyncpc: {error}", *"".join(trace).splitlines()])
        return 2


if __name__ == "__main__":
    sys.exit(main())
