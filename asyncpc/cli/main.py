"""The command line: ``asyncpc run app:pipeline``, ``top``, ``show``, ``profile``, ``queue`` and ``completion``.

The report goes to stdout; errors, hints and the progress line go to stderr. The exit status is 0 when all is done, 1
when the run or an item failed or items were left, 2 when the command could not begin, and 130 or 143 after a signal and
a full drain.
"""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from .. import __version__
from ..errors import ConservationError, DefinitionError, StateError
from ..graph.pipeline import Pipeline, plan_of
from ..live import live_beside
from ..run.report import PipelineError, Report
from ..run.running import Running
from ..run.watching import Beside, giving_way
from ..runner import run_watched
from ..watch.drawing import draw, mermaid
from ..watch.progress import progress
from ..wording import escaped, redacted, shown
from .as_json import as_line, report_as_json
from .completion import FILES, completion_of
from .factory import setting
from .failed import FailedItems
from .listening import THIS_MACHINE
from .metrics import address, served
from .output import (
    OutputError,
    UsageError,
    fill_standard_files,
    flush,
    let_go_of_stdout,
    line_of,
    line_of_exit,
    lines_of,
    logged_at,
    print_error,
    print_exit,
    print_failure,
    print_left,
    print_line,
    print_text,
    print_trace,
    status_of_exit,
)
from .queue import add_queue
from .reload import run_again_and_again
from .target import load
from .web import PageTerms, page_served

if TYPE_CHECKING:
    from ..web.app import Page

__all__ = ["Tell", "main", "run_once"]

Tell = Callable[[Report, int, list[str]], None]
"""Tells of a run: its report, the exit status, and what it failed with."""

