"""The README's programs run as written, and print what it says."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
MEASURED = re.compile(r"[\d,.]+(?= *$| s$)", re.MULTILINE)
"""What differs from run to run: the last figure of a line, a rate or seconds."""


def run_block(program: str, names: dict[str, Any]) -> str:
    """Execute a block as a reader would, ``await`` included, and return what it printed."""
    code = compile(program, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        result = eval(code, names)
        if result is not None:
            asyncio.run(result)
    return output.getvalue()


def unmeasured(output: str) -> str:
    """The output without what was measured; how wide a column is depends on that too."""
    return re.sub(r" +", " ", re.sub(r"-+", "-", MEASURED.sub("#", output)))


def test_the_programs_run_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block runs, on top of those before it; where an output is shown, it is that output."""
    blocks = BLOCK.findall(README)
    assert len(blocks) > 12
    names: dict[str, Any] = {}
    shown = 0
    for program, promised in blocks:
        output = run_block(program, names)
        if promised:
            shown += 1
            assert unmeasured(output) == unmeasured(promised)
    assert shown == 1


def test_the_first_screen_has_a_program() -> None:
    """Who opens the page sees code and its output before anything else is asked of them."""
    assert README.index("```python") < README.index("```text") < README.index("python3 -m venv")
    assert README[: README.index("```python")].count("\n") < 8


def test_links_point_to_something() -> None:
    """A link to a file of the project that is not there misleads."""
    broken = [link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README) if not (ROOT / link).exists()]
    assert not broken


def test_named_tests_exist() -> None:
    """The table of guarantees names tests; they must be there."""
    tests = "".join(path.read_text() + path.name for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_[a-z_0-9.]+)…?`", README):
        assert name in tests
