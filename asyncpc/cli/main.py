"""The command line: ``asyncpc run app:pipeline``, ``asyncpc show app:pipeline`` and ``asyncpc profile app:pipeline``.

The report goes to stdout; errors, hints and the progress line go to stderr. The exit status is 0 when all is done, 1
when the run or an item failed or items were left, 2 when the command could not begin, and 130 or 143 after a signal and
a full drain.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from inspect import isfunction
from pathlib import Path
from typing import Any, Final

from ..errors import ConservationError, DefinitionError, StateError
from ..graph.decorators import consumer, source
from ..graph.pipeline import Pipeline, plan_of
from ..run.report import PipelineError, Report
from ..run.running import Running
from ..runner import run_watched
from ..watch.drawing import draw, mermaid
from ..watch.progress import progress
from ..wording import NOTED, escaped, message_of, place_of, redacted
from .metrics import address, served

__all__ = ["main"]

SHOWN: Final = 10
"""How many errors, and how many stages with items left, are listed."""

LONGEST: Final = 500
"""Characters of an error's message that are shown."""

ASCII: Final = str.maketrans(dict(zip("─│┐├┤┴┌└┘►▼×", "-|+++++++>vx", strict=True)) | {"∞": "unbounded"})
"""For terminals that cannot draw lines."""


SILENT: Final = logging.NullHandler()
"""Keeps Python from printing the log of a target that sets up none: the command itself says what went wrong."""


class _OutputError(Exception):
    """What there is to print cannot be written to stdout."""


