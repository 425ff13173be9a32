"""``python -m tools.queue_picture`` draws ``docs/explanation/queue.svg``: how a queue fills and drains in a real run.

The source gives an item every 20 ms, twice as fast as three workers handle them. After 2.5 s somebody stops the run.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from asyncpc import consumer, producer

PICTURE = Path(__file__).parent.parent / "docs" / "explanation" / "queue.svg"

BOUND = 20
"""Items that the queue holds."""
STOP = 2.5
"""Seconds after which the run is stopped."""

WIDTH, HEIGHT = 600, 300
LEFT, RIGHT, TOP, BOTTOM = 36, 588, 44, 240
"""The edges of the curve."""


class Moment(NamedTuple):
    """The run at one moment."""

    seconds: float
    state: str
    queued: int


async def record() -> list[Moment]:
    """Run the pipeline, and look at it every millisecond."""

    @producer
    async def source() -> AsyncIterator[int]:
        for n in itertools.count():
            yield n
            await asyncio.sleep(0.02)

    @consumer(concurrency=3, maxsize=BOUND)
    async def handle(n: int) -> None:
        await asyncio.sleep(0.12)

    moments = []
    loop = asyncio.get_running_loop()
    async with source >> handle as running:
        began = loop.time()
        while running.report is None:
            if loop.time() >= began + STOP:
                running.stop()
            statistics = running.statistics()
            moments.append(Moment(loop.time() - began, statistics.state, statistics.stages[0].queued))
            await asyncio.sleep(0.001)
    return [*moments, Moment(loop.time() - began, running.statistics().state, 0)]


def picture(moments: list[Moment]) -> str:
    """Draw it, in colours that can be seen on white and on black."""
    end = moments[-1].seconds
    full = next(moment.seconds for moment in moments if moment.queued == BOUND)
    stop = next(moment.seconds for moment in moments if moment.state == "draining")

    def x(seconds: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * seconds / end, 1)

    def y(queued: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * queued / BOUND, 1)

    steps = [f"M{x(0)} {y(0)}"]
    for before, after in itertools.pairwise(moments):
        if after.queued != before.queued:
            steps.append(f"H{x(after.seconds)}V{y(after.queued)}")
    curve = "".join(steps) + f"H{x(end)}"
    texts = [
        (LEFT, TOP - 24, "start", "items in the queue"),
        (x(full) + 6, TOP - 24, "start", "full: the source waits"),
        (x(stop) + 6, TOP - 24, "start", "stop"),
        (x(end), BOTTOM + 46, "end", "nothing is left: END"),
        (LEFT - 8, y(BOUND) + 5, "end", f"{BOUND}"),
        (LEFT - 8, y(0) + 5, "end", "0"),
        *[(x(halves / 2), BOTTOM + 22, "middle", f"{halves / 2:g} s") for halves in range(int(2 * end) + 1)],
    ]
    lines = [
        f'<path d="M{LEFT} {y(BOUND)}H{RIGHT}" stroke-dasharray="4 4"/>',
        f'<path d="M{LEFT} {BOTTOM}H{RIGHT}"/>',
        *[f'<path d="M{x(seconds)} {TOP - 38}V{BOTTOM + 6}"/>' for seconds in (full, stop, end)],
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
            "<title>A bounded queue fills, holds its source back, and drains after a stop</title>",
            '<g fill="none" stroke="#8a8a8a" stroke-width="1">',
            *lines,
            "</g>",
            f'<path d="{curve}V{BOTTOM}H{LEFT}Z" fill="#5c6bc0" fill-opacity="0.25"/>',
            f'<path d="{curve}" fill="none" stroke="#5c6bc0" stroke-width="2"/>',
            '<g fill="#808080" font-family="system-ui, sans-serif" font-size="16">',
            *[f'<text x="{left}" y="{top}" text-anchor="{side}">{text}</text>' for left, top, side, text in texts],
            "</g>",
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(asyncio.run(record())))
