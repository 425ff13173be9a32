"""Checks that refuse a mistake where it is written; each error names the stage and says what to write.

A check returns what it has checked, in the form that the definition keeps.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from math import inf
from types import CodeType, CoroutineType, FunctionType
from typing import Any, Final, Literal, TypeGuard, TypeVar

from .backoff import Restart
from .errors import DefinitionError
from .wording import redacted, shown

__all__ = [
    "SECONDS_OF_ATTEMPT",
    "Composable",
    "Resource",
    "RunIn",
    "at_least_1",
    "bare_function",
    "bind",
    "check_callback",
    "check_context",
    "check_function",
    "check_item_function",
    "check_maxsize",
    "check_name",
    "check_restart",
    "check_run_in",
    "check_seconds",
    "is_async",
    "is_positive",
    "is_whole",
    "kind_of",
    "label_of",
    "name_of",
    "qualified_name",
    "refuse_called",
    "refuse_method",
    "refuse_part",
    "signature_of",
    "takes",
]

T = TypeVar("T")

Resource = Callable[[], AbstractAsyncContextManager[T]] | AbstractAsyncContextManager[T]
"""What ``context=`` takes."""

RunIn = Literal["loop", "thread", "process", "interpreter"]

SECONDS_OF_ATTEMPT: Final = "a function of the number of the attempt, which returns seconds"
"""What a back-off has to be."""

DEEPEST: Final = 50
"""The most decorators that are looked through: an object may have every attribute, so there must be a limit."""


class Composable:
    """Something that is joined with ``>>``. It may be callable, but is not what a decorator or an option wants."""

    __slots__ = ()


def check_function(where: str, function: Callable[..., Any], context: Resource[Any] | None) -> str:
    """Check a consumer's function; return ``"function"`` or ``"generator"``."""
    refuse_called(where, function)
    refuse_part(where, function)
    if not callable(function):
        raise DefinitionError(
            f"{where}: {type(function).__name__} is not a function; pass options by name: consumer(concurrency=4)"
        )
    refuse_method(where, function)
    kind = kind_of(function)
    if context is not None:
        check_context(where, context)
    wanted = ("item",) if context is None else ("item", "resource")
    if not takes(function, len(wanted)):
        raise DefinitionError(
            f"{where} must take {' and '.join(wanted)}, but is defined as {signature_of(function)}"
            + ("; context= adds the resource" if context is None and takes(function, 2) else "")
        )
    return kind


def at_least_1(where: str, option: str, number: object) -> int:
    """Check for a whole number, at least 1."""
    if not is_whole(number) or number < 1:
        raise DefinitionError(f"{where}: {option}={shown(number)} must be a whole number, at least 1")
    return number


def check_callback(
    where: str, option: str, function: Any, what: str, *, arguments: int | None = 1, may_be_async: bool = False
) -> Any:
    """Check for a function that an option takes; ``what`` says what it has to be, for the message.

    A decorator that keeps to ``functools.wraps`` cannot hide that the function behind it is async.
    """
    refuse_called(f"{where}: {option}=", function)
    if isinstance(part := _behind(function), Composable):
        raise DefinitionError(f"{where}: {option}={shown(part)} is a {_kind(part)}: it must be {what}")
    if not callable(function) or not (arguments is None or takes(function, arguments)):
        raise DefinitionError(f"{where}: {option}={shown(function)} must be {what}")
    layers = _layers(function)
    if not may_be_async and any(map(is_async, layers)):
        raise DefinitionError(f"{where}: {option}= must be a plain function: its value is needed at once")
    if any(kind_of(layer) == "generator" for layer in layers):
        raise DefinitionError(f"{where}: {option}= must not be a generator: nobody would read what it yields")
    return function


def check_item_function(where: str, option: str, function: Any) -> Any:
    """Check for a plain function of one item, or None."""
    return None if function is None else check_callback(where, option, function, "a function of an item")


def is_whole(number: object) -> TypeGuard[int]:
    """Whether it is a whole number; True and False are not."""
    return isinstance(number, int) and not isinstance(number, bool)


