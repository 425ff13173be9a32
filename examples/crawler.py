"""A polite crawler over real HTTP. It ends by itself, although the pages link to each other in circles.

It crawls the documentation server that comes with Python (``python -m pydoc``), which runs on loopback as long as the
crawl does. It reads the topics, the keywords, and the modules that you name on the command line (only those, since
pydoc imports what it documents). Needs httpx.

Run it::

    python examples/crawler.py [module ...]        or        asyncpc run examples.crawler:pipeline

Expect numbers like these (the dead links are real ones, of Python 3.11), and the five slowest pages::

    136 pages, 1241 links, 3 dead
      dead    topic?key=FILES
      ...
     160 ms  topic?key=str
     156 ms  topic?key=inspect
      ...

A page has links, so work creates more work: ``feed`` puts each link into the first stage, and the run ends when nothing
is queued or running anywhere. The first stage has one worker, so its ``context=`` is opened once, before the first page
is fetched, and closed after the last. Here that is the server, and the set of pages that were seen.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from html import unescape
from time import perf_counter
from urllib.parse import urljoin

import httpx

from asyncpc import Pipeline, consumer, feed, run, source

POLITE_PAUSE = 0.01  # seconds that each worker waits between two requests


@dataclass
class Site:
    address: str
    seen: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Page:
    url: str
    links: frozenset[str]
    dead: bool
    seconds: float

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@asynccontextmanager
async def documentation() -> AsyncIterator[Site]:
    """Python's documentation server. It also ends when its stdin is closed, so never later than we do."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pydoc", "-n", "127.0.0.1", "-p", "0"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us: the server is needed until the crawl is drained
    )
    assert server.stdout
    try:
        ready = (await server.stdout.readline()).decode()  # Server ready at http://127.0.0.1:40123/
        yield Site(ready.split()[-1])
    finally:
        with suppress(ProcessLookupError):  # it has gone already
            server.terminate()
        await server.communicate()


@asynccontextmanager
async def summary() -> AsyncIterator[list[Page]]:
    pages: list[Page] = []
    yield pages
    dead = sorted((page for page in pages if page.dead), key=lambda page: page.name)
    print(f"{len(pages)} pages, {sum(len(page.links) for page in pages)} links, {len(dead)} dead")
    for page in dead:
        print(f"  dead    {page.name}")
    for page in sorted(pages, key=lambda page: page.seconds, reverse=True)[:5]:
        print(f"  {page.seconds * 1000:4.0f} ms  {page.name}")


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False)  # no proxy between us and loopback


@consumer(concurrency=4, context=client)
async def fetch(url: str, http: httpx.AsyncClient) -> Page:
    began = perf_counter()
    answer = await http.get(url)
    seconds = perf_counter() - began
    links = frozenset(urljoin(url, unescape(link)) for link in re.findall(r'href="([^"#]+)', answer.text))
    dead = answer.is_error or "<title>Pydoc: Error" in answer.text  # pydoc answers 200 even for what it does not have
    for link in links:
        feed(link)
    await asyncio.sleep(POLITE_PAUSE)
    return Page(url, links, dead, seconds)


@consumer(context=summary)
async def collect(page: Page, pages: list[Page]) -> None:
    pages.append(page)


def crawler(*modules: str) -> Pipeline[str, None]:
    inside = re.compile("|".join(["topics", "keywords", "topic", *(rf"{re.escape(name)}(\.\w+)*" for name in modules)]))

    @consumer(context=documentation)
    async def once(link: str, site: Site) -> AsyncIterator[str]:
        """Let each page of the site through the first time that it comes."""
        url = urljoin(site.address, link)
        page = re.fullmatch(re.escape(site.address) + r"([\w.]+?)(\.html|\?key=.*)", url)
        if page and inside.fullmatch(page[1]) and url not in site.seen:
            site.seen.add(url)
            yield url

    starts = ["topics.html", "keywords.html", *(f"{name}.html" for name in modules)]
    return source(starts) >> once >> fetch >> collect


pipeline = crawler("json", "asyncio.queues")

if __name__ == "__main__":
    report = run(crawler(*sys.argv[1:]) if len(sys.argv) > 1 else pipeline)
    sys.exit(report.exit_status)
