"""First mistakes: each names the cure, and the signatures stay what they are."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
import re
from collections.abc import Callable
from typing import Any, Final

import pytest
from spy import Sink
from support import endless, ignore

import asyncpc
from asyncpc import (
    Adaptive,
    Batch,
    Breaker,
    Consumer,
    DefinitionError,
    Pipeline,
    Producer,
    Rate,
    RemoteQueue,
    Restart,
    Retry,
    Running,
    Source,
    broadcast,
    consumer,
    merge,
    producer,
    route,
    run,
    source,
    testing,
)
from asyncpc.mistakes import CALLED_ELSEWHERE, MEANT, explained

TAKING: Final[dict[str, Callable[..., Any]]] = {
    one.__name__: one
    for one in (Adaptive, Batch, Breaker, Pipeline, Rate, Restart, Retry, broadcast, consumer, merge, producer, route)
} | {"run": run, "source": source}
"""All that users give options to where they define a pipeline, or run one."""

# -- wrong keywords -------------------------------------------------------------------------------

WRONG: Final[list[tuple[str, tuple[str, ...], str]]] = [
    ("Retry", ("max_attempts",), "write attempts="),
    ("Retry", ("backoff", "exceptions"), "write wait=, on="),
    ("Rate", ("per_second",), "write n="),
    ("Rate", ("period",), "write per="),
    ("Batch", ("n",), "write size="),
    ("Batch", ("max_wait",), "write within="),
    ("Breaker", ("recovery_timeout",), "write reset_after="),
    ("Adaptive", ("latency",), "write target="),
    ("Restart", ("max_restarts",), "write times="),
    ("consumer", ("workers",), "write concurrency="),
    ("consumer", ("retries",), "write retry="),
    ("consumer", ("max_workers", "queue_size"), "write concurrency=, maxsize="),
    ("consumer", ("maxSize",), "write maxsize="),
    ("consumer", ("concurency",), "write concurrency="),
    ("consumer", ("burst",), "write Rate(burst=…)"),
    ("consumer", ("drain_timeout",), "write Pipeline(drain_timeout=…)"),
    ("producer", ("retry",), "write restart="),
    ("source", ("length",), "write total="),
    ("Pipeline", ("timeout",), "write drain_timeout="),
    ("Pipeline", ("workers",), "write consumer(concurrency=…)"),
    ("run", ("workers",), "write consumer(concurrency=…)"),
    ("run", ("timeout",), "write drain_timeout="),
    ("route", ("otherwise",), "write default="),
    ("broadcast", ("buffer",), "write maxsize="),
    ("merge", ("name",), "write Pipeline(name=…)"),
]


@pytest.mark.parametrize(("name", "words", "cure"), WRONG, ids=lambda value: str(value))
def test_a_wrong_keyword_is_told_what_to_write(name: str, words: tuple[str, ...], cure: str) -> None:
    """Protects who comes from another library: the wrong word, what asyncpc calls it, and all that there is."""
    with pytest.raises(DefinitionError) as caught:
        TAKING[name](**dict.fromkeys(words, 3))
    assert isinstance(caught.value, TypeError)  # as Python's own refusal is
    said = str(caught.value)
    assert said.startswith(f"{name} has no option {', '.join(words)}: {cure}; it has ")
    options = [one.name for one in inspect.signature(TAKING[name]).parameters.values() if one.kind in (1, 3)]
    assert said.endswith(f"it has {', '.join(options) or 'none'}")


@pytest.mark.parametrize("name", TAKING)
def test_a_word_that_nothing_is_like_is_refused_without_a_guess(name: str) -> None:
    """A wrong guess costs more than none."""
    with pytest.raises(DefinitionError, match=f"^{name} has no option zyx; it has "):
        TAKING[name](zyx=1)


def test_every_policy_is_explained() -> None:
    """A policy that is added later is not forgotten: it can be told by its keywords like the others."""
    policies = [
        one
        for one in map(vars(asyncpc).get, asyncpc.__all__)
        if isinstance(one, type) and one.__module__.startswith(("asyncpc.options.", "asyncpc.backoff"))
    ]
    assert len(policies) > 5
    for policy in policies:
        with pytest.raises(DefinitionError, match="has no option zyx"):
            policy(zyx=1)


def test_each_word_of_others_leads_to_something() -> None:
    """A table of cures that names an option which is gone would send its reader nowhere."""
    options = {option for one in TAKING.values() for option in inspect.signature(one).parameters}
    assert set(CALLED_ELSEWHERE) <= options


# -- what stays as it is --------------------------------------------------------------------------


def test_what_is_explained_stays_what_it_was() -> None:
    """Signatures, names, defaults, copies and pickles; and the function's own ``TypeError`` comes out as it is."""

    @explained
    def one(a: int, *, b: int = 2) -> int:
        """Said."""
        if b == 3:
            raise TypeError("its own")
        return a + b

    assert (one(1), one(a=1, b=1), one.__doc__, one.__name__) == (3, 2, "Said.", "one")
    assert str(inspect.signature(one)) == "(a: 'int', *, b: 'int' = 2) -> 'int'"
    with pytest.raises(TypeError, match="its own"):
        one(1, b=3)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        one()  # type: ignore[call-arg]
    retry = Retry(4, wait=abs)
    assert retry._replace(attempts=5) == Retry(5, wait=abs)
    assert pickle.loads(pickle.dumps(retry)) == retry
    assert list(inspect.signature(Retry).parameters) == ["attempts", "on", "wait"]
    assert list(inspect.signature(Pipeline).parameters) == [
        *("parts", "maxsize", "drain_timeout", "on_unfinished", "name")
    ]
    assert (Pipeline(ignore, name="x") >> Sink().consumer)._label() == "x >> sink"


