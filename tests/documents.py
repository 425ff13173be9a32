"""Programs in documents: each runs by itself, as it was copied, and prints what the document shows below it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

from children import UNMEASURED, run_child

BLOCK: Final = re.compile(r"^```(python|sh)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
MEASURED: Final = re.compile(r"(?<= {2})[\d,.]+(?: +[\d,.]+)?$|[\d,.]+(?= s$)", re.MULTILINE)
"""What differs from run to run: at the end of a row how many were queued and the rate, and seconds."""


class Block(NamedTuple):
    """A program, or commands of the command line that are given its name, ``app``."""

    language: str
    code: str
    shown: str
    """What it prints, as the document has it; empty if the document does not say."""


def blocks_of(text: str) -> list[Block]:
    """The programs and commands of a document, in order."""
    return [Block(*found) for found in BLOCK.findall(text)]


def unmeasured(output: str) -> str:
    """The output without what was measured; how wide a column is depends on that too."""
    return re.sub(r" +", " ", re.sub(r"-+", "-", MEASURED.sub("#", output)))


def run_as_written(blocks: list[Block], folder: Path) -> None:
    """Run each program as ``app.py`` in a folder of its own, and there the commands that follow it.

    Each must end well and print what is shown.
    """
    home = folder
    for number, block in enumerate(blocks):
        if block.language == "python":
            home = folder / str(number)
            home.mkdir()
            (home / "app.py").write_text(block.code, encoding="utf-8")
        for arguments in _commands(block):
            ended = run_child(home, *arguments, **UNMEASURED)
            assert ended.status == 0, ended.err
            assert "Traceback" not in ended.err, ended.err
            assert not block.shown or unmeasured(ended.out) == unmeasured(block.shown), ended.out


def _commands(block: Block) -> list[list[str]]:
    """What Python is called with: the program, or those of the commands that are asyncpc's own."""
    if block.language == "python":
        return [["app.py"]]
    commands = [shlex.split(line) for line in block.code.splitlines()]
    return [["-m", *command] for command in commands if command[0] == "asyncpc"]
