"""``--set name=value``: makes a pipeline with a function of the user's; its signature says the types of the values."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from enum import Enum
from inspect import BoundArguments, Parameter, Signature, iscoroutinefunction, isgeneratorfunction, signature, unwrap
from pathlib import Path
from types import FunctionType, MethodType, NoneType, SimpleNamespace, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from ..wording import shown
from .output import UsageError, call_of, line_of

__all__ = ["Factory", "made_by", "setting"]

Factory = FunctionType | MethodType

ANY_NUMBER: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

SWITCH: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

PLAIN: Final[Mapping[type, tuple[Callable[[str], Any], str]]] = {
    str: (str, "text"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (lambda text: SWITCH[text.lower()], "true or false"),
    Path: (Path, "a path"),
}
"""How a value is made of text, and what to write."""


class _UnfitError(Exception):
    """The text does not stand for a value of the type."""


def setting(text: str) -> tuple[str, str]:
    """``name=value``, for argparse."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not name=value")
    return name, value


def made_by(factory: Factory, target: str, given: Mapping[str, str]) -> Any:
    """What the function returns for these values; raises ``UsageError`` if it cannot be called with them."""
    if iscoroutinefunction(factory) or isgeneratorfunction(factory):
        raise UsageError(f"{target!r} is an async or generator function; write a plain one that returns a Pipeline")
    try:
        found = signature(factory)
    except Exception as error:
        raise UsageError(f"the parameters of {target!r} cannot be read: {line_of(error)}") from error
    taken = {name: one for name, one in found.parameters.items() if one.kind not in ANY_NUMBER}
    strange = [name for name in given if name not in taken]
    if strange:
        has = f"it has {', '.join(taken)}" if taken else "it has none"
        raise UsageError(f"{target!r} has no parameter {strange[0]!r}; {has}")
    kinds = {name: _kind(factory, one) for name, one in taken.items()}
    missing = [name for name, one in taken.items() if one.default is Parameter.empty and name not in given]
    if missing:
        needs = ", ".join([f"--set {name}=… ({_words(kinds[name])})" for name in missing])
        raise UsageError(f"{target!r} needs {needs}")
    values: dict[str, Any] = {}
    for name, text in given.items():
        try:
            values[name] = _value(kinds[name], text)
        except _UnfitError:
            takes = _words(kinds[name])
            raise UsageError(f"--set {name}={shown(text)}: {name} of {target!r} takes {takes}") from None
    return _called(factory, target, found, values)


def _called(factory: Factory, target: str, found: Signature, values: dict[str, Any]) -> Any:
    bound = BoundArguments(found, values)
    bound.apply_defaults()
    try:
        return factory(*bound.args, **bound.kwargs)
    except SystemExit as error:
        raise UsageError(f"{target!r} made no pipeline: it called {call_of(error)}") from error
    except Exception as error:
        raise UsageError(f"{target!r} made no pipeline: {line_of(error)}") from error


def _kind(factory: Factory, parameter: Parameter) -> Any:
    """The type of a parameter; without an annotation it is text."""
    if parameter.annotation is Parameter.empty:
        return str
    # one at a time: others may name what is imported for type checkers only
    alone = SimpleNamespace(__annotations__={"kind": parameter.annotation})
    try:
        return get_type_hints(alone, unwrap(factory).__globals__)["kind"]
    except Exception:
        return parameter.annotation


def _value(kind: Any, text: str) -> Any:
    """The value of a type that the text stands for; raises ``_UnfitError``."""
    inner = _without_none(kind)
    if inner is not kind:
        return None if text == "" else _value(inner, text)
    if _is_plain(kind):
        try:
            return PLAIN[kind][0](text)
        except (ValueError, KeyError):
            raise _UnfitError from None
    choices = _choices(kind)
    if text not in choices:
        raise _UnfitError
    return choices[text]


def _is_plain(kind: Any) -> bool:
    return isinstance(kind, type) and kind in PLAIN


def _without_none(kind: Any) -> Any:
    """``X`` of ``X | None``."""
    if get_origin(kind) in (Union, UnionType):
        others = [one for one in get_args(kind) if one is not NoneType]
        if len(others) == 1:
            return others[0]
    return kind


def _choices(kind: Any) -> dict[str, Any]:
    """What can be chosen from, by what is written for it; empty for a type that no text stands for."""
    if get_origin(kind) is Literal:
        return {one.name if isinstance(one, Enum) else str(one): one for one in get_args(kind)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        values = {str(one.value): one for one in kind}
        return values | dict(kind.__members__)
    return {}


def _words(kind: Any) -> str:
    """What to write for a value."""
    inner = _without_none(kind)
    if inner is not kind:
        return f"{_words(inner)}, or nothing"
    if _is_plain(kind):
        return PLAIN[kind][1]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(kind.__members__)
    return " or ".join(_choices(kind)) or f"{_name(kind)}, which --set cannot give: let it have a default"


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else shown(kind)
