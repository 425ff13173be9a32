"""What watching costs a run: the CPU time of all that is not its own loop.

The run itself is not timed against one that nobody watches: on a machine with other work, two equal runs differ by more
than watching costs.
"""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr

import pytest
from support import named, same

from asyncpc import Pipeline, source
from asyncpc.cli.web import page_served
from asyncpc.web.dashboard import page_of

pytestmark = [pytest.mark.thorough, pytest.mark.realtime, pytest.mark.timeout(300)]

ITEMS = 1_500_000

MOST = 0.1
"""The share of a processor; 0.015 was the most on a quiet machine, and 0.125 on one with much other work."""

CLIENT = """
import socket, sys, time
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(b"GET /api/events HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
while sys.argv[2] == "reads" and connection.recv(65536):
    pass
time.sleep(600)
"""


def share_of_watching(clients: Sequence[str]) -> float:
    """What part of a processor goes into all threads but that of the run, while so many clients have its page open."""
    pipeline = Pipeline(source(range(ITEMS)) >> named("a", same) >> named("b", same))
    options = Namespace(web=0, web_host="127.0.0.1", web_payloads=False)
    told = io.StringIO()
    with ExitStack() as stack:
        with redirect_stderr(told):
            serving = page_served(
                lambda terms: page_of(pipeline, token=terms.token, hosts=terms.hosts, payloads=False), options
            )
            stack.enter_context(serving)
        port = told.getvalue().partition("127.0.0.1:")[2].split()[0]
        for kind in clients:
            client = stack.enter_context(subprocess.Popen([sys.executable, "-c", CLIENT, port, kind]))
            stack.callback(client.kill)
        time.sleep(0.7)  # they connect meanwhile

        async def main() -> None:
            await pipeline

        all_before, own_before, began = time.process_time(), time.thread_time(), time.perf_counter()
        asyncio.run(main())
        others = time.process_time() - all_before - (time.thread_time() - own_before)
        return others / (time.perf_counter() - began)


def test_watching_costs_next_to_nothing() -> None:
    """A page that somebody has open takes a small part of a processor; five that do not read, no more."""
    assert min([share_of_watching(["reads"]) for _ in range(5)]) <= MOST
    assert min([share_of_watching(["sleeps"] * 5) for _ in range(5)]) <= MOST
