"""``@producer`` and ``@consumer``: the function stays what it was, and ``help`` tells what can be asked for."""

from __future__ import annotations

import pydoc
from collections.abc import AsyncIterator, Callable
from inspect import Parameter, signature
from typing import Any

import pytest

from asyncpc import DEFAULT_MAXSIZE, Pipeline, consumer, producer, run, source
from asyncpc.graph.decorators import Options
from asyncpc.graph.definitions import OPTIONS, define_handler, define_origin
from asyncpc.graph.layout import DRAIN_TIMEOUT

BESIDE = {"context", "batch"}
"""Options whose types change those of the handler, so that ``Options`` does not have them."""


def test_a_decorated_function_keeps_its_name_and_docstring() -> None:
    """Protects help(), documentation and logs: they show the user's function, not asyncpc's class."""

    @consumer
    async def handle(item: int) -> None:
        """Handle one."""

    @producer
    async def items() -> AsyncIterator[int]:
        """Give some."""
        yield 1

    names = [getattr(one, "__name__", None) for one in (handle, items)]
    assert (names[0], handle.__doc__, handle.__module__) == ("handle", "Handle one.", __name__)
    assert (names[1], items.__doc__) == ("items", "Give some.")
    assert list(signature(handle).parameters) == ["item"]


# -- help -----------------------------------------------------------------------------------------


def shown(thing: object) -> str:
    """What ``help`` shows."""
    return plain(pydoc.plain(pydoc.render_doc(thing)))


def plain(text: object) -> str:
    """A text with single spaces, and without the bars that ``help`` draws and types have."""
    return " ".join(str(text).replace("|", " ").split())


def first_line(thing: Any) -> dict[str, Parameter]:
    """What the first line of ``help`` shows, but for what has no name of its own."""
    parameters = signature(thing).parameters.values()
    return {one.name: one for one in parameters if one.kind is Parameter.KEYWORD_ONLY}


def test_help_shows_each_option_with_type_and_default() -> None:
    """Protects who looks it up where they write it; an option that is added later is shown without being told to."""
    told, options = shown(consumer), first_line(consumer)
    assert set(options) == set(OPTIONS) == set(Options.__annotations__) | BESIDE
    for name, option in options.items():
        assert plain(option) in told
        assert f"``{name}``" in told
    assert "concurrency: 'int Adaptive' = 1, maxsize: 'int None' = None, retry: 'int Retry None' = None" in told
    types = {name: getattr(type_, "__forward_arg__", type_) for name, type_ in Options.__annotations__.items()}
    assert {name: option.annotation for name, option in options.items() if name not in BESIDE} == types


def test_the_defaults_that_help_shows_are_those_that_hold() -> None:
    """A default that is told and does not hold is worse than none: what is written out means the same as nothing."""

    async def spy(item: object) -> None: ...

    defaults = {name: option.default for name, option in first_line(consumer).items()}
    assert define_handler(spy, **defaults) == define_handler(spy)
    for name, default in defaults.items():
        assert define_handler(spy, **{name: default}) == define_handler(spy)

    async def items() -> AsyncIterator[int]:
        yield 1

    assert define_origin(items, **{name: one.default for name, one in first_line(producer).items()}) == define_origin(
        items, None, None, None
    )
    stage = consumer(name="spy")(spy)
    pipelines = [Pipeline(stage, **{name: one.default for name, one in first_line(Pipeline).items()}), Pipeline(stage)]
    assert pipelines[0]._plan == pipelines[1]._plan
    assert pipelines[0]._plan.drain_timeout == DRAIN_TIMEOUT
    assert f"128 {DRAIN_TIMEOUT:g}" == f"{DEFAULT_MAXSIZE} 30"  # as the docstrings say


@pytest.mark.parametrize("thing", [producer, Pipeline, run, source])
def test_help_tells_what_each_argument_is_for(thing: Callable[..., Any]) -> None:
    """The same for what else users write: each argument has its type and default, and a word about it."""
    told = shown(thing)
    for name, one in first_line(thing).items():
        assert plain(one) in told
        assert f"``{name}" in told


def test_the_signature_is_of_use() -> None:
    """Protects who asks with ``inspect`` or an editor: names and defaults, not ``**options``."""
    assert first_line(consumer)["on_error"].default is None
    assert first_line(consumer)["overflow"].annotation == "Overflow"
    assert not [one for one in signature(consumer).parameters.values() if one.kind is Parameter.VAR_KEYWORD]
    assert list(signature(consumer).bind(concurrency=4, context=None).arguments) == ["context", "concurrency"]
