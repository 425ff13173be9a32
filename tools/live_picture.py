"""``python -m tools.live_picture`` makes the picture of the terminal in ``docs/how-to/live.md`` afresh.

It runs the program of that page, in virtual time and with dice that always fall the same way, and looks at it as
``--live`` does.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from pathlib import Path
from typing import Any, Final

from asyncpc import Pipeline, testing
from asyncpc.watch.screen import screen
from asyncpc.watch.watcher import View, Watcher

PAGE: Final = Path(__file__).parent.parent / "docs" / "how-to" / "live.md"

SECONDS: Final = 33.0
"""Of the run, when it is looked at."""

COLUMNS: Final = 130

FAILED_AT: Final = time.mktime((2026, 3, 1, 10, 27, 0, 0, 0, -1))
"""When everything failed."""

_PROGRAM: Final = re.compile(r'```python title="shop.py"\n(.*?)```\n', re.DOTALL)
_PICTURE: Final = re.compile(r"(?<=```text\n) (?:NEW|RUNNING) .*?(?=```\n)", re.DOTALL)


def picture(page: str) -> str:
    """What the terminal shows of the program on the page."""
    found = _PROGRAM.search(page)
    assert found, "the page has a program shop.py"
    program: dict[str, Any] = {}
    exec(compile(found[1], "shop.py", "exec"), program)  # as the reader runs it
    random.seed(1)
    view = testing.run(_seen(program["pipeline"]))
    view = view._replace(failures=tuple([one._replace(at=FAILED_AT) for one in view.failures]))
    rows = ["".join([text for text, _ in row]).rstrip() for row in screen(view, COLUMNS, 24)]
    return "\n".join(rows) + "\n"


async def _seen(pipeline: Pipeline[Any, Any]) -> View:
    """The run as the terminal sees it after a while."""
    loop = asyncio.get_running_loop()
    async with pipeline as running:
        watcher, ends = Watcher(running), loop.time() + SECONDS
        while loop.time() < ends:
            watcher.look()
            await asyncio.sleep(0.25)
        view = watcher.look()
        await running.drain(timeout=0)
    assert view is not None
    return view


def shown(page: str) -> str:
    """The picture that the page has."""
    found = _PICTURE.search(page)
    assert found, "the page has a picture of the terminal"
    return found[0]


def main() -> None:
    """Put the picture into the page."""
    page = PAGE.read_text()
    PAGE.write_text(page.replace(shown(page), picture(page)))


if __name__ == "__main__":
    main()