def is_positive(number: object) -> bool:
    """Whether it is a finite number above 0."""
    return isinstance(number, (int, float)) and not isinstance(number, bool) and 0 < number < inf


def check_restart(where: str, restart: object) -> Restart | None:
    """Check a producer's restart policy."""
    if restart is None:
        return None
    if not isinstance(restart, Restart):
        raise DefinitionError(f"{where}: restart={shown(restart)} must be Restart(times, within=seconds)")
    at_least_1(where, "Restart times", restart.times)
    if not is_positive(restart.within):
        raise DefinitionError(f"{where}: {shown(restart)}: within must be more than 0 seconds")
    check_callback(where, "Restart backoff", restart.backoff, SECONDS_OF_ATTEMPT)
    return restart


def check_maxsize(where: str, maxsize: int | None) -> None:
    """Refuse a bound that is not a whole number of items, at least 0."""
    if maxsize is not None and (not is_whole(maxsize) or maxsize < 0):
        raise DefinitionError(f"{where}: maxsize={shown(maxsize)} must be a whole number; 0 means unbounded")


def check_seconds(where: str, option: str, seconds: float | None) -> None:
    """Refuse anything but a number of seconds, at least 0."""
    if seconds is None:
        return
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds >= 0:
        raise DefinitionError(f"{where}: {option}={shown(seconds)} must be 0 or more seconds")


def kind_of(function: Callable[..., Any]) -> str:
    """``"generator"`` for a function that yields, else ``"function"``."""
    if (code := _plain_code(function)) is not None:
        return "generator" if code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR) else "function"
    bare = bare_function(function)
    return "generator" if inspect.isasyncgenfunction(bare) or inspect.isgeneratorfunction(bare) else "function"


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of the function has to be awaited, or iterated with ``async for``."""
    if (code := _plain_code(function)) is not None:
        return bool(code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR))
    bare = bare_function(function)
    return inspect.isasyncgenfunction(bare) or any(map(inspect.iscoroutinefunction, (bare, function)))


def _plain_code(function: object) -> CodeType | None:
    """What a function that nobody has decorated or marked runs: it says at once what ``inspect`` needs 15 µs for."""
    return function.__code__ if type(function) is FunctionType and not function.__dict__ else None


def check_run_in(where: str, function: Callable[..., Any], run_in: object, context: Resource[Any] | None) -> RunIn:
    """Check where the function is to run; by default the loop for async functions, threads for others."""
    asynchronous = is_async(function)
    if run_in is None:
        return "loop" if asynchronous else "thread"
    if run_in not in ("loop", "thread", "process", "interpreter"):
        raise DefinitionError(f"{where}: run_in={shown(run_in)} must be 'loop', 'thread', 'process' or 'interpreter'")
    if asynchronous and run_in != "loop":
        raise DefinitionError(f"{where} is async, so it runs in the loop: write 'def' for run_in={shown(run_in)}")
    if not asynchronous and run_in == "loop":
        raise DefinitionError(
            f"{where} is a plain function, which would block the loop: write 'async def', or leave run_in= out"
        )
    if run_in in ("process", "interpreter"):
        if context is not None:
            raise DefinitionError(
                f"{where}: context= cannot be sent to a process or an interpreter: open the resource there, "
                "in the first call"
            )
        if "<" in (name := getattr(bare_function(function), "__qualname__", "")):
            raise DefinitionError(
                f"{where}: run_in={shown(run_in)} imports it by name, so {name} must be defined at the top level of a "
                "module"
            )
    if run_in == "interpreter" and sys.version_info < (3, 13):
        raise DefinitionError(f"{where}: run_in='interpreter' needs CPython 3.13 or newer; use run_in='process'")
    return run_in


def bare_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function behind partials, static methods and callable objects."""
    function = _behind(function)
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return type(function).__call__


def _behind(function: Any) -> Any:
    """What partials and static methods call."""
    while isinstance(function, (functools.partial, staticmethod)):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    return function


