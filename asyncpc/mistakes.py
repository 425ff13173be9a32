"""Common first mistakes: names that asyncpc does not have, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from types import ModuleType
from typing import Any, Final, TypeVar, cast

from .errors import DefinitionError
from .wording import shown

__all__ = ["absent", "explained", "unknown_attribute"]

C = TypeVar("C", bound=Callable[..., Any])

CALLED_ELSEWHERE: Final[Mapping[str, str]] = {
    "attempts": "max_attempts tries max_tries retries max_retries retry times stop total",
    "backoff": "wait delay interval sleep",
    "batch": "batch_size chunk chunk_size chunksize bulk group_size",
    "breaker": "circuit_breaker circuit",
    "burst": "burst_size capacity bucket_size",
    "concurrency": "workers worker max_workers num_workers n_workers worker_count parallelism parallel max_concurrency "
    "limit tasks threads num_threads max_threads max_tasks consumers instances pool_size replicas",
    "context": "resource session setup lifespan dependency connection",
    "default": "otherwise fallback else",
    "drain_timeout": "timeout grace grace_period graceful_timeout shutdown_timeout stop_timeout drain deadline",
    "every": "interval adjust_every check_every",
    "failures": "failure_threshold fail_max max_failures threshold errors",
    "key": "partition_by partition_key group_by keyed_by shard_by",
    "loop": "event_loop loop_factory backend policy use_uvloop uvloop",
    "max_failures": "max_errors error_budget failure_limit",
    "maxsize": "queue_size queuesize qsize bufsize buffer buffer_size max_buffer_size max_queue max_queue_size queue "
    "capacity size bound max_items prefetch prefetch_count backpressure high_water_mark",
    "n": "per_second limit max_rate calls count amount rate requests times",
    "name": "label title id",
    "on": "exceptions exception retry_on retry_if on_error on_exception errors catch",
    "on_drop": "dropped on_overflow",
    "on_error": "error on_failure on_exception error_handler errors dead_letter dead_letters dead_letter_queue dlq "
    "return_exceptions exception_handler",
    "on_unfinished": "unfinished on_left leftover",
    "ordered": "order in_order preserve_order keep_order sequential fifo",
    "overflow": "when_full drop drop_policy strategy",
    "per": "period time_period window interval seconds within",
    "priority": "priority_key sort_key order_by",
    "progress": "show_progress progress_bar tqdm verbose",
    "rate": "rate_limit ratelimit throttle limiter max_rate",
    "reset_after": "reset_timeout recovery_timeout timeout cooldown wait",
    "restart": "retry retries restarts max_restarts",
    "retry": "retries max_retries tries max_tries attempts max_attempts retry_policy backoff",
    "run_in": "executor mode pool use_threads use_processes processes thread process",
    "size": "n max_size batch_size max_items limit count length",
    "target": "latency target_latency max_latency",
    "timeout": "max_time time_limit deadline timeout_seconds",
    "times": "attempts max_restarts retries max_retries n restarts",
    "total": "length count size n_items",
    "wait": "backoff delay interval sleep wait_time",
    "weigh": "weight weight_of size_of sizeof cost",
    "within": "timeout max_wait linger interval seconds flush_after flush_interval max_delay period window",
}
"""What other libraries call an argument."""

MEANT: Final[Mapping[str, Mapping[str, str]]] = {
    "asyncpc": {
        "Queue PriorityQueue LifoQueue": "BoundedQueue is asyncio's queue with a bound and an end; for an order of its "
        "own see consumer(priority=…)",
        "QueueFull QueueEmpty TimeoutError CancelledError": "it is asyncio's: import it from there",
        "Worker worker Stage stage Task task Sink sink": "write @consumer before a function",
        "Stream stream map amap": "write async with (source(items) >> stage).stream() as values: async for …, or "
        "await (…).collect()",
        "gather start": "write run(pipeline), or await pipeline inside a running loop",
    },
    "Pipeline": {
        "run start serve": "await it, enter it with 'async with pipeline as running:', or asyncpc.run(pipeline) where "
        "no loop runs",
        "put put_nowait put_from_thread send submit call": "it takes items while it runs: async with pipeline as "
        "running: await running.put(item)",
        "feed": "a handler calls asyncpc.feed(item)",
        "stop close aclose drain shutdown cancel join wait": "its run can be stopped: async with pipeline as running: "
        "await running.drain(); leaving the block drains too",
        "statistics report bottleneck scale set_rate pause resume": "its run has that: async with pipeline as running: "
        "running.statistics(), …",
        "results get": "await pipeline.collect(), or read pipeline.stream()",
        "map filter flat_map pipe then to add add_stage add_consumer": "write pipeline >> stage",
    },
    "Consumer": {
        "run start serve put put_nowait send submit stream collect": "a consumer is one stage: make a pipeline of it, "
        "source(items) >> stage or Pipeline(stage)",
        "map filter pipe then to": "write stage >> following",
    },
    "Producer": {
        "run start put put_nowait send stream collect": "a producer yields items: make a pipeline of it, producer >> "
        "stage",
        "map filter pipe then to": "write producer >> stage",
    },
    "Source": {
        "run start put put_nowait send stream collect": "a source gives items: make a pipeline of it, source >> stage",
        "map filter pipe then to": "write source >> stage",
    },
    "RemoteQueue": {
        "put put_many put_nowait put_from_thread send publish submit enqueue": "open it: async with queue.open() as q: "
        "await q.put(item)",
        "dead requeue purge": "open it: async with queue.open() as q: await q.dead()",
        "get receive run start stream collect": "make a pipeline of it, queue >> stage",
        "map filter pipe then to": "write queue >> stage",
    },
    "Running": {
        "close aclose shutdown": "await running.drain(), or leave the block, which drains",
        "cancel": "await running.drain(timeout=0)",
        "join": "await running.wait()",
        "put_many": "await running.put(item) for each",
        "get stream": "read results with 'async with pipeline.stream() as values:', or ask for one: await "
        "running.call(item)",
        "qsize full": "see running.statistics().stages[0].queued",
    },
}
"""What to write for attributes that asyncio's queues and other libraries have: by class, for several names at once."""

