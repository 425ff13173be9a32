"""A pipeline's shape as text: a picture for the terminal, or a mermaid flowchart. Pure functions of a plan."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import partial
from itertools import chain

from .stages import Handler, Plan

__all__ = ["bound", "draw", "mermaid", "plain"]


def draw(plan: Plan, columns: int) -> str:
    """The picture, from left to right if it fits into ``columns``, else from top to bottom; notes stand below."""
    picture = _across(plan)
    if max(map(_width, picture)) > columns:
        picture = _down(plan)
    notes = list(_notes(plan))
    return "\n".join([*picture, *(["", *notes] if notes else [])])


def mermaid(plan: Plan) -> str:
    """The same as a mermaid flowchart; sources are rounded, queues are cylinders labelled with their bounds."""
    lines = ["flowchart LR"]
    for place, name in enumerate(_sources(plan)):
        lines.append(f'    source{place}(["{_entities(name)}"]) --> queue0')
    for place, handler in enumerate(plan.handlers):
        if place:
            lines.append(f"    stage{place - 1} --> queue{place}")
        lines.append(f'    queue{place}[("{_queue(plan, handler)}")] --> stage{place}["{_entities(_stage(handler))}"]')
    return "\n".join(lines)


def bound(plan: Plan, handler: Handler) -> int:
    """Items that the queue before ``handler`` holds; 0 is unbounded."""
    return handler.bound(plan.maxsize)


def plain(text: str) -> str:
    """``text`` with everything escaped that could move a cursor, hide a word or break a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _across(plan: Plan) -> list[str]:
    """``a ─┐`` above ``b ─┴─► [128] ─► stage ×4``."""
    names = _padded(_sources(plan))
    stages = "".join(f" ─► [{_queue(plan, handler)}] ─► {_stage(handler)}" for handler in plan.handlers)
    if len(names) == 1:
        return [names[0] + stages]
    first, *between, last = names
    return [f"{first} ─┐", *(f"{name} ─┤" for name in between), f"{last} ─┴{stages[1:]}"]


def _down(plan: Plan) -> list[str]:
    """The same, a stage per line, each below its queue."""
    names = _padded(_sources(plan))
    lines = names
    if len(names) > 1:
        lines = [f"{names[0]} ─┐", *(f"{name} ─┤" for name in names[1:]), f"  ┌{'─' * (_width(names[0]) - 1)}┘"]
    return [*lines, *chain.from_iterable((f"  ▼ [{_queue(plan, h)}]", _stage(h)) for h in plan.handlers)]


def _notes(plan: Plan) -> Iterator[str]:
    """A line for whatever the picture has no room for."""
    for origin in plan.origins:
        if origin.total is not None:
            yield f"{origin.name}: {origin.total:,} items"
        if origin.restart is not None:
            times, within = origin.restart.times, origin.restart.within
            yield f"{origin.name}: started again when it raises, at most {times} times in {within:g} s"
    for handler in plan.handlers:
        if handler.generates:
            yield f"{handler.name}: gives any number of items per item"
        if handler.context is not None:
            yield f"{handler.name}: {plain(_called(handler.context))} is opened once per worker"
        if options := ", ".join(_options(handler)):
            yield f"{handler.name}: {options}"


def _options(handler: Handler) -> Iterator[str]:
    """What else the stage was asked for, in words."""
    if handler.adaptive is not None:
        yield f"up to {handler.adaptive.max} workers while calls take at most {handler.adaptive.target:g} s"
    if handler.batch is not None:
        within = f" or after {handler.batch.within:g} s" if handler.batch.within is not None else ""
        yield f"batches of {handler.batch.size:g}{within}"
    if handler.ordered:
        yield "values leave in order"
    for name in "key", "priority":
        if (function := getattr(handler, name)) is not None:
            yield f"{name} {plain(_called(function))}"
    if handler.retry is not None:
        yield f"{handler.retry.attempts} attempts"
    if handler.timeout is not None:
        yield f"at most {handler.timeout:g} s a call"
    if handler.rate is not None:
        yield f"at most {handler.rate.n:g} calls in {handler.rate.per:g} s"
    if handler.breaker is not None:
        yield f"rests {handler.breaker.reset_after:g} s after {handler.breaker.failures} failures in a row"
    if handler.on_error != "stop":
        yield (
            "skips what fails"
            if handler.on_error == "skip"
            else f"what fails goes to {plain(_called(handler.on_error))}"
        )
    if handler.overflow != "wait":
        yield f"{handler.overflow.replace('drop_', 'drops the ').replace('raise', 'raises')} when full"


def _sources(plan: Plan) -> list[str]:
    return [origin.name for origin in plan.origins] or ["put()"]


def _stage(handler: Handler) -> str:
    return f"{handler.name} ×{handler.concurrency}"


def _queue(plan: Plan, handler: Handler) -> str:
    return str(bound(plan, handler) or "∞")


def _called(thing: object) -> str:
    """What a function or object is called: never its repr, which may tell what it holds."""
    while isinstance(thing, partial):
        thing = thing.func
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _padded(names: list[str]) -> list[str]:
    widest = max(map(_width, names))
    return [name + " " * (widest - _width(name)) for name in names]


def _width(text: str) -> int:
    """Columns of a terminal that ``text`` takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def _entities(text: str) -> str:
    """``text`` for a quoted mermaid label: what could mean something to mermaid becomes a numbered entity."""
    return "".join(c if c.isalnum() or c in " _-.,()×" else f"#{ord(c)};" for c in text)
