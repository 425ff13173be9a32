"""The gate that judges the hot path by instruction counts: that it can fail, and by what it judges.

One test counts with valgrind; the others are given their counts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))
instructions = import_module("benchmarks.instructions")
CASES = import_module("benchmarks.counted").CASES
main = instructions.main

BY_HAND = 10_000.0


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that keeps half of the hand-written pipeline's instructions for each case, on this build."""
    file = tmp_path / "instructions.json"
    write(file, instructions.build())
    monkeypatch.setattr(instructions, "KEPT", file)
    return file


def write(file: Path, build: str, *ratios: float) -> None:
    entries = [{"ratio": ratio, "reason": "planted"} for ratio in ratios or (0.5,)]
    section = {"build": build, "commit": "c0ffee", "ratios": dict.fromkeys(CASES, entries)}
    file.write_text(json.dumps({instructions.minor(): section}))


def counted(monkeypatch: pytest.MonkeyPatch, *of_checkouts: dict[str, float]) -> list[list[Path]]:
    """Give each checkout these ratios instead of counting; what was asked for is added to the list."""
    asked: list[list[Path]] = []

    def measure(checkouts: list[Path], cases: Sequence[str], runs: int) -> list[dict[str, Any]]:
        asked.append(checkouts)
        return [
            {case: instructions.Cost(ratios[case] * BY_HAND, BY_HAND, 0.0) for case in cases}
            for _, ratios in zip(checkouts, of_checkouts, strict=True)
        ]

    monkeypatch.setattr(instructions, "measure", measure)
    return asked


def every(ratio: float) -> dict[str, float]:
    return dict.fromkeys(CASES, ratio)


# -- it can fail -----------------------------------------------------------------------------------

SLOWER = """
def consumer(*, _consumer=consumer, **options):
    def decorate(handle):
        async def handle_slower(item):
            return await handle(item)
        return _consumer(**options)(handle_slower)
    return decorate
"""

LOSES_ITEMS = """
def consumer(*, _consumer=consumer, **options):
    def decorate(handle):
        async def handle_some(item):
            return await handle(item) if item % 100 else None
        return _consumer(**options)(handle_some)
    return decorate
"""