class _UsageError(Exception):
    """The command cannot begin; the message says what to write instead."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    logging.getLogger("asyncpc").addHandler(SILENT)
    options = _parser().parse_args(argv)
    _fill_standard_files()
    try:
        status: int = options.command(options)
        _flush()
    except (_UsageError, DefinitionError, StateError) as error:
        _print_error(f"asyncpc: {error}")
        _trace(options, error.__cause__ if isinstance(error, _UsageError) else error)
        return 2
    except KeyboardInterrupt as error:
        _print_error("asyncpc: interrupted")
        _trace(options, error)
        return 130
    except SystemExit as error:
        return _asked_for(error, is_done=False)
    except BrokenPipeError:  # the reader of the output is gone
        _let_go_of_stdout()
        return 1
    except _OutputError as error:
        _print_error(f"asyncpc: cannot write to stdout: {error}")
        _trace(options, error.__cause__)
        _let_go_of_stdout()
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asyncpc", description="Run a pipeline, draw it, or find what limits it.")
    parser.add_argument("--version", action="version", version=f"asyncpc {version('asyncpc')}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("target", metavar="module:pipeline", help="a pipeline in a module, such as app.pipelines:crawl")
    common.add_argument("--traceback", action="store_true", help="show errors in full")
    commands = parser.add_subparsers(required=True, metavar="run|show|profile")

    run = commands.add_parser(
        "run",
        parents=[common],
        help="run a pipeline to its end",
        description="Run a pipeline to its end, then print its report. SIGINT or SIGTERM drains it, a second cancels.",
        epilog="Exit status: 0 all done; 1 the run or an item failed, or items were left; 2 could not begin; "
        "130, 143 drained after a signal.",
    )
    _add_loop(run)
    run.add_argument("--drain-timeout", type=_seconds, metavar="S", help="seconds a drain may take after a signal")
    run.add_argument(
        "--metrics",
        type=address,
        metavar="[HOST:]PORT",
        help="serve /metrics, /live and /ready while it runs; a port alone is for this machine, 0 means any port",
    )
    run.set_defaults(command=_run)

    show = commands.add_parser("show", parents=[common], help="draw a pipeline", description="Draw a pipeline.")
    show.add_argument("--mermaid", action="store_true", help="as a mermaid flowchart")
    show.set_defaults(command=_show)

    profile = commands.add_parser(
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
    return parser


def _add_loop(command: argparse.ArgumentParser) -> None:
    choices = ("auto", "uvloop", "asyncio")
    command.add_argument("--loop", choices=choices, default="auto", help="auto: uvloop if installed")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, 0 or more")
    return seconds


# -- commands -------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    """Run the pipeline, print its report, and say what went wrong."""
    pipeline = _load(options.target)
    runs: list[Running[Any, Any]] = []
    shown = progress(plan_of(pipeline), stays=False)  # the report follows

    @contextmanager
    def watch(running: Running[Any, Any]) -> Iterator[None]:
        runs.append(running)
        with shown(running):
            yield

    try:
        with served(pipeline, options.metrics) as around:
            timeout = options.drain_timeout
            report = run_watched(pipeline, loop=options.loop, drain_timeout=timeout, watch=watch, around=around)
    except SystemExit as error:  # of a handler or a source
        left = runs[0].report
        assert left is not None
        _print(str(left))
        status = _asked_for(error, is_done=left.complete and not left.failed)
        _print_left(left)
        _trace(options, error)
        return status
    except PipelineError as error:
        _print(str(error.report))
        _print_failure(error, options)
        return 1
    except ConservationError as error:
        _print_error(f"asyncpc: {_line(error)}")
        _trace(options, error)
        return 1
    _print(str(report))
    return report.exit_status


def _show(options: argparse.Namespace) -> int:
    """Draw the pipeline."""
    plan = plan_of(_load(options.target))
    picture = mermaid(plan) if options.mermaid else draw(plan, shutil.get_terminal_size().columns)
    _print(picture)
    return 0


def _profile(options: argparse.Namespace) -> int:
    """Print the profile of each stage as soon as it is known, and at the end which stage limits."""
    from ..watch.findings import Profile, Record, verdict
    from ..watch.profile import profile

    pipeline = _load(options.target)
    records: list[Record] = []
    profiles: list[Profile] = []

    async def show(part: Record | Profile) -> None:
        if isinstance(part, Record):
            records.append(part)
        else:
            profiles.append(part)
        _print(f"{part}\n")

    parts = source(profile(pipeline, options.items, options.seconds), plan_of(pipeline).name)
    try:
        report = run_watched(parts >> consumer(show), loop=options.loop)
    except PipelineError as error:
        _print_failure(error, options)
        return 1
    if report.signal is not None:
        _print_error("asyncpc: stopped before all stages were measured")
        return report.exit_status
    _print(verdict(records[0], profiles))
    return 1 if not records[0].items or any(one.failed for one in profiles) else 0


# -- finding the pipeline -------------------------------------------------------------------------


def _load(target: str) -> Pipeline[Any, Any]:
    """Load the pipeline that ``module:pipeline`` names."""
    name, _, path = target.partition(":")
    if name.endswith(".py"):
        raise _UsageError(f"{name!r} is a file; write the module's name: {_module_in(name)}:{path or '…'}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise _UsageError(f"{target!r} is not module:pipeline; write it as for an import, such as app.pipelines:crawl")
    module = _import(name)
    found: Any = module
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            missing = f"no {attribute!r} in {target!r}" if path else f"which pipeline of {name!r}?"
            raise _UsageError(f"{missing}; {_pipelines_of(name, module)}") from error
        except Exception as error:
            raise _UsageError(f"{target!r} cannot be read: {_line(error)}") from error
    if not isinstance(found, Pipeline):
        cure = (
            f"if it makes one, add to the module: pipeline = {path}()"
            if isfunction(found)
            else _pipelines_of(name, module)
        )
        raise _UsageError(f"{target!r} is a {type(found).__name__}, not a Pipeline; {cure}")
    return found


def _module_in(file: str) -> str:
    """The name that the module in a file has for an import from the current directory."""
    path = Path(os.path.abspath(file)).with_suffix("")  # not resolved: what is typed is what is known
    here = Path.cwd()
    return ".".join(path.relative_to(here).parts if path.is_relative_to(here) else path.parts[-1:])


def _import(name: str) -> Any:
    """Import the module; the current directory is searched first."""
    here = str(Path.cwd())
    if sys.path[:1] != [here]:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise _UsageError(f"no module {error.name!r} in {here} or on sys.path") from None
        raise _UsageError(f"{name!r} cannot be imported: {_line(error)}") from error
    except SystemExit as error:
        cure = "put that below: if __name__ == '__main__':"
        raise _UsageError(f"{name!r} cannot be imported: it called {_call_of(error)}; {cure}") from error
    except Exception as error:
        raise _UsageError(f"{name!r} cannot be imported: {_line(error)}") from error


def _pipelines_of(name: str, module: object) -> str:
    """Say which pipelines a module has."""
    names = [attribute for attribute, value in vars(module).items() if isinstance(value, Pipeline)]
    if not names:
        return f"{name!r} has no Pipeline: make one with pipeline = source >> consumer"
    return f"{name!r} has: {', '.join(f'{name}:{attribute}' for attribute in names)}"


# -- the user's own exit --------------------------------------------------------------------------


def _asked_for(error: SystemExit, *, is_done: bool) -> int:
    """Say that the program called ``sys.exit()``; the status it asked for, but never 0 for work that is not done."""
    _print_error(f"asyncpc: the program called {_call_of(error)}, which ended the run")
    status = error.code if isinstance(error.code, int) else int(error.code is not None)
    return status or int(not is_done)


def _call_of(error: SystemExit) -> str:
    return f"sys.exit({'' if error.code is None else repr(error.code)})"


# -- output ---------------------------------------------------------------------------------------


def _print(text: str) -> None:
    """Print ``text`` on stdout; line breaks stay, other control characters are escaped."""
    if sys.stdout is None:  # the program was started without one
        return
    safe = "\n".join(map(escaped, redacted(text).split("\n")))
    encoding = sys.stdout.encoding or "utf-8"
    try:
        safe.encode(encoding)
    except UnicodeEncodeError:
        safe = safe.translate(ASCII).encode(encoding, "backslashreplace").decode(encoding)
    with _writing():
        print(safe)
    _flush()


def _flush() -> None:
    with _writing():
        if sys.stdout is not None:
            sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    """Tell an error of stdout, such as a full disk, from those of the program."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _OutputError(error.strerror or type(error).__name__) from error


