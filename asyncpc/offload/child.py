"""The other process's half of a process stage: it imports the handler, makes calls and answers.

It reports what it cannot do instead of dying, and ends when the process that asks is gone.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from ..errors import NotPicklable
from ..wording import described, traceback_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

__all__ = ["SIMPLE", "Answer", "Reference", "Values", "answer_once", "each_of", "explained", "serve", "told_by"]

serving: str = ""
"""The stage whose calls are made here, in a process or interpreter of its own; empty elsewhere."""

Reference = tuple[str, str, bool] | bytes
"""How a process finds its function: module, name and whether it was decorated there; or a pickle."""


SIMPLE: Final[frozenset[type]] = frozenset((int, str, bytes, float, bool, type(None)))
"""Types of items and values that can always be sent and that nobody can change: they travel as they are.

All else gets a pickle of its own, so that items that travel together share nothing, and one that cannot be read fails
alone.
"""

Answer = Any
"""A value of a simple type as it is, or a tuple: whether the call went well, and a pickle of its value or error."""


class Values(NamedTuple):
    """What a generator gave, and the pickled error that ended it, if one did."""

    values: list[Any]
    failure: bytes | None


def serve(pipe: Connection, name: str, function: Reference, generates: bool) -> None:
    """Answer calls until the other end is closed."""
    global serving
    serving = name
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, lambda *_: None)  # not SIG_IGN, which programs that the handler starts would inherit
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    try:
        handle, trouble = _found(function), None
    except Exception as error:
        handle, trouble = id, explained(f"stage {name!r}: its process cannot import the handler", error)
    with suppress(EOFError, OSError):  # whoever asked has gone
        pipe.send_bytes(pickle.dumps(trouble))
        while trouble is None:
            calls = pickle.loads(pipe.recv_bytes())
            began = perf_counter()
            answers = [_answer(name, "process", handle, generates, sent) for sent in calls]
            pipe.send_bytes(pickle.dumps((perf_counter() - began, answers)))
    for stream in sys.stdout, sys.stderr:
        with suppress(Exception):  # there may be none, or it leads nowhere any more
            stream.flush()
    os._exit(0)


def _end_with_parent() -> None:
    """End when the process that started this one is gone, also in the midst of a call (fault H13).

    A call that holds the interpreter's lock all the time cannot be ended so.
    """
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    if (parent := parent_process()) is not None:
        wait([parent.sentinel])
        os._exit(1)


def answer_once(path: list[str], name: str, function: Reference, generates: bool, packed: bytes) -> Answer:
    """Answer one call, in an interpreter that keeps nothing from call to call but what it has imported."""
    global serving
    serving = name
    if sys.path != path:  # an interpreter begins with the path of a program that has not changed it
        sys.path[:] = path
    try:
        handle = _found(function)
    except Exception as error:
        trouble = explained(f"stage {name!r}: its interpreter cannot import the handler", error)
        return False, pickle.dumps(trouble)
    return _answer(name, "interpreter", handle, generates, packed)


def _found(function: Reference) -> Callable[..., Any]:
    """The function that a reference names."""
    if isinstance(function, bytes):
        return cast(Callable[..., Any], pickle.loads(function))
    module, name, decorated = function
    thing: Any = importlib.import_module(module)
    for part in name.split("."):
        thing = getattr(thing, part)
    return cast(Callable[..., Any], thing.__wrapped__ if decorated else thing)


def _answer(name: str, place: str, handle: Callable[..., Any], generates: bool, sent: Any) -> Answer:
    """Make a call that was sent: its arguments as they are, or a pickle of them and of what is carried with them."""
    if type(sent) is tuple:
        args, carried = sent, None
    else:
        try:
            args, carried = pickle.loads(sent)
        except Exception as error:
            return False, pickle.dumps(explained(f"stage {name!r}: its {place} cannot read the item", error))
    try:
        call = partial(_values_of, name, place, handle) if generates else handle
        value = call(*args) if carried is None else carried(call, *args)
    except BaseException as error:
        return False, _packed_error(name, place, error)
    if type(value) in SIMPLE:
        return value
    try:
        return True, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return False, pickle.dumps(explained(f"stage {name!r}: its result cannot be sent back", error))


def told_by(answer: Answer) -> tuple[bool, Any]:
    """Whether the call went well, and its value or error; raises what the pickle raises."""
    return (answer[0], pickle.loads(answer[1])) if type(answer) is tuple else (True, answer)


def _values_of(name: str, place: str, generate: Callable[..., Any], *args: Any) -> Values:
    """All that a generator gives; what it gave before it raised is given all the same."""
    values: list[Any] = []
    try:
        for value in generate(*args):
            values.append(value)  # noqa: PERF402  # those before an error are passed on; extend() does not promise to keep them
    except BaseException as error:
        return Values(values, _packed_error(name, place, error))
    return Values(values, None)


def each_of(given: Values) -> Iterator[Any]:
    """The values of a generator elsewhere, then the error that ended it, if one did (fault H5)."""
    yield from given.values
    if given.failure is not None:
        raise pickle.loads(given.failure)


def _packed_error(name: str, place: str, error: BaseException) -> bytes:
    """The error with its traceback as a note; if it cannot travel, one that says what it was."""
    text = traceback_of(error).rstrip()
    with suppress(Exception):
        error.add_note(f"in {'an' if place[0] == 'i' else 'a'} {place} of stage {name!r}:\n{text}")
        packed = pickle.dumps(error)
        if type(pickle.loads(packed)) is type(error):  # some classes can only be sent
            return packed
    unsent = NotPicklable(
        f"stage {name!r}: its handler raised {described(error)}, which cannot be sent back as it is: let its class "
        "pass all arguments to super().__init__()"
    )
    with suppress(Exception):
        unsent.add_note(f"in {'an' if place[0] == 'i' else 'a'} {place} of stage {name!r}:\n{text}")
    return pickle.dumps(unsent)


def explained(what: str, error: Exception) -> NotPicklable:
    """The error that says what cannot be sent, and what to use instead."""
    return NotPicklable(
        f"{what} ({described(error)}); use plain data and classes from the top of a module, or run_in='thread'"
    )
