"""``docs/messages.md`` is true: each of its programs gives the message that stands below it."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from children import UNMEASURED, run_child

import asyncpc
import asyncpc.remote

pytestmark = pytest.mark.realtime

PAGE: Final = (Path(__file__).parents[1] / "docs" / "messages.md").read_text()

SELDOM: Final = {"AsyncpcError", "RetryLater", "Disconnected", "NotAllowed"}
"""Classes of errors that no user meets as a message: the base of all, what a handler raises to be called again, and
what needs a server that does not answer, or refuses."""


class Entry(NamedTuple):
    """What the page says of one message."""

    heading: str
    """The message as one looks for it; ``…`` stands for anything."""
    program: str
    """What gives it. Run as a file if its first line is a command, such as ``# python -X dev app.py``."""
    message: str
    """Lines that come in this order, in each of which ``…`` stands for anything."""
    cause: str
    fix: str


def entries() -> Iterator[Entry]:
    """What the page has, section by section."""
    for section in PAGE.split("\n### ")[1:]:
        heading, _, text = section.partition("\n\n## ")[0].partition("\n")
        parts = [
            *(re.search(rf"^```{kind}\n(.+?)^```$", text, re.MULTILINE | re.DOTALL) for kind in ("python", "text")),
            *(re.search(rf"^\*\*{word}\.\*\* (.+?)\s*(?=^$|\Z)", text, re.MULTILINE | re.DOTALL) for word in WORDS),
        ]
        assert all(parts), f"not complete: {heading}"
        yield Entry(heading.strip("`"), *(part[1] for part in parts if part))


WORDS: Final = ("Cause", "Fix")

ENTRIES: Final = list(entries())


def pattern(text: str) -> str:
    """A regular expression for a line in which ``…`` stands for anything."""
    return ".*".join(map(re.escape, text.split("…")))


def is_told(message: str, output: str) -> bool:
    """Whether an output has the lines of a message, in their order; each may be a part of a line."""
    return re.search("[^\n]*\n(?:.*\n)*?.*".join(map(pattern, message.strip().splitlines())), output) is not None


def printed(program: str) -> str:
    """What a program prints, logs and raises, when it is run here."""
    output = io.StringIO()
    logged, log = logging.StreamHandler(output), logging.getLogger("asyncpc")
    log.addHandler(logged)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            exec(compile(program, "app.py", "exec", dont_inherit=True), {"__name__": "__main__"})
    except Exception as error:
        output.write("".join(traceback.format_exception(error)))
    finally:
        log.removeHandler(logged)
    return output.getvalue()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.heading.replace("[", "(").replace("]", ")"))
def test_the_program_gives_the_message(entry: Entry, tmp_path: Path) -> None:
    """Who meets a message finds it on the page, word for word, with what leads to it."""
    command = re.match(r"# python (.*)\n", entry.program)
    if command:
        (tmp_path / "app.py").write_text(entry.program)
        ended = run_child(tmp_path, *command[1].split(), **UNMEASURED)
        output = ended.out + ended.err
    else:
        output = printed(entry.program)
    assert is_told(entry.message, output), output
    assert re.search(pattern(entry.heading), entry.message.replace("\n", " "))


def test_every_entry_is_tested() -> None:
    """A heading whose program, message, cause or fix is missing would be a message without a test."""
    assert [entry.heading for entry in ENTRIES] == re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
    assert len(ENTRIES) > 60
    assert PAGE.count("```python") == PAGE.count("```text") == len(ENTRIES)
    assert len({entry.heading for entry in ENTRIES}) == len(ENTRIES)


def test_every_error_is_on_the_page() -> None:
    """A class of errors that is added later is explained too."""
    errors = {
        name
        for module in (asyncpc, asyncpc.remote)
        for name in module.__all__
        if issubclass_of_exception(getattr(module, name))
    }
    assert len(errors) > 10
    told = " ".join(entry.message for entry in ENTRIES)
    assert {name for name in errors - SELDOM if f"{name}: " not in told} == set()


def issubclass_of_exception(thing: object) -> bool:
    """Whether it is a class of errors."""
    return isinstance(thing, type) and issubclass(thing, Exception)


def test_what_is_compared() -> None:
    """Protects the tests above: another message, or another order, is seen."""
    assert is_told("Error: a … b\nnote", "x\n  | my.Error: a 1 b, c\nbetween\n  | note 2\n")
    assert is_told("one\ntwo\nthree", "one\n\ntwo\nthree")
    assert not is_told("Error: a … b", "Error: a 1\nb")
    assert not is_told("one\ntwo", "two\none\n")
    assert not is_told("one\ntwo", "one two\n")
    assert "ZeroDivisionError: division by zero" in printed("print('said')\n1 / 0")
    assert printed("print('said')") == "said\n"