SILENT: Final = logging.NullHandler()
"""Keeps Python from printing the log of a target that sets up none: the command itself says what went wrong."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    logging.getLogger("asyncpc").addHandler(SILENT)
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    fill_standard_files()
    try:
        status: int = options.command(options)
        flush()
    except (UsageError, DefinitionError, StateError) as error:
        print_error(f"asyncpc: {error}")
        print_trace(options, error.__cause__ if isinstance(error, UsageError) else error)
        return 2
    except KeyboardInterrupt as error:
        print_error("asyncpc: interrupted")
        print_trace(options, error)
        return 130
    except SystemExit as error:
        print_exit(error)
        return status_of_exit(error, is_done=False)
    except BrokenPipeError:  # the reader of the output is gone
        let_go_of_stdout()
        return 1
    except OutputError as error:
        print_error(f"asyncpc: cannot write to stdout: {error}")
        print_trace(options, error.__cause__)
        let_go_of_stdout()
        return 1
    return status


class _Parser(argparse.ArgumentParser):
    """Says what was typed without passwords and control characters."""

    def error(self, message: str) -> NoReturn:
        super().error(escaped(redacted(message)))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="asyncpc", description="Run a pipeline, draw it, or find what limits it.")
    parser.add_argument("--version", action="version", version=f"asyncpc {__version__}")
    common = _Parser(add_help=False)
    common.add_argument(
        "target",
        metavar="module[:pipeline]",
        help="a pipeline in a module, such as app.pipelines:crawl; the only one of a module need not be named",
    )
    common.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a value for the function that makes the pipeline, if module:function names one",
    )
    common.add_argument("--traceback", action="store_true", help="show errors in full")
    commands = parser.add_subparsers(required=True, metavar="run|top|show|profile|queue|completion")
    _add_run(commands.add_parser, common)
    _add_top(commands.add_parser)
    show = commands.add_parser("show", parents=[common], help="draw a pipeline", description="Draw a pipeline.")
    show.add_argument("--mermaid", action="store_true", help="as a mermaid flowchart")
    show.set_defaults(command=_show)
    _add_profile(commands.add_parser, common)
    add_queue(commands.add_parser, _count)
    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands in a shell",
        description="Print a script that completes commands in a shell: "
        'eval "$(asyncpc completion bash)" loads it, and so does a line in ~/.bashrc or ~/.zshrc.',
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    completion.set_defaults(command=_completion, traceback=False)
    return parser


def _add_run(add: Callable[..., _Parser], common: _Parser) -> None:
    run = add(
        "run",
        parents=[common],
        help="run a pipeline to its end",
        description="Run a pipeline to its end, then print its report. SIGINT or SIGTERM drains it, a second cancels.",
        epilog="Exit status: 0 all done; 1 the run or an item failed, or items were left; 2 could not begin; "
        "130, 143 drained after a signal.",
    )
    _add_loop(run)
    run.add_argument("--drain-timeout", type=_seconds, metavar="S", help="seconds a drain may take after a signal")
    run.add_argument("--live", action="store_true", help="show all stages at work, on a terminal (extra: rich)")
    run.add_argument("--quiet", action="store_true", help="show no progress and no report; errors are shown")
    run.add_argument("--json", action="store_true", help="print one JSON object in place of the report, on a line")
    run.add_argument(
        "--log-level",
        type=str.lower,
        choices=("debug", "info", "warning", "error", "critical"),
        help="write the log to stderr, from this level on",
    )
    run.add_argument(
        "--reload",
        action="store_true",
        help="run it in a child process, and again whenever a .py file below this folder changes",
    )
    run.add_argument(
        "--processes",
        type=_count,
        metavar="N",
        help="run it in N processes, which share its remote queue; SIGHUP replaces one after the other",
    )
    failed = run.add_argument(
        "--failed", metavar="FILE", help="append each item that fails, or is left unfinished, to FILE as a line of JSON"
    )
    vars(failed)["complete"] = FILES
    run.add_argument(
        "--metrics",
        type=address,
        metavar="[HOST:]PORT",
        help="serve /metrics, /live and /ready while it runs; a port alone serves this machine, 0 means any free port",
    )
    run.add_argument(
        "--web", type=_port, metavar="PORT", help="serve a page that shows and controls the run; 0: any port"
    )
    run.add_argument(
        "--web-host",
        default=THIS_MACHINE,
        metavar="HOST",
        help="serve it to other machines too, who need the token to read",
    )
    run.add_argument("--web-payloads", action="store_true", help="show messages of errors, which may tell of items")
    run.set_defaults(command=_run)


def _add_top(add: Callable[..., _Parser]) -> None:
    top = add(
        "top",
        help="show a run that serves a page, live",
        description="Show the runs of a process that serves a page, as --live does: asyncpc top http://worker:9000. "
        "Without a terminal, print them once.",
    )
    top.add_argument("url", metavar="URL", help="where 'asyncpc run --metrics', --web or Metrics().asgi() serves")
    top.add_argument("--token", help="of a page on another machine; others see it less easily in ASYNCPC_TOKEN")
    top.set_defaults(command=_top, traceback=False)


def _add_profile(add: Callable[..., _Parser], common: _Parser) -> None:
    profile = add(
        "profile",
        parents=[common],
        help="find which stage limits a pipeline, and which setting would help",
        description="Record input from the pipeline's sources, then run each stage alone on it at rising concurrency. "
        "The handlers really run, many times with the same items, so do not point them at production. "
        "Items taken from the sources are not put back.",
        epilog="Exit status: 0 done; 1 a source failed or produced nothing, or a stage could not be measured; "
        "2 could not begin; 130, 143 stopped by a signal.",
    )
    profile.add_argument("--items", type=_count, default=200, metavar="N", help="record at most N items (200)")
    profile.add_argument(
        "--seconds", type=_seconds, default=10.0, metavar="S", help="record for at most S seconds (10)"
    )
    _add_loop(profile)
    profile.set_defaults(command=_profile)


def _add_loop(command: _Parser) -> None:
    choices = ("auto", "uvloop", "asyncio")
    command.add_argument("--loop", choices=choices, default="auto", help="auto: uvloop if installed")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number, at least 1")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is not a port, such as 8000; for other machines add --web-host"
        )
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a number of seconds, 0 or more")
    return seconds


# -- commands -------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    """Run the pipeline, and tell how that went."""
    if options.processes is not None:
        from .processes import run_in_processes  # here, since nobody else needs it

        return run_in_processes(options)
    if options.reload:
        # argparse takes the beginning of an option for the option
        again = [one for one in options.arguments if len(one) < 3 or not "--reload".startswith(one)]
        return run_again_and_again(again)
    with logged_at(options.log_level):
        pipeline = load(options.target, options.set)
        return run_once(pipeline, options, _screens(pipeline, options), partial(_tell, options))


def _screens(pipeline: Pipeline[Any, Any], options: argparse.Namespace) -> list[Beside]:
    """What shows the run while it is under way."""
    if options.quiet:
        return []
    return [live_beside("--live") if options.live else progress(plan_of(pipeline), stays=False)]  # the report follows


def run_once(pipeline: Pipeline[Any, Any], options: argparse.Namespace, beside: Sequence[Beside], tell: Tell) -> int:
    """Run the pipeline, and write what fails to a file if that was asked for; the exit status."""
    if options.failed is None:
        return _run_and_tell(pipeline, options, beside, tell)
    with closing(FailedItems(options.failed)) as failed:
        status = _run_and_tell(pipeline, options, [*beside, failed.told], tell)
    return status if failed.is_complete else 1


def _run_and_tell(
    pipeline: Pipeline[Any, Any], options: argparse.Namespace, beside: Sequence[Beside], tell: Tell
) -> int:
    """Run the pipeline, ``tell`` its report, and say what went wrong; each ``beside`` is entered while it runs."""
    runs: list[Running[Any, Any]] = []
    served_beside = [] if options.web is None else [giving_way]  # to the thread of the page

    @contextmanager
    def watch(running: Running[Any, Any]) -> Iterator[None]:
        runs.append(running)
        with ExitStack() as stack:
            for one in (*beside, *served_beside):
                stack.enter_context(one(running))
            yield

    try:
        with (
            page_served(lambda terms: _page(pipeline, terms), options),
            served(lambda metrics: metrics.watch(pipeline), options.metrics) as around,
        ):
            timeout = options.drain_timeout
            report = run_watched(
                pipeline, loop=options.loop, drain_timeout=timeout, watch=watch, around=around, tell=print_error
            )
    except SystemExit as error:  # of a handler or a source
        left = runs[0].report
        assert left is not None
        status = status_of_exit(error, is_done=left.complete and not left.failed)
        tell(left, status, [line_of_exit(error)])
        print_exit(error)
        print_left(left)
        print_trace(options, error)
        return status
    except PipelineError as error:
        tell(error.report, 1, lines_of(error))
        print_failure(error, options)
        return 1
    except ConservationError as error:
        print_error(f"asyncpc: {line_of(error)}")
        print_trace(options, error)
        return 1
    tell(report, report.exit_status, [])
    return report.exit_status


def _page(pipeline: Pipeline[Any, Any], terms: PageTerms) -> Page:
    from ..web.dashboard import page_of  # here, since it needs an extra

    return page_of(pipeline, token=terms.token, hosts=terms.hosts, payloads=terms.payloads)


def _tell(options: argparse.Namespace, report: Report, status: int, errors: list[str]) -> None:
    """Print the report in the way that was asked for, if any."""
    if options.json:
        print_line(as_line(report_as_json(report, status, errors)))
    elif not options.quiet:
        print_text(str(report))


def _top(options: argparse.Namespace) -> int:
    """Show the runs of another process."""
    from .top import top  # here, since nobody else needs it

    return top(options.url, options.token)


def _show(options: argparse.Namespace) -> int:
    """Draw the pipeline."""
    plan = plan_of(load(options.target, options.set))
    picture = mermaid(plan) if options.mermaid else draw(plan, shutil.get_terminal_size().columns)
    print_text(picture)
    return 0


def _completion(options: argparse.Namespace) -> int:
    """Print a script for a shell."""
    print_line(completion_of(_parser(), options.shell))
    return 0


def _profile(options: argparse.Namespace) -> int:
    """Measure each stage, and say which limits."""
    from .profiling import profile_and_tell  # here, since nobody else needs it

    return profile_and_tell(load(options.target, options.set), options)
