"""The page on notebooks, executed in a real kernel: progress and reports are HTML there, and the stop button works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from children import UNMEASURED, run_child
from pages import DOCS, programs

pytestmark = [pytest.mark.realtime, pytest.mark.thorough]

CELLS: Final = [one.text for one in programs(DOCS / "how-to" / "notebooks.md")]

EXECUTE: Final = "from nbclient.cli import main; main()"

WATCH: Final = """
import json, sys
from jupyter_client.manager import start_new_kernel

def said(code):
    request, texts = client.execute(code), []
    while True:
        message = client.get_iopub_msg(timeout=20)
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != request:
            continue
        texts += [content[part] for part in ("text", "ename") if part in content]
        texts += list(content.get("data", {}).values())
        if kind == "stream" and "under way" in content["text"]:
            kernel.interrupt_kernel()
        if kind == "status" and content["execution_state"] == "idle":
            return texts

kernel, client = start_new_kernel()
try:
    print(json.dumps([said(cell) for cell in sys.argv[1:]]))
finally:
    client.stop_channels()
    kernel.shutdown_kernel(now=True)
"""
"""Executes cells in a kernel, and presses the stop button when one says that it is under way; shows all that came."""


def watched(folder: Path, *cells: str) -> list[list[str]]:
    """All that each cell shows from its begin to its end, what is redrawn included."""
    ended = run_child(folder, "-c", WATCH, *cells, **UNMEASURED)
    assert ended.status == 0, ended.err
    shown: list[list[str]] = json.loads(ended.out)
    return shown


def executed(folder: Path, cells: list[str]) -> list[list[dict[str, Any]]]:
    """What each cell shows, by its types; not what it logs."""
    python = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    empty: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    book = {"nbformat": 4, "nbformat_minor": 5, "metadata": python}
    file = folder / "book.ipynb"
    file.write_text(json.dumps(book | {"cells": [empty | {"id": str(n), "source": c} for n, c in enumerate(cells)]}))
    ended = run_child(folder, "-c", EXECUTE, str(file), "--inplace", **UNMEASURED)
    assert ended.status == 0, ended.err
    return [
        [{kind: "".join(text) for kind, text in one["data"].items()} for one in cell["outputs"] if "data" in one]
        for cell in json.loads(file.read_text())["cells"]
    ]


def test_the_page_works_in_a_kernel(tmp_path: Path) -> None:
    """Protects who works in a notebook: await at the top of a cell, a bar, a picture and a table as HTML."""
    progress, live, picture, table, streamed, started, later = executed(tmp_path, CELLS)
    (bar,) = progress  # one output, redrawn in its place
    assert re.fullmatch(
        r'<div>source\(range\) &gt;&gt; fetch <progress value="1\.0000"></progress> 100 % · 400/400 · .*</div>',
        bar["text/html"],
    )
    (rows,) = live  # likewise
    assert "> ENDED </span>" in rows["text/html"]
    assert "100%</span> of 400 · 400 done" in rows["text/html"]
    assert re.search(r"^ ENDED .*\n.*400 done(.*\n)* fetch ", rows["text/plain"])
    assert "fetch ×20" in picture[0]["text/html"]
    assert "<th>fetch</th><td>400</td><td>400</td>" in table[0]["text/html"]
    assert streamed[0]["text/plain"] == str([n * n for n in range(10)])
    assert (started, later[0]["text/plain"]) == ([], "400")


def test_the_bar_moves(tmp_path: Path) -> None:
    """Protects progress itself: while the cell runs it is redrawn, each time further on."""
    (texts,) = watched(tmp_path, CELLS[0])
    shares = [float(share) for text in texts for share in re.findall(r'<progress value="([\d.]+)">', text)]
    assert shares == sorted(shares)
    assert any(0 < share < 1 for share in shares)
    assert shares[-1] == 1


def test_the_live_view_moves(tmp_path: Path) -> None:
    """Protects who looks for what is slow: each stage is seen at work while the cell runs, as HTML only."""
    _, texts = watched(tmp_path, CELLS[0], CELLS[1])
    done = [int(count) for text in texts if "<pre" in text for count in re.findall(r" of 400 · (\d+) done", text)]
    assert done == sorted(done)
    assert any(0 < count < 400 for count in done)
    assert done[-1] == 400


def test_the_stop_button_leaves_nothing_running(tmp_path: Path) -> None:
    """Protects the next cell: after an interrupt no worker is left, and the results so far can be had."""
    _, stopped, kept, left = watched(
        tmp_path,
        CELLS[0],
        "@consumer\n"
        "async def tell(n: int) -> int:\n"
        "    if n == 100: print('under way', flush=True)\n"
        "    return n\n"
        "await (source(range(10**9)) >> fetch >> tell).collect()",
        "import sys; print(len(sys.last_value.results), sys.last_value.report.produced)",
        "print([task for task in asyncio.all_tasks() if task.get_name().startswith('asyncpc')])",
    )
    assert stopped[0] == "under way\n"
    assert "CancelledError" in stopped  # beside what the log says of items that were left
    results, produced = map(int, kept[0].split())
    assert 0 < results <= produced
    assert left == ["[]\n"]
