"""What watching costs a run: CPU time against a run that nobody watches, with another such run beside it."""

from __future__ import annotations

import asyncio
import io
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack, redirect_stderr

import pytest
from support import named, same

from asyncpc import Pipeline, source
from asyncpc.cli.web import page_served
from asyncpc.web.dashboard import page_of

pytestmark = [pytest.mark.thorough, pytest.mark.realtime, pytest.mark.timeout(300)]

ITEMS = 1_500_000

CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(b"GET /api/events HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
while sys.argv[2] == "reads" and connection.recv(65536):
    pass
sys.stdin.read()
"""


def cpu_seconds(clients: Sequence[str], *, is_served: bool = True) -> float:
    """Of one run without work, whose page so many clients have open; all that it takes in this process."""
    pipeline = Pipeline(source(range(ITEMS)) >> named("a", same) >> named("b", same))
    options = Namespace(web=0 if is_served else None, web_host="127.0.0.1", web_payloads=False)
    told = io.StringIO()
    with ExitStack() as stack:
        with redirect_stderr(told):
            terms = page_served(
                lambda terms: page_of(pipeline, token=terms.token, hosts=terms.hosts, payloads=False), options
            )
            stack.enter_context(terms)
        for kind in clients:
            port = told.getvalue().partition("127.0.0.1:")[2].split()[0]
            client = subprocess.Popen([sys.executable, "-c", CLIENT, port, kind], stdin=subprocess.PIPE)
            stack.callback(client.communicate)  # it ends with its stdin
        time.sleep(0.7 if clients else 0)  # they connect meanwhile; it takes no CPU time

        async def main() -> None:
            await pipeline

        began = time.process_time()
        asyncio.run(main())
        return time.process_time() - began


def test_watching_costs_next_to_nothing() -> None:
    """A page that somebody has open: at least 0.97 times the throughput; five that do not read cost no more."""
    cases: dict[str, Callable[[], float]] = {
        "off": lambda: cpu_seconds([], is_served=False),
        "off again": lambda: cpu_seconds([], is_served=False),
        "open": lambda: cpu_seconds(["reads"]),
        "slow": lambda: cpu_seconds(["sleeps"] * 5),
    }
    cases["off"]()
    rounds = [{name: case() for name, case in cases.items()} for _ in range(7)]
    ratios = {name: statistics.median([one["off"] / one[name] for one in rounds]) for name in cases}
    noise = abs(1 - ratios["off again"])
    assert ratios["open"] >= 0.97 - noise, ratios
    assert ratios["slow"] >= 0.97 - noise, ratios
