"""What holds for all options: those not used change nothing, and a mistake is refused where it is written."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest
from spy import Sink

from asyncpc import Adaptive, Batch, Breaker, DefinitionError, PipelineError, Rate, Retry, consumer, source, testing


def test_options_that_are_not_used_change_nothing() -> None:
    """The fast path against the slow one: with every harmless option on, the values and their order are the same."""
    sinks = Sink(), Sink()
    everything = consumer(
        retry=3, timeout=1e6, on_error="skip", rate=Rate(1e9), breaker=Breaker(5, 1), ordered=True, concurrency=1
    )

    async def same(n: int) -> int:
        return n

    testing.run(source(range(300)) >> consumer(same) >> consumer(sinks[0]))
    testing.run(source(range(300)) >> everything(same) >> consumer(sinks[1]))
    assert sinks[0].items == sinks[1].items == list(range(300))


@pytest.mark.parametrize(
    "options",
    [
        {"priority": lambda n: 1 / n}, {"key": lambda n: 1 / n},
        {"batch": Batch(2, within=1, key=lambda n: 1 / n)}, {"batch": Batch(2, within=1, weigh=lambda n: 1 / n)},
    ],
    ids=["priority", "key", "batch key", "batch weigh"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["source", "stage", "batch"])
@pytest.mark.parametrize("maxsize", [2, 128])
def test_an_option_that_raises_fails_the_run_with_its_own_error(where: str, options: Any, maxsize: int) -> None:
    """The user's mistake must come out as itself, with books that balance."""

    @consumer
    async def same(n: int) -> int:
        return n

    @consumer(batch=Batch(2))
    async def pairs(items: list[int]) -> list[int]:
        return items

    stage: Any = consumer(maxsize=maxsize, **options)
    last = stage(Sink())

    async def main() -> None:
        numbers = source([1, 2, 3, 0, 4])
        await ({"source": numbers, "stage": numbers >> same, "batch": numbers >> pairs}[where] >> last)

    with pytest.raises(PipelineError) as failed:
        testing.run(main())
    assert {type(error) for error in failed.value.exceptions} == {ZeroDivisionError}


@pytest.mark.parametrize(
    "options",
    [
        {"retry": "3"}, {"retry": 0}, {"retry": True}, {"retry": Retry(on=cast(Any, "x"))},
        {"retry": Retry(wait=cast(Any, 3))},
        {"timeout": 0}, {"timeout": "1"}, {"timeout": float("inf")},
        {"on_error": "ignore"}, {"on_error": lambda: None}, {"on_error": 3},
        {"max_failures": 3}, {"max_failures": 1.5, "on_error": "skip"}, {"max_failures": -1, "on_error": "skip"},
        {"rate": 100}, {"rate": Rate(0)}, {"rate": Rate(1, per=0)}, {"rate": Rate(1, burst=0)},
        {"rate": Rate(1, key=cast(Any, 3))},
        {"breaker": 3}, {"breaker": Breaker(0, 1)}, {"breaker": Breaker(1, 0)},
        {"retries": 3},
        {"concurrency": Adaptive(0, 5, 1)}, {"concurrency": Adaptive(5, 2, 1)}, {"concurrency": Adaptive(1, 5, 0)},
        {"batch": 500}, {"batch": Batch(0)}, {"batch": Batch(2.5)}, {"batch": Batch(3, within=-1)},
        {"batch": Batch(10), "maxsize": 5}, {"batch": Batch(3, key=cast(Any, 3))},
        {"batch": Batch(3, weigh=cast(Any, 3))},
        {"ordered": "yes"}, {"ordered": True, "key": len}, {"ordered": True, "batch": Batch(3)},
        {"key": 3}, {"key": lambda: 0}, {"priority": "high"},
        {"overflow": "drop"}, {"overflow": "drop_oldest", "key": len}, {"on_drop": print},
        {"overflow": "drop_newest", "on_drop": 3},
    ],
    ids=lambda options: re.sub(r" at 0x\w+", "", str(options)),  # the same in each run
)  # fmt: skip
def test_a_mistake_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    """Bad input gets a clear error at definition time, with the name of the stage or option."""
    with pytest.raises(DefinitionError, match=r"consumer 'handle'|no option retries"):

        @consumer(**options)  # type: ignore[untyped-decorator]  # which options, only the test knows
        async def handle(n: Any) -> None: ...