# -- names that others have -----------------------------------------------------------------------

MISSING: Final[list[tuple[object, str, str]]] = [
    (asyncpc, "Queue", "module 'asyncpc' has no attribute 'Queue': BoundedQueue is"),
    (asyncpc, "QueueFull", "it is asyncio's"),
    (source([1]) >> ignore, "run", "'Pipeline' object has no attribute 'run': await it,"),
    (source([1]) >> ignore, "start", "async with pipeline as running"),
    (source([1]) >> ignore, "put", "await running.put(item)"),
    (source([1]) >> ignore, "map", "write pipeline >> stage"),
    (Pipeline(ignore), "close", "await running.drain()"),
    (ignore, "put", "'Consumer' object has no attribute 'put': a consumer is one stage"),
    (endless, "stream", "producer >> stage"),
    (source([1]), "map", "source >> stage"),
]


@pytest.mark.parametrize(("thing", "name", "cure"), MISSING, ids=lambda value: value if type(value) is str else "")
def test_an_attribute_that_others_have_is_told_what_to_write(thing: object, name: str, cure: str) -> None:
    """Protects who looks for ``start()``, ``close()`` or ``Queue``; for ``hasattr`` it is not there."""
    with pytest.raises(AttributeError, match=re.escape(cure)) as caught:
        getattr(thing, name)
    assert (caught.value.name, caught.value.obj) == (name, None)  # or Python would guess, too
    assert not hasattr(thing, name)


def test_a_run_says_what_to_write() -> None:
    """The same for what ``async with pipeline as running`` gives."""

    async def main() -> None:
        async with Pipeline(ignore) as running:
            with pytest.raises(AttributeError, match=r"'Running' object .* 'close': await running\.drain\(\)"):
                running.close()  # type: ignore[attr-defined]
            assert not hasattr(running, "cancel")
            assert "Not there: await running.wait()." in pydoc.render_doc(type(running))

    testing.run(main())


def test_names_that_nobody_has_are_refused_as_python_refuses_them() -> None:
    """Python names what is like it, and tools that look for an attribute find none."""
    things: list[Any] = [asyncpc, source([1]) >> ignore, ignore]
    for thing in things:
        with pytest.raises(AttributeError, match=r"has no attribute 'colect'$") as caught:
            thing.colect()
        assert (caught.value.name, caught.value.obj) == ("colect", thing)
    assert copy.copy(Pipeline(ignore, name="x"))._label() == "x"


def test_no_cure_is_for_what_is_there() -> None:
    """A name in the table that the class gets one day would be out of reach, or told to be missing."""
    classes = [Pipeline, Consumer, Producer, Source, Running, RemoteQueue]
    for kind in classes:
        names = [name for names in MEANT[kind.__name__] for name in names.split()]
        assert [name for name in names if callable(getattr(kind, name, None))] == []
        assert len(set(names)) == len(names)
    assert set(MEANT) == {"asyncpc", *(kind.__name__ for kind in classes)}
    assert not {name for names in MEANT["asyncpc"] for name in names.split()} & set(asyncpc.__all__)


def test_dir_shows_the_public_names() -> None:
    """Protects who looks around with ``dir`` or the Tab key: no modules of the house, no tools."""
    assert dir(asyncpc) == sorted(asyncpc.__all__)
