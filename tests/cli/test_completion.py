"""``asyncpc completion``: what a shell completes once it has read the script."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from children import run_child

from asyncpc.cli.main import main

COMPLETE = """
source "$1"
COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2))
_shtab_asyncpc asyncpc
echo "${COMPREPLY[@]}"
"""
"""Completes the last of the words, as bash does at a Tab."""


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["pr"], "profile"),
        (["queue", ""], "stats peek dead requeue purge"),
        (["queue", "dead", "--li"], "--limit"),
        (["run", "app", "--lo"], "--loop --log-level"),
        (["run", "app", "--log-level", "d"], "debug"),
        (["run", "app", "--failed", "fai"], "failed.jsonl"),
        (["completion", ""], "bash zsh"),
    ],
)
def test_bash_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], completed: str) -> None:
    """A Tab knows the commands, their options, the choices of an option, and files where one is asked for."""
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion.bash").write_text(capsys.readouterr().out)
    (tmp_path / "failed.jsonl").touch()
    command = ["bash", "-c", COMPLETE, "bash", "./completion.bash", "asyncpc", *words]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == f"{completed}\n"


def test_zsh_has_a_script_too(capsys: pytest.CaptureFixture[str]) -> None:
    """It is one that zsh can load by ``eval``, and names the same commands."""
    assert main(["completion", "zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef asyncpc\n")
    assert "compdef _shtab_asyncpc" in script
    assert "--log-level" in script


@pytest.mark.realtime
def test_without_shtab_it_says_what_to_install(tmp_path: Path) -> None:
    """The extra is optional; who needs it reads the command that installs it."""
    program = "import sys; sys.modules['shtab'] = None\nfrom asyncpc.cli.main import main\n"
    ended = run_child(tmp_path, "-c", program + "sys.exit(main(['completion', 'bash']))")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == "asyncpc: completion needs shtab: pip install 'asyncpc[completion]'\n"
