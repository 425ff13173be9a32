"""The pages of the documentation as tests read them: their programs and commands, and what each is said to print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["CTRL_C", "DOCS", "PAGES", "README", "Program", "differs", "files", "programs", "unmeasured"]

ROOT: Final = Path(__file__).parents[1]
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted(DOCS.rglob("*.md"))
README: Final = ROOT / "README.md"

PROGRAM: Final = re.compile(
    r"^```(python|sh)(?: ([^\n]*))?\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE
)
TITLE: Final = re.compile(r'title="([^"]*)"')
FILE: Final = re.compile(r'^```(?:toml|ini|json) title="([^"\n]*)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)
CTRL_C: Final = "^C\n"
RULER: Final = re.compile(r"-+(  -+)+")
MEASURED: Final = ("held back", "peak queued", "rate")
"""Columns that differ from run to run."""


class Program(NamedTuple):
    """One block of Python on a page, or of commands."""

    language: str
    title: str
    """The name of its file, if it is shown with one."""
    text: str
    output: str
    """What the page says that it prints, right below it; empty if it says nothing. Its reader presses Ctrl-C at ^C."""

    def commands(self) -> list[list[str]]:
        """The commands that are asyncpc's own, as Python is called for them."""
        lines = [shlex.split(line) for line in self.text.splitlines()] if self.language == "sh" else []
        return [["-m", *words] for words in lines if words[:1] == ["asyncpc"]]


def programs(page: Path) -> list[Program]:
    """Every program of a page, and every block of commands that runs asyncpc."""
    found = [
        Program(language, "".join(TITLE.findall(options)), text, output)
        for language, options, text, output in PROGRAM.findall(page.read_text())
    ]
    return [one for one in found if one.language == "python" or one.commands()]


def files(page: Path) -> dict[str, str]:
    """The other files that a page shows by their names, such as settings."""
    return dict(FILE.findall(page.read_text()))


def unmeasured(output: str) -> str:
    """The output without what was measured, and without what depends on that: the widths of columns."""
    output = re.sub(r"\b(in|after) [\d.]+ s\b", r"\1 # s", output)
    output = re.sub(r"\bbusy \d+%", "busy #%", output)
    output = re.sub(r".* held the event loop .*\n", "", output)  # so it seems where the machine stops the process
    output = re.sub(r"-\d+ of pipeline", "-# of pipeline", output)  # which of the workers it was
    kept: list[str] = []
    columns: list[tuple[int, int]] = []
    for line in output.splitlines():
        if RULER.fullmatch(line):
            columns = [match.span() for match in re.finditer("-+", line)]
            measured = [kept[-1][slice(*span)].strip() in MEASURED for span in columns]
            kept[-1] = " ".join(kept[-1].split())
            continue
        if columns and re.fullmatch(r"[\d,. s]*", line[columns[0][1] :]):
            cells = [line[slice(*span)].strip() for span in columns]
            line = " ".join(cell for cell, differs in zip(cells, measured, strict=True) if cell and not differs)
        else:
            columns = []
        kept.append(line)
    return "".join(f"{line.rstrip()}\n" for line in kept)


def differs(written: str, promised: str) -> str:
    """How an output differs from what a page promises, or nothing; there ``...`` stands for any number of lines."""
    promised = promised.replace(CTRL_C, "")
    pattern = "".join(
        "(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in unmeasured(promised).splitlines()
    )
    return "" if re.fullmatch(pattern, unmeasured(written)) else f"promised:\n{promised}\nwritten:\n{written}"