def planted(directory: Path, fault: str) -> Path:
    """A checkout whose asyncpc has a fault."""
    shutil.copytree(ROOT / "asyncpc", directory / "asyncpc", ignore=shutil.ignore_patterns("__pycache__"))
    with (directory / "asyncpc" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write(fault)
    return directory


@pytest.mark.thorough
def test_a_slower_hot_path_fails_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One more coroutine per item fails the gate. Without valgrind the gate fails too, and tells how to get it."""
    slower = planted(tmp_path, SLOWER)
    status = main(["no-work", "--runs", "1", "--package", str(slower), "--against", str(ROOT)])
    told = capsys.readouterr()
    if shutil.which("valgrind") is None:
        assert (status, told.err) == (2, f"not measured: {instructions.MISSING}\n")
    else:
        assert (status, told.out.splitlines()[-1]) == (1, "over the limit: no-work"), told


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_its_limit(
    case: str, kept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A single case beyond its limit fails the run and is named; at the limit it passes."""
    limit = {"no-work": 1.03, "four-stages": 1.03, "maxsize-1": 1.05, "sleep-0": 1.08}.get(case, 1.03)
    counted(monkeypatch, every(0.5) | {case: 0.5 * limit * 0.999})
    assert main([]) == 0
    assert "within the limits" in capsys.readouterr().out
    counted(monkeypatch, every(0.5) | {case: 0.5 * limit * 1.001})
    assert main([]) == 1
    told = capsys.readouterr().out
    assert f"over the limit: {case}\n" in told
    assert [line.split()[0] for line in told.splitlines() if line.endswith("OVER")] == [case]


def test_work_that_goes_wrong_is_not_counted(tmp_path: Path) -> None:
    """An asyncpc that loses items needs fewer instructions, and must not pass for it."""
    lossy = planted(tmp_path, LOSES_ITEMS)
    command = [sys.executable, "-m", "benchmarks.counted", str(lossy), "no-work"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "WrongResult: asyncpc: 990 items handled of 1000" in done.stderr
    assert done.stderr.endswith("no-work, asyncpc: failed\n")
    assert not done.stdout


def test_nothing_passes_unmeasured(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without valgrind, without a kept ratio, or with an asyncpc that does not import: status 2, and why."""
    broken = planted(tmp_path / "broken", "raise ImportError('half rebuilt')")
    assert main(["--package", str(broken)]) == 2
    assert "half rebuilt" in (told := capsys.readouterr().err) or told == f"not measured: {instructions.MISSING}\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([]) == 2
    assert capsys.readouterr().err == f"not measured: {instructions.MISSING}\n"
    kept.write_text("{}")
    assert main(["no-work"]) == 2
    assert f"keeps no ratio for Python {instructions.minor()}, no-work" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["no-wrok"],
        ["--runs", "0"],
        ["--keep"],
        ["--reason", "why"],
        ["--package", "nowhere"],
        ["--keep", "--reason", "why", "--against", str(ROOT)],
    ],
    ids=lambda wrong: wrong[0],
)
def test_usage(wrong: list[str]) -> None:
    """A misspelt case, no runs, no such checkout, and a ratio kept without a reason are refused."""
    with pytest.raises(SystemExit, match="2"):
        main(wrong)


# -- what it judges by -----------------------------------------------------------------------------


def test_another_checkout_can_be_the_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--against compares before and after in one go, whatever is kept."""
    before = planted(tmp_path, "")
    asked = counted(monkeypatch, every(1.2), every(1.2))
    assert main(["--against", str(before)]) == 0
    assert asked == [[ROOT, before]]
    counted(monkeypatch, every(1.2), every(1.1))
    assert main(["--against", str(before)]) == 1


@pytest.mark.parametrize(("ratio", "status"), [(0.62, 1), (0.60, 0)])
def test_another_build_measures_anew(
    ratio: float, status: int, kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On another build the kept commit's state is measured too; what was raised since, with a reason, stays raised."""
    write(kept, "another build", 0.5, 0.75)
    monkeypatch.setattr(instructions, "exported", lambda commit: nullcontext(tmp_path / commit))
    asked = counted(monkeypatch, every(ratio), every(0.4))  # so 0.4 × 0.75 / 0.5 = 0.6 is the standard here
    assert main([]) == status
    assert asked == [[ROOT, tmp_path / "c0ffee"]]


@pytest.fixture
def repository(tmp_path: Path) -> Callable[..., str]:
    """Runs git in a repository whose one commit has an asyncpc."""
    directory = tmp_path / "repository"
    (directory / "asyncpc").mkdir(parents=True)
    (directory / "asyncpc" / "__init__.py").write_text("committed = True\n")

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
        command = ["git", "-C", str(directory), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "the first state")
    return git


def test_a_commit_is_exported(
    repository: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured of a commit is its asyncpc, not the one in the work tree; a commit that is not there is told."""
    monkeypatch.setattr(instructions, "ROOT", tmp_path / "repository")
    (tmp_path / "repository" / "asyncpc" / "__init__.py").write_text("committed = False\n")
    with instructions.exported(repository("rev-parse", "HEAD")) as checkout:
        assert (checkout / "asyncpc" / "__init__.py").read_text() == "committed = True\n"
    with pytest.raises(instructions.NotMeasured, match="archive"), instructions.exported("c0ffee"):
        pass


# -- what it keeps ---------------------------------------------------------------------------------


def test_a_ratio_is_kept_with_its_reason(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--keep adds to the history of each case measured, and the gate judges by the last entry."""
    counted(monkeypatch, every(0.6))
    assert main(["no-work"]) == 1
    assert main(["no-work", "--keep", "--reason", "items carry a ticket"]) == 0
    section = json.loads(kept.read_text())[instructions.minor()]
    assert section["ratios"]["no-work"][1:] == [{"ratio": 0.6, "reason": "items carry a ticket"}]
    assert section["commit"] == "c0ffee"
    assert main(["no-work"]) == 0
    assert main(["sleep-0"]) == 1


def test_the_first_ratios_of_a_build_belong_to_a_commit(
    repository: Callable[..., str],
    tmp_path: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another build begins anew, with all cases and a state that can be measured again: one that is committed."""
    write(kept, "another build")
    counted(monkeypatch, every(0.6))
    keep = ["--keep", "--reason", "a new build", "--package", str(tmp_path / "repository")]
    assert main(["no-work", *keep]) == 2
    assert "all cases" in capsys.readouterr().err
    changed = tmp_path / "repository" / "asyncpc" / "new.py"
    changed.touch()
    assert main(keep) == 2
    assert "not committed:\n?? asyncpc/new.py" in capsys.readouterr().err
    changed.unlink()
    assert main(keep) == 0
    section = json.loads(kept.read_text())[instructions.minor()]
    assert (section["build"], section["commit"]) == (instructions.build(), repository("rev-parse", "HEAD"))
    assert section["ratios"] == {case: [{"ratio": 0.6, "reason": "a new build"}] for case in CASES}


def test_what_is_kept() -> None:
    """The file in the repository has every case for every Python of the gate, each ratio with its reason."""
    kept = json.loads((ROOT / "benchmarks" / "instructions.json").read_text(encoding="utf-8"))
    assert {"3.11", "3.12", "3.13"} <= set(kept)
    for section in kept.values():
        assert section["build"]
        assert len(section["commit"]) == 40
        assert set(section["ratios"]) == set(CASES)
        assert all(0 < entry["ratio"] < 2 and entry["reason"] for of in section["ratios"].values() for entry in of)


# -- how it counts ---------------------------------------------------------------------------------


def test_an_item_costs_the_difference_of_two_sizes() -> None:
    """What a run costs besides its items (imports, the loop, the pipeline's start) is no part of an item's cost."""
    done = "no-work|asyncpc|1000|11\nno-work|asyncpc|11000|12\n"
    printed = "==11== I   refs:      405,000,000\n==12== I refs:  455,000,000\n==10== I   refs:  400,000,000\n"
    assert instructions.per_item(done, printed) == {("no-work", "asyncpc"): 5_000}
    with pytest.raises(instructions.NotMeasured, match="no total for process 13"):
        instructions.per_item("no-work|asyncpc|1000|13\n", printed)