_arguments: Final[dict[str, tuple[str, ...]]] = {}
"""The arguments of all that is explained, by its name."""


def explained(thing: C) -> C:
    """A function or class that refuses an argument it does not have with a ``DefinitionError``: what to write instead.

    For a decorator; the signature stays what it was.
    """
    if isinstance(thing, type):
        method = "__init__" if "__init__" in vars(thing) else "__new__"
        checked = _checking(getattr(thing, method), thing.__name__, bound=1)
        setattr(thing, method, checked if method == "__init__" else staticmethod(checked))
        return cast(C, thing)
    return cast(C, _checking(thing, thing.__name__))


def unknown_attribute(thing: object, name: str) -> AttributeError:
    """The error for reading an attribute that ``thing`` does not have: says what to write instead, if that is known."""
    of = thing.__name__ if isinstance(thing, ModuleType) else type(thing).__name__
    what = f"module {shown(of)}" if isinstance(thing, ModuleType) else f"{shown(of)} object"
    text = f"{what} has no attribute {shown(name)}"
    advice = _meant(of).get(name)
    if advice is None:
        return AttributeError(text, name=name, obj=thing)  # Python names what is like it
    return AttributeError(f"{text}: {advice}", name=name)


def absent(kind: C) -> C:
    """A class whose objects say what to write for the attributes in :data:`MEANT`; for a decorator.

    It does what ``__getattr__`` does, which would make each call of a method slower (by 100 ns in CPython 3.11).
    """
    for name, advice in _meant(kind.__name__).items():
        setattr(kind, name, _Absent(name, advice))
    return kind


class _Absent:
    """An attribute that is not there."""

    def __init__(self, name: str, advice: str) -> None:
        self.name = name
        self.__doc__ = f"Not there: {advice}."  # help() shows it

    def __repr__(self) -> str:
        return "(not there)"

    def __get__(self, thing: object, kind: type) -> _Absent:
        if thing is None:
            return self
        raise unknown_attribute(thing, self.name)


def _meant(of: str) -> dict[str, str]:
    """What to write, by attribute."""
    return {name: advice for names, advice in MEANT.get(of, {}).items() for name in names.split()}


def _checking(function: Callable[..., Any], name: str, bound: int = 0) -> Callable[..., Any]:
    parameters = list(signature(function).parameters.values())[bound:]
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    _arguments[name] = arguments = tuple([one.name for one in parameters if one.kind in named])

    @wraps(function)
    def checked(*args: Any, **given: Any) -> Any:
        if wrong := [word for word in given if word not in arguments]:
            raise DefinitionError(_explanation(name, wrong))
        return function(*args, **given)

    return checked


def _explanation(name: str, wrong: Sequence[str]) -> str:
    advice = ", ".join(dict.fromkeys(filter(None, [_advice(name, word) for word in wrong])))
    write = f": write {advice}" if advice else ""
    has = ", ".join(_arguments[name]) or "none"
    return f"{name} has no option {', '.join(wrong)}{write}; it has {has}"


def _advice(name: str, word: str) -> str:
    """What to write in place of a wrong word; empty if nothing is like it."""
    from difflib import get_close_matches  # here, since most programs make no mistake

    own = _arguments[name]
    others = {other: arguments for other, arguments in _arguments.items() if other != name}
    if meant := _same(word, own) or _called_elsewhere(word, own):
        return f"{meant}="
    for find in _same, _called_elsewhere:
        for other, arguments in others.items():
            if meant := find(word, arguments):
                return f"{other}({meant}=…)"
        if near := get_close_matches(word, own, n=1, cutoff=0.7):
            return f"{near[0]}="
    return ""


def _same(word: str, arguments: Sequence[str]) -> str:
    return next((one for one in arguments if _plain(one) == _plain(word)), "")


def _called_elsewhere(word: str, arguments: Sequence[str]) -> str:
    known = [one for one in arguments if _plain(word) in map(_plain, CALLED_ELSEWHERE.get(one, "").split())]
    return next(iter(known), "")


def _plain(word: str) -> str:
    return word.replace("_", "").lower()
