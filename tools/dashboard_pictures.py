"""Makes the pictures of a run for the documentation afresh: of the page, with Chromium, and of the terminal.

That of the terminal needs no browser: ``python -m tools.live_picture`` makes it alone.

Run it beside the package and the group ``browser``; ``chromium`` is a Debian package::

    uv run --group browser python -m tools.dashboard_pictures docs/images
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

from . import live_picture

STUCK_AFTER: Final = 14.0
"""Seconds after which the stuck workers of the program are told."""

PROGRAM: Final = """
import asyncio, random
from asyncpc import Pipeline, Retry, consumer, producer, route

class Rejected(Exception): ...

@producer(total=60_000)
async def urls():
    for n in range(60_000):
        yield n

@consumer
async def dead_letters(failure):
    await asyncio.sleep(0.001)

@consumer(concurrency=24, maxsize=400, retry=Retry(3, on=ConnectionError, wait=lambda n: 0.05), on_error=dead_letters)
async def fetch(n):
    if 2_000 < n < 8_000 and n % 400 == 0:
        await asyncio.Event().wait()  # no timeout
    if random.random() < 0.02:
        raise ConnectionError("down")
    await asyncio.sleep(random.expovariate(80))
    return n

@consumer(concurrency=6, on_error="skip")
async def parse(n):
    await asyncio.sleep(0.005)
    if n % 207 == 0:
        raise Rejected(f"item {n} has no price")
    return n

@consumer(concurrency=4, maxsize=64)
async def store(n):
    await asyncio.sleep(0.005)

@consumer(concurrency=2, maxsize=64)
async def index(n):
    await asyncio.sleep(0.003)

@consumer(maxsize=64)
async def audit(n):
    await asyncio.sleep(0.001)

pipeline = Pipeline(urls, fetch, parse, route(lambda n: n % 3, {0: store, 1: index, 2: audit}), name="shop")
"""


@contextmanager
def served() -> Iterator[str]:
    """Run the program, and give the address of its page."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "shop.py").write_text(PROGRAM)
        command = [
            sys.executable,
            "-m",
            "asyncpc",
            "run",
            "shop:pipeline",
            "--web",
            "0",
            "--quiet",
            "--drain-timeout",
            "0",
        ]
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            found = re.search(r"http://\S+", process.stderr.readline())
            assert found
            try:
                yield found[0]
            finally:
                process.terminate()


def main(folder: Path) -> None:
    """Write the pictures."""
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        first = browser.new_page()
        first.goto(url)
        first.wait_for_selector("h1.alarm", timeout=60_000)
        first.wait_for_timeout(1000 * STUCK_AFTER)
        for width, scheme in ((1280, "dark"), (390, "light")):
            dark = scheme == "dark"
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
            )
            page = context.new_page()
            page.goto(url)
            page.wait_for_selector("#rows tr")
            page.screenshot(path=folder / f"dashboard-{width}-{scheme}.png", full_page=True)
        browser.close()
    live_picture.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