def _fill_standard_files() -> None:
    """Open what is closed of stdin, stdout and stderr: uvloop ends a process that uses their numbers for a socket."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def _let_go_of_stdout() -> None:
    """Let what is still to be written vanish, or Python complains when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(line: str) -> None:
    """Print ``line`` on stderr, without passwords and control characters."""
    if sys.stderr is not None:
        print(escaped(redacted(line)), file=sys.stderr)


def _trace(options: argparse.Namespace, error: BaseException | None) -> None:
    """Print the whole traceback, if ``--traceback`` asks for it."""
    if options.traceback and error is not None:
        for line in "".join(traceback.format_exception(error)).split("\n"):
            _print_error(line)


def _print_failure(failed: PipelineError, options: argparse.Namespace) -> None:
    """Print each error on a line, and how many items each stage left; never an item itself."""
    lines = [_line(error, notes) for error, notes in _leaves(failed)]
    _print_error(f"asyncpc: {failed.message}{'' if options.traceback else ' (--traceback shows more)'}")
    for line in lines[:SHOWN]:
        _print_error(f"  {line}")
    if len(lines) > SHOWN:
        _print_error(f"  … and {len(lines) - SHOWN} more")
    _print_left(failed.report)
    _trace(options, failed)


def _print_left(report: Report) -> None:
    left = Counter(report.left_by_stage()).most_common()
    if left:
        stages = ", ".join(f"{stage} {count:,}" for stage, count in left[:SHOWN])
        others = f" and {len(left) - SHOWN} more stages" if len(left) > SHOWN else ""
        _print_error(f"left unfinished: {sum(report.left_by_stage().values()):,} items ({stages}{others})")


def _leaves(error: BaseException, notes: tuple[str, ...] = ()) -> Iterator[tuple[BaseException, tuple[str, ...]]]:
    """The errors in a group, at any depth, each with its notes and those of the groups around it."""
    notes += tuple(getattr(error, "__notes__", ()))
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner, notes)
    else:
        yield error, notes


def _line(error: BaseException, notes: tuple[str, ...] = ()) -> str:
    """An error on one line: its message, its place and its notes."""
    what = " ".join(message_of(error).split())
    what = what if len(what) <= LONGEST else what[:LONGEST] + "…"
    where = [place for place in [place_of(error)] if place]
    details = ", ".join([*where, *(note.removeprefix(NOTED) for note in notes)])
    return type(error).__name__ + (f": {what}" if what else "") + (f" ({details})" if details else "")
