"""The gate can fail: ``.ci/run`` with steps made for this, and the real steps with a uv that fails when told to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from children import UNMEASURED

ROOT = Path(__file__).parent.parent

STEPS = """\
#!/usr/bin/env bash
case $1 in
  --list)
    printf '%s\\n' setup good bad killed absent end-3.11 end-3.12
    ;;
  bad) exit 1 ;;
  killed) kill -KILL $PPID ;;
  absent) echo 'a unicorn' >>"$MISSING" ;;
  *) if read -r line; then echo "there is input: $line"; else echo "$1 runs"; fi ;;
esac
"""
"""A plan with every kind of step."""

UV = """\
#!/usr/bin/env bash
echo "uv $*" >>uv.log
if [[ -n $REACHABLE && "$*" == *"python install"* ]]; then
  mkdir -p .venv-pythons/cpython-3.12.9-linux/bin
  cp "$REACHABLE/python3.12" .venv-pythons/cpython-3.12.9-linux/bin/python
fi
[[ -z $FAILING || "$*" != *"$FAILING" ]]
"""
"""Says what it is asked, gets a Python if one is in reach, and fails at the command it is told to."""

ENOUGH = ["bash", "cat", "dirname", "env", "grep", "mktemp", "paste", "rm", "sed"]
"""All that the gate needs beside Python and pip."""


@dataclass(frozen=True)
class Gate:
    """What a run of the gate came to."""

    status: int
    output: str

    def results(self) -> dict[str, str]:
        """The table at the end: each step with its result."""
        _, _, table = self.output.rpartition("\nstep ")
        return dict(re.findall(r"^(\S+(?: 3\.\d+)?) +(ok|FAILED|NOT EXERCISED) ", table, re.MULTILINE))


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def gate(project: Path, *arguments: str, **environment: str) -> Gate:
    """Run the gate of a project; its steps must not read what stands on its stdin."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("AVAILABLE", "MISSING", "CI")}
    ended = subprocess.run(
        [project / ".ci" / "run", *arguments],
        env=inherited | environment,
        input="a line for nobody\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    return Gate(ended.returncode, ended.stdout)


@pytest.fixture
def planned(tmp_path: Path) -> Path:
    """A project with the gate, and with steps made for these tests."""
    script(tmp_path / ".ci" / "run", (ROOT / ".ci" / "run").read_text())
    script(tmp_path / ".ci" / "step", STEPS)
    return tmp_path


def test_it_passes_when_all_its_steps_do(planned: Path) -> None:
    """Status 0 needs every step, and the steps get no input, as on a machine that runs them for somebody."""
    passed = gate(planned, "good", "end")
    assert passed.status == 0
    steps = ["setup", "good", "end 3.11", "end 3.12"]
    assert passed.results() == dict.fromkeys(steps, "ok")
    assert {"setup runs", "good runs", "end-3.11 runs", "end-3.12 runs"} <= set(passed.output.splitlines())
    assert "4 of 4 steps passed, 0 not exercised" in passed.output


def test_a_failed_step_fails_it_and_the_others_still_run(planned: Path) -> None:
    """One run tells everything that is wrong."""
    failed = gate(planned, "--available", "bad", "end")
    assert failed.status == 1
    steps = ["setup", "end 3.11", "end 3.12"]
    assert failed.results() == dict.fromkeys(steps, "ok") | {"bad": "FAILED"}
    assert "end-3.12 runs" in failed.output


def test_a_step_that_was_killed_has_not_passed(planned: Path) -> None:
    """No record of a step is no success, also with what is available."""
    killed = gate(planned, "--available", "killed", "end", "3.11")
    assert (killed.status, killed.results()) == (1, {"setup": "ok", "killed": "FAILED", "end 3.11": "ok"})


def test_what_cannot_be_exercised_fails_it_unless_what_is_available_will_do(planned: Path) -> None:
    """A gate that passes over what a machine lacks says nothing; a contributor's machine may lack it, by name."""
    strict, lenient = gate(planned, "absent"), gate(planned, "--available", "absent")
    assert (strict.status, lenient.status) == (1, 0)
    for run in strict, lenient:
        assert run.results() == {"setup": "ok", "absent": "NOT EXERCISED"}
        assert re.search(r"^absent .* a unicorn$", run.output, re.MULTILINE)


def test_steps_are_chosen_by_name(planned: Path) -> None:
    """One step with its Python, or all of a name; a name that is not there is no empty success."""
    assert list(gate(planned, "good", "end", "3.12").results()) == ["setup", "good", "end 3.12"]
    assert list(gate(planned, "end").results()) == ["setup", "end 3.11", "end 3.12"]
    unknown = gate(planned, "good", "hood")
    assert (unknown.status, unknown.results()) == (2, {})
    assert "no step hood" in unknown.output
    assert gate(planned, "--list").output.split("\n")[:3] == ["setup", "good", "bad"]


# -- the real steps -------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the real steps on a machine that has Python 3.11 and nothing else, and a uv that only talks."""
    for name in "run", "step":
        script(tmp_path / ".ci" / name, (ROOT / ".ci" / name).read_text())
    script(tmp_path / ".venv-ci" / "bin" / "uv", UV)
    for tool in [*ENOUGH, "cp", "mkdir"]:
        found = shutil.which(tool)
        assert found is not None
        script(tmp_path / "bin" / tool, f'#!/bin/sh\nexec {found} "$@"\n')
    for name, version in ("bin/python3", "3.11"), ("bin/python3.11", "3.11"), ("afar/python3.12", "3.12"):
        script(tmp_path / name, f"#!/bin/sh\n[ $1 = -V ] && echo Python {version}.9 || echo $0\n")
    script(
        tmp_path / "afar" / "apt-get", f"#!/bin/sh\necho apt-get $*\ncp {tmp_path}/bin/cat {tmp_path}/bin/valgrind\n"
    )
    script(tmp_path / "bin" / "id", "#!/bin/sh\necho 0\n")
    (tmp_path / "README.md").write_text("```\npython3 -m venv .venv && echo uv run pytest\n```\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "none"))
    monkeypatch.setenv("FAILING", "")
    monkeypatch.setenv("REACHABLE", "")
    return tmp_path


@pytest.mark.parametrize("tool", ["--active mypy", "--active pyright", "--verifytypes asyncpc --ignoreexternal"])
def test_each_type_checker_can_fail_it(bare: Path, tool: str) -> None:
    """They run side by side, where a status is easily lost."""
    assert gate(bare, "types").results()["types"] == "ok"
    assert gate(bare, "types", FAILING=tool).results()["types"] == "FAILED"


def test_what_needs_something_that_is_missing_says_so(bare: Path) -> None:
    """Another Python is asked of uv first; where only what is there may be used, nothing is installed."""
    lenient = gate(bare, "--available", "test", "3.12", "instructions", "3.11")
    asked_for_nothing = not (bare / "uv.log").exists()
    strict = gate(bare, "test", "3.12", "instructions", "3.11")
    assert (lenient.status, strict.status) == (0, 1)
    for run in lenient, strict:
        assert run.results() == {"setup": "ok", "test 3.12": "NOT EXERCISED", "instructions 3.11": "NOT EXERCISED"}
        assert "  Python 3.12\n" in run.output
        assert "  valgrind\n" in run.output
    assert asked_for_nothing
    assert "python install" in (bare / "uv.log").read_text()


def test_what_can_be_got_is_got(bare: Path) -> None:
    """On a machine that can install, a missing Python or valgrind is no excuse; the apt-get of a contributor is."""
    (bare / "afar" / "apt-get").rename(bare / "bin" / "apt-get")
    steps = ["test", "3.12", "instructions", "3.11"]
    assert "NOT EXERCISED" in gate(bare, "--available", *steps, REACHABLE=str(bare / "afar")).results().values()
    got = gate(bare, *steps, REACHABLE=str(bare / "afar"))
    assert (got.status, got.results()) == (0, dict.fromkeys(["setup", "test 3.12", "instructions 3.11"], "ok"))
    assert "apt-get -o DPkg::Lock::Timeout=300 install -qq -y valgrind" in got.output


def test_the_readmes_command_runs_as_written(bare: Path) -> None:
    """It is what a reader copies, here with coverage; where it is gone from the page, the steps fail."""
    written = gate(bare, "readme")
    assert (written.status, written.results()["readme"]) == (0, "ok")
    assert "\nuv run pytest --cov\n" in written.output
    (bare / "README.md").write_text("Run the tests.\n")
    assert gate(bare, "job", "readme").results() == {"setup": "ok", "job": "FAILED", "readme": "FAILED"}


@pytest.mark.thorough
def test_too_little_coverage_fails(tmp_path: Path) -> None:
    """The floor in pyproject.toml is one: tests that pass and reach half of the code do not pass."""
    (tmp_path / "half.py").write_text("def half(n):\n    if n:\n        return 1\n    return 2\n")
    (tmp_path / "test_half.py").write_text("import half\n\ndef test_half():\n    assert half.half(1) == 1\n")
    measured = ["--cov=half", f"--cov-config={ROOT / 'pyproject.toml'}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *measured]
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | UNMEASURED, capture_output=True, text=True, timeout=50
    )
    assert "1 passed" in ended.stdout
    assert re.search("Required test coverage of 97.*not reached", ended.stdout)
    assert ended.returncode == 1


def test_the_workflow_runs_every_step() -> None:
    """A step that is added to the gate is not forgotten where it runs in parallel jobs."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    jobs = re.findall(r"^ {10}- (.+)$", workflow, re.MULTILINE)
    told = {step for job in jobs for step in re.findall(r"[a-z]+(?: 3\.\d+)?", job)}
    for step in gate(ROOT, "--list").output.splitlines()[1:]:  # the first, the setup, is part of each
        assert step in told or step.split()[0] in told
