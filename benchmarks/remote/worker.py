"""``python -m benchmarks.remote.worker ENGINE PEER URL SERVER LOOP``: one implementation, which does as it is told.

It reads one order a line (JSON) and answers with a line, so that the implementations of a round take turns without
starting anew. What it writes otherwise goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import import_module
from typing import Any

from .work import Client, Meter, Peer, Round

Order = Callable[[Callable[[], Client], Round], Awaitable[None]]


async def publish(client: Callable[[], Client], work: Round) -> None:
    """Put all messages."""
    putting = client()
    work.meter.start()
    await putting.publish(work)
    work.meter.stop()


async def consume(client: Callable[[], Client], work: Round) -> None:
    """Handle what was put before."""
    await client().consume(work)
    work.check()


async def both(client: Callable[[], Client], work: Round) -> None:
    """Put and handle at the same time, as two programs would."""
    async with asyncio.TaskGroup() as group:
        for part in client().consume, client().publish:
            group.create_task(part(work))
    work.check()


ORDERS: dict[str, Order] = {"publish": publish, "consume": consume, "both": both}


def peer_of(engine: str, name: str) -> Peer:
    """The implementation of that name, on that engine."""
    from .roster import MODULES

    for module in MODULES[engine]:
        try:
            peers: tuple[Peer, ...] = import_module(f"{__package__}.peers.{module}").PEERS[engine]
        except ImportError:
            continue
        for peer in peers:
            if peer.name == name:
                return peer
    raise LookupError(f"{name} on {engine} does not import here")


def main(engine: str, name: str, url: str, server: str, loop: str) -> None:
    """See the module."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    peer = peer_of(engine, name)
    answers.write(json.dumps({"versions": peer.versions()}) + "\n")
    factory = import_module("uvloop").new_event_loop if loop == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        for line in sys.stdin:
            order = json.loads(line)
            try:
                answer = runner.run(_done(partial(peer.client, url, order.pop("queue")), int(server), **order))
            except Exception as error:
                answer = {"error": _told(error)}
            answers.write(json.dumps(answer) + "\n")


def _told(error: Exception) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def _done(client: Callable[[], Client], server: int, do: str, **terms: Any) -> dict[str, Any]:
    work = Round(meter=Meter(server or None), **terms)
    async with asyncio.timeout(60):
        await ORDERS[do](client, work)
    count = work.count if do == "publish" else work.metered
    return {**{name: seconds / count for name, seconds in work.meter.figures.items()}, "late": work.late}


if __name__ == "__main__":
    main(*sys.argv[1:])