def _layers(function: Any) -> list[Any]:
    """A function and those that it was made of by decorators, the outermost first."""
    layers = [_behind(function)]
    while (inner := getattr(layers[-1], "__wrapped__", None)) is not None and len(layers) < DEEPEST:
        layers.append(_behind(inner))
    return layers


def label_of(name: str | None, thing: object) -> str:
    """The name for reports, pictures and errors; one with control characters is refused (fault F9)."""
    return check_name(name or name_of(thing))


def check_name(name: object) -> str:
    """Check for a name of printable characters; what is kept of it has no password, wherever it will be shown."""
    if not isinstance(name, str):
        raise DefinitionError(f"name={shown(name)} must be a string")
    if not name.isprintable():
        raise DefinitionError(f"name={shown(name)} must be printable, on one line")
    return redacted(name)


def name_of(function: object) -> str:
    """The name of a function, or of an object's class."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def qualified_name(thing: object) -> str:
    """The qualified name of a function, or of an object's class: never its repr, which may reveal what it holds."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def refuse_called(where: str, thing: object) -> None:
    """Refuse a coroutine object: the function was called where the function itself is wanted."""
    if isinstance(thing, CoroutineType):
        thing.close()  # or Python warns that it was never awaited
        raise DefinitionError(f"{where} is a coroutine object: pass the function itself, without calling it")


def refuse_part(where: str, function: Any) -> None:
    """Refuse to make a stage or a source of one: the options that it has would be lost without a word."""
    part = _behind(function)
    if isinstance(part, Composable) and callable(part):
        raise DefinitionError(
            f"{where} is a {_kind(part)} already: write its options in one place, or decorate the function itself, "
            f"{name_of(part)}.__wrapped__"
        )
    if isinstance(part, Composable):
        raise DefinitionError(f"{where} is a {_kind(part)}, not a function: join it with others by >>")


def _kind(part: Composable) -> str:
    return type(part).__name__.lower()


def refuse_method(where: str, function: Callable[..., Any]) -> None:
    """Refuse a method that was decorated in its class: the item would be passed as ``self``."""
    code = _plain_code(function)
    if code is not None and "self" not in code.co_varnames and "cls" not in code.co_varnames:
        return
    if inspect.isfunction(function) and next(iter(inspect.signature(function).parameters), "") in ("self", "cls"):
        name = name_of(function)
        raise DefinitionError(
            f"{where} is a method without its object: decorate the bound method, "
            f"as in self.{name} = consumer(self.{name}) in __init__"
        )


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether the function can be called with ``count`` arguments; True for builtins that do not say."""
    if _takes_plainly(function, count):
        return True
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def bind(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise the ``TypeError`` that says why the function cannot be called with these arguments, if it cannot."""
    if kwargs or not _takes_plainly(function, len(args)):
        inspect.signature(function).bind(*args, **kwargs)


def _takes_plainly(function: Any, count: int) -> bool:
    """Whether a plain function has so many parameters, less those with defaults; if not, ``inspect`` knows more."""
    code = _plain_code(function)
    if code is None or code.co_kwonlyargcount:
        return False
    return code.co_argcount - len(function.__defaults__ or ()) <= count <= code.co_argcount


def signature_of(function: Callable[..., Any]) -> str:
    """The name and parameters of a function."""
    return redacted(f"{name_of(function)}{inspect.signature(function)}")


def check_context(where: str, context: Resource[Any]) -> None:
    """Check for a resource that each worker can open."""
    if isinstance(context, AbstractAsyncContextManager) and hasattr(context, "gen"):
        raise DefinitionError(
            f"{where}: context= is already called; pass the function, so that each worker opens its own"
        )
    refuse_called(f"{where}: context=", context)
    if isinstance(context, AbstractAsyncContextManager):
        return
    if not callable(context) or isinstance(_behind(context), Composable):
        raise DefinitionError(f"{where}: context= must be an async context manager, or a function that returns one")
    if is_async(context) or kind_of(context) == "generator":
        raise DefinitionError(
            f"{where}: context= must return an async context manager: decorate it with @asynccontextmanager"
        )
