"""A crawl that several processes share. Each page is fetched once, whoever finds a link to it first.

The pages to fetch wait in a queue with a URL, by default in a SQLite file. A page's address is the id of its message,
so the queue takes it once, from whichever process. A page is acknowledged when its links are in the queue: if a process
is killed, another one fetches its pages again, and no link is lost. When nothing waits and nobody has a page, the crawl
is over, and each process ends. Needs httpx and ``asyncpc[remote]``.

Run a site, and the crawl in several terminals; the first names a page to start from::

    python -m pydoc -n 127.0.0.1 -p 8080
    python examples/shared_crawl.py http://127.0.0.1:8080/topics.html
    python examples/shared_crawl.py
    asyncpc run examples.shared_crawl:pipeline --processes 2

Expect at the end, from each, what it has done itself::

    75 pages, 400 links

Ctrl-C or SIGTERM stops one of them, and the others go on. The last of the commands does the same work in two
processes, but waits for more pages until it is stopped. ``CRAWL_URL`` names another queue. A SQLite file remembers an
id for ten minutes, which is long enough here; a crawl that takes longer keeps the addresses that it has seen in a table
of its own.
"""

import asyncio
import os
import re
import sys
from html import unescape
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from asyncpc import Report, Running, consumer, remote_queue
from asyncpc.remote import OpenQueue

LOOK_EVERY = 0.5  # seconds between two looks whether the crawl is over

pages = remote_queue(os.environ.get("CRAWL_URL", "sqlite:///crawl.db?queue=pages"), str)


class Page(NamedTuple):
    url: str
    links: frozenset[str]


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False)  # no proxy between us and loopback


@consumer(concurrency=4, context=client, retry=3)
async def fetch(url: str, http: httpx.AsyncClient) -> Page:
    answer = await http.get(url)
    links = {urljoin(url, unescape(link)) for link in re.findall(r'href="([^"#]+)', answer.text)}
    return Page(url, frozenset(link for link in links if urlsplit(link).netloc == urlsplit(url).netloc))


@consumer(context=pages.open)  # one connection in each process
async def follow(page: Page, queue: OpenQueue[str]) -> int:
    await asyncio.gather(*(queue.put(link, id=link) for link in page.links))  # sent together
    return len(page.links)


found: list[int] = []


@consumer
async def count(links: int) -> None:
    found.append(links)


pipeline = pages >> fetch >> follow >> count


async def stop_at_the_end(running: Running[str, None], queue: OpenQueue[str]) -> None:
    """Stop when no page waits and none is under way, in any process."""
    depth = await queue.depth()
    while depth.ready + depth.unacknowledged + depth.delayed:
        await asyncio.sleep(LOOK_EVERY)
        depth = await queue.depth()
    running.stop()


async def crawl(start: str | None) -> Report:
    """Fetch pages until no process has any left, or a signal comes."""
    async with pages.open() as queue:
        if start:
            await queue.put(start, id=start)
        async with pipeline as running, running.on_signals():
            looking = asyncio.create_task(stop_at_the_end(running, queue))
            try:
                return await running.wait()
            finally:
                looking.cancel()


if __name__ == "__main__":
    report = asyncio.run(crawl(sys.argv[1] if len(sys.argv) > 1 else None))
    print(f"{len(found)} pages, {sum(found)} links")
    sys.exit(report.exit_status)
