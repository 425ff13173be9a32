"""``asyncpc queue stats|peek|dead|requeue|purge URL``: looks at a remote queue, and after its dead letters."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar, cast

from ..errors import DefinitionError
from ..remote.broker import Broker, DeadLetter, Depth, Disconnected, PayloadError
from ..remote.letters import Letter, letter_of
from ..remote.queue import RemoteQueue, looking_at, remote_queue
from ..wording import escaped, shown
from .as_json import as_line, item_as_json
from .output import UsageError, line_of, print_error, print_line, print_text, print_trace
from .target import load_queue

__all__ = ["add_queue"]

R = TypeVar("R")

PATIENT_FOR: Final = 2.0
"""Seconds without a connection after which the command says that it is still trying."""

PAGE: Final = 100
"""Dead letters that are looked at together, with their messages."""

TOGETHER: Final = 500
"""Dead letters that are put back together."""


class _Adds(Protocol):
    """Makes the parser of a command, as argparse does."""

    def __call__(self, name: str, **options: Any) -> argparse.ArgumentParser: ...


def add_queue(add: _Adds, count: Callable[[str], int]) -> None:
    """Add the command to a parser; ``count`` reads a whole number, at least 1."""
    queue = add(
        "queue",
        help="look at a remote queue, and after its dead letters",
        description="Look at a remote queue, and after its dead letters.",
        epilog="Exit status: 0 done; 1 the connection was lost, or not all was there; 2 could not begin.",
    )
    commands = queue.add_subparsers(required=True, metavar="stats|peek|dead|requeue|purge")

    def command(
        name: str,
        run: Callable[[argparse.Namespace], int],
        does: str,
        in_full: str = "show errors in full",
    ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=does, description=f"{does.capitalize()}.")
        parser.add_argument(
            "target",
            metavar="URL",
            help="of the queue, such as redis://host/jobs; or module:queue, a remote_queue of a program",
        )
        parser.add_argument("--json", action="store_true", help="print JSON: an object, or one for each message")
        parser.add_argument("--traceback", action="store_true", help=in_full)
        parser.set_defaults(command=run)
        return parser

    command("stats", _stats, "show how many messages there are")
    peek = command("peek", _peek, "show the messages that are received next, and leave them where they are")
    dead = command(
        "dead", _dead, "show the dead letters, the oldest first, and what they failed of", "show tracebacks, too"
    )
    for one in peek, dead:
        one.add_argument("--limit", type=count, default=20, metavar="N", help="show at most N (20)")
    dead.add_argument("--after", default="", metavar="PLACE", help="show those behind the one at PLACE")
    requeue = command("requeue", _requeue, "put dead letters back into the queue")
    requeue.add_argument(
        "places", nargs="*", metavar="PLACE", help="of the letters, as 'asyncpc queue dead' shows them"
    )
    requeue.add_argument("--all", action="store_true", help="put all back")
    purge = command("purge", _purge, "forget the messages that nobody has received yet")
    purge.add_argument("--dead", action="store_true", help="forget the dead letters instead")
    purge.add_argument("--yes", action="store_true", help="do not ask")


# -- commands -------------------------------------------------------------------------------------


def _stats(options: argparse.Namespace) -> int:
    depth = _asked(options, lambda broker: broker.depth())
    if depth is not None:
        told = depth._asdict()
        _tell(options, told, _table(told | {"oldest": "" if depth.oldest is None else f"{depth.oldest:.1f} s"}))
    return int(depth is None)


def _table(rows: Mapping[str, Any]) -> str:
    left, right = max(map(len, rows)), max([len(str(one)) for one in rows.values()])
    return "\n".join([f"{name:<{left}}  {one!s:>{right}}".rstrip() for name, one in rows.items()])


def _peek(options: argparse.Namespace) -> int:
    found = _asked(options, lambda broker: broker.peek(options.limit + 1))
    decode = _decoder()
    for one in (found or [])[: options.limit]:
        item = decode(one.body, one.headers)
        told = {"id": one.id, "deliveries": one.attempt, "put": one.time, "headers": dict(one.headers), "item": item}
        _tell(options, told, f"{one.id}\n    put {_date(one.time)}, deliveries {one.attempt}\n    {shown(item)}")
    return _ended(options, found, "no message is ready")


def _dead(options: argparse.Namespace) -> int:
    found = _asked(options, lambda broker: broker.dead(options.limit + 1, options.after))
    decode = _decoder()
    for one in (found or [])[: options.limit]:
        _tell_letter(options, letter_of(one, decode))
    return _ended(options, found, "no dead letters")


def _tell_letter(options: argparse.Namespace, letter: Letter[Any]) -> None:
    told = letter._asdict() | {"headers": dict(letter.headers)}
    del told["body"]  # it is the item
    counts = f"stage {letter.stage}, calls {letter.calls}, deliveries {letter.deliveries}"
    lines = [
        f"{letter.place}  {letter.reason}",
        f"{counts}, put {_date(letter.put)}, died {_date(letter.died)}, id {letter.id}",
        shown(letter.item),
        *[f"earlier call: {error}" for error in letter.history],
        *(letter.traceback.splitlines() if options.traceback else []),
    ]
    _tell(options, told, "\n    ".join(map(escaped, lines)))


def _ended(options: argparse.Namespace, found: Sequence[Any] | None, nothing: str) -> int:
    """The exit status of a list; says so if it is empty, or goes on."""
    if found is not None and not found:
        print_error(f"asyncpc: {nothing}")
    if found is not None and len(found) > options.limit:
        print_error("asyncpc: there are more: --limit shows more of them")
    return int(found is None)


def _requeue(options: argparse.Namespace) -> int:
    if bool(options.places) == options.all:
        raise UsageError("requeue takes the places of dead letters, as 'asyncpc queue dead' shows them, or --all")

    async def requeue(broker: Broker) -> tuple[int, int]:
        places = await _all_places(broker) if options.all else list(dict.fromkeys(options.places))
        count = 0
        for start in range(0, len(places), TOGETHER):
            count += await broker.requeue(places[start : start + TOGETHER])
        return count, len(places)

    requeued = _asked(options, requeue)
    if requeued is None:
        return 1
    count, asked = requeued
    _tell(options, {"requeued": count}, f"{count} put back into the queue")
    if count < asked:
        print_error(f"asyncpc: {asked - count} of {asked} are not among the dead letters")
    return int(count < asked)


async def _all_places(broker: Broker) -> list[str]:
    """Those of all dead letters; collected first, since what is put back may die again meanwhile."""
    places: list[str] = []
    page: Sequence[DeadLetter] = await broker.dead(PAGE, "")
    while page:
        places += [one.place for one in page]
        page = await broker.dead(PAGE, page[-1].place)
    return places


def _purge(options: argparse.Namespace) -> int:
    if not options.yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise UsageError("purge asks before it forgets messages, and there is no terminal: write --yes")
        depth = _asked(options, lambda broker: broker.depth())
        if depth is None:
            return 1
        if not _agreed(depth, dead=options.dead):
            print_error("asyncpc: nothing was purged")
            return 1
    count = _asked(options, lambda broker: broker.purge(options.dead))
    if count is not None:
        _tell(options, {"purged": count}, f"{count} purged")
    return int(count is None)


def _agreed(depth: Depth, *, dead: bool) -> bool:
    """Whether the user agrees to lose these; asked while no connection is open, since it may take its time."""
    what = f"{depth.dead} dead letters" if dead else f"{depth.ready} ready and {depth.delayed} delayed messages"
    sys.stderr.write(f"Forget {what} for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# -- their connection and their output ------------------------------------------------------------


def _asked(options: argparse.Namespace, ask: Callable[[Broker], Awaitable[R]]) -> R | None:
    """What the queue's broker answers; None if it fails, which is said.

    Raises ``UsageError`` if there is no connection.
    """
    queue = _queue(options.target)
    try:
        return asyncio.run(_ask(queue, ask))
    except (UsageError, DefinitionError):
        raise
    except Exception as error:
        print_error(f"asyncpc: {_line_of(error)}")
        print_trace(options, error)
        return None


def _queue(target: str) -> RemoteQueue[Any]:
    return remote_queue(target, cast(type[Any], Any)) if "://" in target else load_queue(target)


async def _ask(queue: RemoteQueue[Any], ask: Callable[[Broker], Awaitable[R]]) -> R:
    async with AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        waiting = loop.call_later(PATIENT_FOR, print_error, "asyncpc: there is no connection yet; still trying")
        try:
            opened = await stack.enter_async_context(looking_at(queue))
        except DefinitionError:
            raise
        except Exception as error:
            raise UsageError(f"no connection to the queue: {_line_of(error)}") from error
        finally:
            waiting.cancel()
        return await ask(opened.broker)  # itself, since to wait for another connection is for programs


def _line_of(error: Exception) -> str:
    return str(error) if isinstance(error, Disconnected) else line_of(error)


def _decoder() -> Callable[[bytes, Mapping[str, str]], Any]:
    """What makes plain data of a message, whatever type a program declares; the body itself where that fails."""
    from ..remote.codec import codec_for  # here, since it needs a package that only remote queues need

    codec = codec_for("asyncpc queue", Any, "json", sys.maxsize)

    def decode(body: bytes, headers: Mapping[str, str]) -> Any:
        try:
            return codec.decoded(body, headers)
        except PayloadError:
            return body

    return decode


def _date(seconds: float) -> str:
    """A time as people here read it."""
    try:
        return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return "at no time"


def _tell(options: argparse.Namespace, told: Mapping[str, Any], text: str) -> None:
    """Print it in the way that was asked for."""
    if options.json:
        print_line(as_line({name: item_as_json(value) for name, value in told.items()}))
    else:
        print_text(text)
