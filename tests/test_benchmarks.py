"""The benchmark suite: that it can fail, that it checks results, and that its files say what they should.

Nothing here judges a time. The suite runs with what is installed; none of the peers is needed.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import asyncpc

sys.path.append(str(Path(__file__).parent.parent))
before, cases, judge, kept, measure = (
    import_module(f"benchmarks.{name}") for name in ("before", "cases", "judge", "kept", "measure")
)
peers, pictures, report, tables, work = (
    import_module(f"benchmarks.{name}") for name in ("peers", "pictures", "report", "tables", "work")
)
fleet, remote_cases, remote_command, remote_page, remote_work, servers = (
    import_module(f"benchmarks.remote.{name}") for name in ("fleet", "cases", "command", "page", "work", "servers")
)
main = import_module("benchmarks.__main__").main

QUICK = ("--quick", "--rounds", "2")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other library takes part, unless a test plants one."""
    plant(monkeypatch)


def plant(monkeypatch: pytest.MonkeyPatch, *more: Any) -> None:
    monkeypatch.setattr(cases, "EVERYBODY", (peers.BARE_LOOP, peers.ASYNCPC, peers.HAND_WRITTEN, *more))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON file of a run."""
    file = tmp_path_factory.mktemp("benchmarks") / "run.json"
    with pytest.MonkeyPatch.context() as monkeypatch:
        plant(monkeypatch)
        assert main(["throughput", "startup", "latency", *QUICK, "--json", str(file)]) == 0
    return dict(json.loads(file.read_text()))


# -- it can fail -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("required", "status"), [(1000, 1), (0.001, 0)])
def test_the_gate_can_fail(required: float, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A regression of the hot path must end CI: --require has an exit status, both ways."""
    assert main(["throughput", *QUICK, "--require", str(required)]) == status
    assert f"required: {required:g}" in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.parametrize(("seconds", "status"), [(0, 1), (0.5, 0)])
def test_the_gate_asks_of_threads_that_they_put_no_more_slowly_than_janus(
    seconds: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looks at each number of threads and each bound, beside throughput, and can fail (fault H4)."""

    async def run(job: Any) -> None:
        await asyncio.sleep(seconds)
        for n in range(job.shape.items):
            await job.handlers[0](n)

    monkeypatch.setattr(cases, "FEW_CROWDS", [(2, 8)])
    monkeypatch.setattr(cases, "THREAD_QUEUES", (peers.Peer("janus", run),))
    assert main(["crowd", *QUICK, "--require", "1"]) == status
    assert ("too slow: crowd 2 × bound 8" in capsys.readouterr().out) == bool(status)


def exact(median: float) -> dict[str, Any]:
    return {"median": median, "quartiles": [median, median]}


@pytest.mark.parametrize(
    ("quartiles", "itself", "verdict"),
    [
        ((2.0, 2.2), 1.0, "fast enough"),
        ((1.2, 1.4), 1.0, "too slow"),
        ((1.55, 1.65), 1.0, "fast enough"),  # as near as the noise that always is
        ((1.2, 2.4), 1.0, "not judged"),
        ((2.0, 2.2), 1.4, "not judged"),
        ((2.0, 2.2), 0.7, "not judged"),
        ((4.0, 4.2), 1.4, "fast enough"),
        ((0.8, 0.9), 1.4, "too slow"),
    ],
)
def test_only_what_is_clear_is_judged(quartiles: tuple[float, float], itself: float, verdict: str) -> None:
    """Rounds that disagree about the limit, or asyncpc that seems to differ from itself, are no reason for a status.

    But a gate that could judge nothing fails, so that a busy machine does not pass for a fast asyncpc.
    """
    ratio = {"median": sum(quartiles) / 2, "quartiles": quartiles}
    ratios = {"hand-written": ratio, measure.AGAIN: exact(itself)}
    told, is_met = judge.required({"cases": {"throughput": {"": {"asyncpc": {"ratios": ratios}}}}}, 1.6)
    assert told[0].startswith(f"{verdict}: throughput")
    assert is_met == (verdict == "fast enough")
    assert ("nothing could be judged" in told[-1]) == (verdict == "not judged")


def test_what_is_not_judged_does_not_hide_what_is_too_slow() -> None:
    """One clear case is enough to pass, or to fail; a missing peer is named."""
    wide = {"median": 1.6, "quartiles": [1.0, 3.0]}
    throughput = {"": {"asyncpc": {"ratios": {"hand-written": wide}}}}
    crowd: dict[str, Any] = {
        "clear": {"asyncpc": {"ratios": {"janus": exact(1.5)}}},
        "alone": {"asyncpc": {"ratios": {}}},
    }
    told, is_met = judge.required({"cases": {"throughput": throughput, "crowd": crowd}}, 1.6)
    assert is_met
    assert "not judged: crowd alone: janus is not there" in told
    crowd["clear"]["asyncpc"]["ratios"]["janus"] = exact(0.5)
    assert not judge.required({"cases": {"throughput": throughput, "crowd": crowd}}, 1.6)[1]


def lose(items: list[int]) -> list[int]:
    return items[1:]


def double(items: list[int]) -> list[int]:
    return [*items[1:], items[-1]]


@pytest.mark.parametrize("fault", [lose, double])
def test_a_fast_wrong_implementation_fails_the_run(
    fault: Callable[[list[int]], list[int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a lost item (the count) nor one handled twice instead of another (the sum) passes as speed."""

    async def run(job: Any) -> None:
        for item in fault([item async for item in job.sources[0]()]):
            await job.handlers[0](item)

    plant(monkeypatch, peers.Peer("hasty", run))
    assert main(["throughput", *QUICK]) == 1
    assert "wrong result: hasty" in capsys.readouterr().err


@pytest.mark.parametrize(("factor", "status"), [(100, 1), pytest.param(0.01, 0, marks=pytest.mark.thorough)])
def test_against_flags_a_planted_slow_down(
    measured: dict[str, Any], tmp_path: Path, factor: float, status: int
) -> None:
    """--against ends with 1 when the older run was a hundred times as far ahead, with 0 when it was so far behind."""
    file = tmp_path / "old.json"
    file.write_text(json.dumps(scaled(measured, factor)))
    assert main(["throughput", *QUICK, "--against", str(file)]) == status


def scaled(document: dict[str, Any], factor: float) -> dict[str, Any]:
    """The same run, with asyncpc ``factor`` times as fast."""
    document = copy.deepcopy(document)
    for lines in document["cases"].values():
        for results in lines.values():
            for ratio in results["asyncpc"]["ratios"].values():
                ratio["median"] *= factor
                ratio["quartiles"] = [quartile * factor for quartile in ratio["quartiles"]]
    return document


def test_noise_is_not_called_slower(measured: dict[str, Any]) -> None:
    """Slower is beyond both: 5 % of the median, and quartiles that still touch."""
    assert judge.compare(measured, measured)[:3] == ([], [], [])
    wide = {"median": 1.5, "quartiles": [1.0, 2.5]}
    near = {"median": 1.95, "quartiles": [1.95, 1.95]}
    low = {"median": 1.85, "quartiles": [1.8, 1.9]}
    slower = [judge.compare(run(exact(2.0)), run(new)).slower for new in (wide, near, low)]
    assert [len(lines) for lines in slower] == [0, 0, 1]


def run(ratio: dict[str, Any], name: str = "asyncpc", reference: str = "hand-written") -> dict[str, Any]:
    result = {"unit": "s", "value": exact(1.0), "ratios": {reference: ratio}}
    return {"cases": {"throughput": {"": {name: result}}}}


def test_everything_of_asyncpc_is_compared_with_the_older_file(measured: dict[str, Any]) -> None:
    """All lines of all cases, other ways to use asyncpc, and plain numbers; what is gone is told."""
    lines = sum(len(lines) for lines in measured["cases"].values())
    assert judge.compare(measured, measured).figures == lines
    slower = judge.compare(scaled(measured, 1000), measured).slower
    assert len(slower) == lines
    assert judge.compare(run(exact(2), cases.EACH_TIME), run(exact(1), cases.EACH_TIME)).slower == [
        "throughput (defined each time): 2.00 × hand-written then, 1.00 × now"
    ]
    old, new = ({"cases": {"growth": {"exponent": {"asyncpc": number(n)}}}} for n in (0.95, 1.15))
    assert judge.compare(old, new).slower == ["growth exponent: 0.950 then, 1.150 now"]
    assert not judge.compare(new, old).slower
    gone = copy.deepcopy(measured)
    del gone["cases"]["startup"]["four items"]
    assert judge.compare(measured, gone).doubts == ["startup four items is in the older file only"]


def number(value: float) -> dict[str, Any]:
    return {"unit": "", "value": exact(value), "ratios": {}}


def test_a_loss_no_greater_than_the_machine_feigns_is_unclear() -> None:
    """If asyncpc seems to be half as fast as itself, half as fast as before says nothing; and a quarter does."""
    for ratio, slower in (0.6, False), (0.25, True):
        document = run(exact(ratio), reference=measure.BEFORE)
        document["cases"]["throughput"][""]["asyncpc"]["ratios"][measure.AGAIN] = exact(2.0)
        found = judge.compare_with(measure.BEFORE, document)
        assert (bool(found.slower), bool(found.unclear), found.figures) == (slower, not slower, 1)


def test_what_cannot_be_compared_is_said(measured: dict[str, Any]) -> None:
    """Files from another loop or machine, or with no case in common, are compared with a doubt that is told."""
    assert judge.compare(measured | {"loop": "other"}, measured).doubts == ["loop: other then, asyncio now"]
    busy = measured | {"machine": measured["machine"] | {"load": 99.0}}
    assert judge.compare(busy, measured).doubts == []
    assert "nothing in common" in judge.compare(measured | {"cases": {}}, measured).doubts[0]


SLOW = """
import time
from asyncpc.run.running import Running

put = Running.put

async def put_slowly(self, item):
    time.sleep(0.0003)
    await put(self, item)

Running.put = put_slowly
"""


def checkout(folder: Path, more: str) -> Path:
    """An asyncpc that does more when it is imported."""
    copied = folder / "asyncpc"
    shutil.copytree(Path(asyncpc.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    with (copied / "__init__.py").open("a", encoding="utf-8") as module:
        module.write(more)
    return folder


@pytest.mark.realtime
def test_another_checkout_takes_part_in_the_same_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--against DIR measures the asyncpc of that checkout, not this one: a planted delay of each put is seen."""
    file = tmp_path / "run.json"
    main(["put", *QUICK, "--against", str(checkout(tmp_path, SLOW)), "--json", str(file)])
    assert "3 figures" in capsys.readouterr().out
    for results in json.loads(file.read_text())["cases"]["put"].values():
        assert results["before"]["value"]["quartiles"][0] >= 0.0003
        assert set(results["asyncpc"]["ratios"]) == {"hand-written", "before", "asyncpc again"}
        assert results["asyncpc"]["ratios"]["before"]["median"] > 1
    printed = tables.figures([json.loads(file.read_text())])
    assert " → " in printed
    assert " × before" in printed


def test_another_checkout_waits_under_the_same_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process would find another capacity on a busy machine, and 80 % of that is another load."""

    def gap_of(bench: Any, peer: Any, shape: Any, gap: float) -> dict[str, float]:
        return {"p50": gap}

    monkeypatch.setattr(cases, "_waits", gap_of)
    with asyncio.Runner() as runner:
        here, there = (measure.Bench(runner, True, 1) for _ in range(2))
        for line in cases.CASES["latency"].lines(here):
            both = before._beside(before._Lines(there).answer, here, "latency", line)
            assert both.samples[measure.BEFORE]() == both.samples["asyncpc"]()


def test_a_checkout_that_does_not_work_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It ends neither the run nor the comparison with a status that says all is well."""
    where = checkout(tmp_path, "raise RuntimeError('broken')")
    assert main(["startup", *QUICK, "--against", str(where)]) == 1
    told = capsys.readouterr().out
    assert "failed: before, startup  (its process ended with status 1)" in told
    assert "before could not be measured" in told


# -- what it tells ---------------------------------------------------------------------------------


def test_the_json_says_where_and_what(measured: dict[str, Any]) -> None:
    """A figure can be judged years later: machine, Python, loop, versions, commit, date, and every spread."""
    assert set(measured) == {
        *("machine", "python", "loop", "versions", "missing", "failed", "commit", "date", "quick", "cases"),
    }
    assert set(measured["machine"]) == {"platform", "processor", "cpus", "load"}
    assert measured["versions"]["asyncpc"]
    ours = measured["cases"]["throughput"][""]["asyncpc"]
    assert set(ours) == {"unit", "rounds", "value", "ratios"}
    assert (ours["unit"], ours["rounds"]) == ("s", 2)
    assert set(ours["ratios"]) == {"hand-written", "bare loop"}
    low, high = ours["value"]["quartiles"]
    assert 0 < low <= ours["value"]["median"] <= high
    assert set(measured["cases"]["latency"]) >= {f"{load} % load p99" for load in (20, 50, 80)}


def test_the_commit_is_told_also_after_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag before it is neither the commit nor a change that is not committed; a changed file is one."""

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    code = tmp_path / "asyncpc" / "queue.py"
    code.parent.mkdir()
    code.touch()
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    git("tag", "-a", "v1", "-m", "one")
    git("commit", "-q", "--allow-empty", "-m", "second")
    monkeypatch.setattr(report, "__file__", str(tmp_path / "benchmarks" / "report.py"))
    commit = git("rev-parse", "HEAD")[:7]
    assert tables._short(report._commit()) == commit
    code.write_text("changed")
    assert tables._short(report._commit()) == f"{commit} with uncommitted changes"


def test_a_missing_peer_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that is not installed, does not import or does not work is not hidden, and does not end the run."""
    (tmp_path / "broken_peer.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)

    async def fail(job: Any) -> None:
        raise TypeError("its API changed")

    absent = peers.Peer("absent", fail, "no-such-package", "no_such_package")
    plant(
        monkeypatch,
        absent,
        replace(absent, name="broken", module="broken_peer"),
        replace(absent, name="moved", module="json"),
    )
    assert main(["throughput", *QUICK, "--json", str(tmp_path / "run.json")]) == 0
    told = capsys.readouterr().out
    assert "not installed: absent" in told
    assert "does not import here: broken (ModuleNotFoundError: No module named 'no_such_module')" in told
    assert "fails: moved (TypeError: its API changed)" in told
    assert set(json.loads((tmp_path / "run.json").read_text())["missing"]) == {"absent", "broken", "moved"}


def test_without_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The suite runs on a bare installation, with plain tables."""
    for module in ("rich", "rich.console", "rich.table"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["startup", *QUICK]) == 0
    assert "hand-written" in capsys.readouterr().out


def test_pages_and_pictures_are_what_the_files_say() -> None:
    """No figure is typed, and none is of yesterday: ``python -m benchmarks.kept`` would change nothing."""
    texts = kept.texts()
    assert {"README.md", "docs/explanation/speed.md", "docs/explanation/speed/fast.svg"} <= set(map(str, texts))
    for file, text in texts.items():
        assert (kept.ROOT / file).read_text(encoding="utf-8") == text, f"{file}: run python -m benchmarks.kept"


def test_every_picture_of_a_page_is_drawn_from_the_files() -> None:
    """A page that shows a picture which is drawn no more would show that of yesterday; or none."""
    drawn = {file.stem for file in kept.texts() if file.suffix == ".svg"}
    for page in (
        "README.md",
        "docs/explanation/speed.md",
        "benchmarks/README.md",
        "docs/explanation/remote-benchmarks.md",
    ):
        assert set(re.findall(r"speed/(\w+)\.svg", (kept.ROOT / page).read_text(encoding="utf-8"))) <= drawn
    assert drawn == {file.stem for file in (kept.ROOT / kept.FOLDER).glob("*.svg")}


def test_keeping_writes_the_files(measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--keep leaves figures, tables and pictures; keeping the same figures again changes nothing."""
    monkeypatch.setattr(kept, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / kept.FOLDER).mkdir(parents=True)
    pages = {"README.md": kept.COSTS, "benchmarks/README.md": kept.FIGURES, f"{kept.FOLDER}.md": kept.COSTS}
    for page, (begin, end) in pages.items():
        (tmp_path / page).write_text(f"one\n{begin}\nof yesterday\n{end}\ntwo\n", encoding="utf-8")
    kept.keep(measured)
    written = {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()}
    for page in pages:
        text = written[tmp_path / page]
        assert text.startswith("one\n")
        assert text.endswith("two\n")
        assert "yesterday" not in text
    assert written[tmp_path / "benchmarks/README.md"].count("| **asyncpc** |") == 1
    assert "| latency 50 % load p99 | hand-written |" in written[tmp_path / "benchmarks/README.md"]
    assert {"fast.svg", "latency.svg", "start.svg"} <= {file.name for file in written}
    kept.keep(measured)
    assert {file: file.read_text() for file in tmp_path.rglob("*") if file.is_file()} == written


def test_the_newest_python_is_shown() -> None:
    """Of 3.9 and 3.14 the latter, also before its release: else ``--keep`` fails after it has measured everything."""
    of = [
        {"python": f"CPython {version}", "loop": loop}
        for version in ("3.14.0rc1", "3.9.2")
        for loop in ("asyncio", "uvloop")
    ]
    assert kept.shown(of) == of[0]


def test_a_new_case_is_in_a_picture() -> None:
    """Protects cases that nobody has told the pictures of: they come where other ways are, with everybody."""
    results = {
        name: {"unit": "s", "value": exact(1.0), "ratios": {"somebody": exact(1.0)}} for name in ("asyncpc", "somebody")
    }
    document = {
        "python": "CPython 3.13.0",
        "loop": "asyncio",
        "date": "2026",
        "cases": {"unheard of": {"a line": results}},
    }
    drawn = pictures.pictures(document)
    assert set(drawn) == {pictures.REST}
    for text in "unheard of a line", "somebody", "1.00 ×":
        assert f">{text}<" in drawn[pictures.REST]


def test_a_picture_is_well_formed_and_tells_light_from_dark(measured: dict[str, Any]) -> None:
    """Every picture parses as XML, has a title for who does not see it, and colours for both kinds of pages."""
    for name, svg in pictures.pictures(measured).items():
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img", name
        assert root.findtext("{http://www.w3.org/2000/svg}title")
        assert "prefers-color-scheme:dark" in svg
        sizes = [int(text.get("font-size") or 0) for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert min(sizes) >= 11


@pytest.mark.parametrize("low", [0.0004, 0.3, 7.0])
@pytest.mark.parametrize("times", [1.05, 30, 5_000])
def test_a_scale_has_ticks(low: float, times: float) -> None:
    """A picture without a scale says nothing: there are some ticks, not too many, and all lie on it."""
    scale = pictures.Scale.around([pictures.Point(low, low, low * times)], 0, 100)
    assert len(scale.ticks()) <= 6
    assert times < 3 or len(scale.ticks()) >= 2
    assert all(0 <= scale(tick) <= 100 for tick in scale.ticks())


def test_labels_do_not_cover_each_other() -> None:
    """Two lines that end at the same height have their names one below the other."""
    places = pictures._apart({"a": 10.0, "b": 11.0, "c": 50.0}, 15)
    assert places["b"] - places["a"] >= 14.9
    assert places["c"] == 50


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """--list names every case without measuring; a misspelt case and a gate that judges nothing are refused."""
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(cases.CASES)
    for wrong in (
        ["troughput"],
        ["startup", "--require", "1.2"],
        ["startup", "--keep"],
        ["startup", "--against", "nowhere"],
    ):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)


# -- how it measures -------------------------------------------------------------------------------


def test_rounds_are_interleaved_and_ratios_taken_per_round() -> None:
    """A machine that gets slower and slower changes no ratio: neighbours in time are compared, A B, A B."""
    order: list[str] = []

    def sample(name: str, cost: float) -> Callable[[], float]:
        def take() -> float:
            order.append(name)
            return cost * 2.0 ** len(order[::2])

        return take

    line = measure.Line("", {"reference": sample("reference", 3), "asyncpc": sample("asyncpc", 1)})
    results = measure.measure(line, 4, ("reference",))[""]
    assert order == ["reference", "asyncpc"] * 4
    assert results["asyncpc"].ratios["reference"] == measure.Spread(3, (3, 3))
    assert results["asyncpc"].value.spread > 0.5


@pytest.mark.parametrize(
    "peer", [peer for peer in peers.EVERYBODY if peer.missing() is None], ids=lambda peer: peer.name
)
@pytest.mark.parametrize("wait", [None, 0], ids=["no work", "sleep(0)"])
def test_every_installed_implementation_does_the_work(peer: Any, wait: float | None) -> None:
    """The peers' functions follow their current APIs, and none loses an item."""
    with asyncio.Runner() as runner:
        bench = measure.Bench(runner)
        assert bench.time(peer, bench.job(peer, work.Shape(300, wait=wait))) > 0


@pytest.mark.parametrize("peer", [peers.ASYNCPC, peers.HAND_WRITTEN], ids=lambda peer: peer.name)
def test_stages_and_producers(peer: Any) -> None:
    """Several stages and several producers do the same work in both that are compared."""
    with asyncio.Runner() as runner:
        measure.Bench(runner).time(peer, work.Job(work.Shape(1_000, stages=3, producers=7, bound=1)))


def test_growth_is_fitted() -> None:
    """The exponent is the slope: 0 for a cost that stays, 1 for one that grows with the size."""
    assert cases.exponent({10: 5.0, 100: 5.0, 1000: 5.0}) == pytest.approx(0)
    assert cases.exponent({10: 1.0, 100: 10.0, 1000: 100.0}) == pytest.approx(1)


def test_small_helpers() -> None:
    """Percentiles, round numbers of items, readable values."""
    assert [cases.percentile([float(n) for n in range(100)], share) for share in (50, 99, 99.9)] == [50, 99, 99]
    assert [measure.rounded(count) for count in (0.5, 7, 49, 99, 150_000)] == [1, 5, 20, 50, 100_000]
    assert [report.readable(*value) for value in ((1.02e-6, "s"), (5e-8, "s"), (2379, "B"), (0.9, ""))] == [
        *("1.02 µs", "50 ns", "2,379 B", "0.900"),
    ]


def test_what_is_wanted_is_measured() -> None:
    """Every ratio and limit of the acceptance table belongs to a case there is."""
    assert {case for case, _ in {**cases.WANTED, **cases.LIMITS}} <= set(cases.CASES)


# -- remote queues ---------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_remote_benchmark_measures_on_sqlite(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One engine from end to end, without a server: every line has its figures, and asyncpc a ratio to the client."""
    monkeypatch.setattr(remote_cases, "HANDLINGS", {"64 B": remote_cases.Handling(64)})
    monkeypatch.setattr(remote_cases, "MOST", 500)
    monkeypatch.setattr(remote_cases, "TWO_PROCESSES", 20)
    file = tmp_path / "run.json"
    assert main(["remote", "sqlite", "--quick", "--rounds", "1", "--json", str(file), "--require", "0.0001"]) == 0
    lines = json.loads(file.read_text())["cases"]["sqlite"]
    assert {"64 B publish", "64 B consume", "64 B consume client CPU", "end to end", "20 % load p99"} <= set(lines)
    assert lines["64 B consume"]["asyncpc"]["ratios"]["raw batched"]["median"] > 0
    assert lines["processes client CPU"]["asyncpc"]["ratios"]["1 process"]["median"] > 0
    assert "≥ 0.75 × raw batched" in capsys.readouterr().out
    assert "| **asyncpc** |" in remote_page.remote_figures(json.loads(file.read_text()))


def remote_lines(monkeypatch: pytest.MonkeyPatch, *lines: Any) -> None:
    """Let SQLite have these lines only."""
    monkeypatch.setattr(remote_command, "lines", lambda *_: iter(lines))


def test_a_client_that_fails_in_a_round_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Protects a long run: a client that fails at last has no figures but a reason, and the status says so."""
    rounds = iter([1e-6])

    def fails_later() -> dict[str, float]:
        for seconds in rounds:
            return {"consume": seconds}
        raise measure.Fails("ConnectionError: it went away")

    file = tmp_path / "run.json"
    samples = {"asyncpc": lambda: {"consume": 2e-6}, "raw batched": fails_later}
    remote_lines(monkeypatch, measure.Line("64 B", samples), measure.Line("end to end", {"asyncpc": lambda: 3e-6}))
    assert main(["remote", "sqlite", "--rounds", "3", "--json", str(file)]) == 1
    told = capsys.readouterr().out
    assert "failed: ConnectionError: it went away" in told
    assert "failed: raw batched, sqlite 64 B (ConnectionError: it went away)" in told
    written = remote_page.remote_figures(json.loads(file.read_text()))
    assert "| **asyncpc** | – | **500k** | – | – | – | – | **333k** | – |" in written
    assert "Failed on sqlite, 64 B: raw batched (`ConnectionError: it went away`)." in written


@pytest.mark.parametrize(
    ("reference", "arguments", "status"),
    [(1.0, [], 0), (1.0, ["--require"], 0), (0.7, ["--require"], 1), (0.7, ["--require", "0.9"], 0), (0.7, [], 0)],
)
def test_the_gate_of_remote_queues_can_fail(
    reference: float,
    arguments: list[str],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--require judges each goal of the issue, by the share that it is given; the table shows them all."""
    samples = {"asyncpc": lambda: {"consume": 1.0}, "raw batched": lambda: {"consume": reference}}
    remote_lines(monkeypatch, measure.Line("64 B", samples))
    assert main(["remote", "sqlite", "--rounds", "1", *arguments]) == status
    told = capsys.readouterr().out
    assert f"≥ 0.75 × raw batched {'✓' if reference == 1 else '✗'}" in told
    assert ("missed: sqlite 64 B consume: 0.70 ×; wanted: ≥ 0.75 × raw batched" in told) == bool(status)


def test_a_goal_without_its_reference_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A library that is not installed makes no goal a missed one, nor a reached one."""
    remote_lines(monkeypatch, measure.Line("64 B", {"asyncpc": lambda: {"consume": 1.0}}))
    assert main(["remote", "sqlite", "--rounds", "1", "--require"]) == 0
    told = capsys.readouterr().out
    assert "≥ 0.75 × raw batched ?" in told
    assert "not judged: sqlite 64 B consume: ≥ 0.75 × raw batched" in told


def test_a_page_is_written_between_its_marks_only() -> None:
    """What stands around the figures is somebody's text; a page that has lost its marks is not overwritten."""
    page = tables.between("one <a> old <b> two", ("<a>", "<b>"), "new")
    assert page == "one <a>\nnew\n<b> two"
    assert tables.between(page, ("<a>", "<b>"), "new") == page
    for text in "no marks", "<a> no end", "no beginning <b>":
        with pytest.raises(ValueError, match="does not have the lines"):
            tables.between(text, ("<a>", "<b>"), "new")


@pytest.mark.parametrize(("numbers", "of"), [([0, 1], 0), ([0, 1, 1], 0), ([0, 1, 3], 0), ([0, 1, 4], 4)])
def test_a_remote_round_that_loses_or_doubles_a_message_fails(numbers: list[int], of: int) -> None:
    """A fast client that loses messages, or handles one twice, does not pass for a fast one."""
    round_of_three = remote_work.Round(3, 64, remote_work.Meter(None), of=of)
    asyncio.run(round_of_three.handle_all(numbers))
    with pytest.raises(remote_work.WrongResult):
        round_of_three.check()


def test_how_late_messages_are_is_told_without_the_first_tenth() -> None:
    """The start, with its connections, is not measured; a client of batches does not wait for what is not due."""
    work = remote_work.Round(20, 64, remote_work.Meter(None), gap=0.001)
    sizes: list[int] = []

    async def both() -> None:
        async for batch in remote_work.in_batches(work, 500):
            sizes.append(len(batch))
            await work.handle_all([one["n"] for one in batch])

    asyncio.run(both())
    work.check()
    assert len(work.late) == work.metered == 18
    assert len(sizes) > 1
    assert min(work.late) >= 0.0


def test_a_round_shared_by_processes_is_judged_by_its_share() -> None:
    """Each of two processes handles half of the messages, whichever those are; what is more waits for the other one."""

    async def judged() -> Any:
        share = remote_work.Round(2, 64, remote_work.Meter(None), of=4)
        await share.handle_all([1, 3])
        more = asyncio.create_task(share.handle(2))
        await asyncio.sleep(0)
        more.cancel()
        await asyncio.wait({more})
        return share

    share = asyncio.run(judged())
    share.check()
    assert share.seen == [1, 3]


def test_processor_time_counts_what_a_process_has_started() -> None:
    """A server that forks for each connection is measured with all its processes, also when they have ended."""
    burn = "import time\nwhile time.process_time() < 0.2: pass\n"
    child = f"import subprocess, sys\ninput()\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
    program = f"{child}print('ended', flush=True)\n"
    with subprocess.Popen([sys.executable, "-c", f"{program}input()"], stdin=-1, stdout=-1, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = remote_work.ProcessorTime.of(process.pid)
        process.stdin.write(b"\n")
        process.stdout.readline()
        after = remote_work.ProcessorTime.of(process.pid)
        assert after.since(before) >= 0.18  # of 0.2 s, in ticks of 10 ms that are rounded down
        assert after.since(after) == 0
        process.communicate(b"\n")
    assert remote_work.ProcessorTime.of(process.pid) == remote_work.ProcessorTime()


def test_the_end_of_a_connection_makes_no_processor_time_negative() -> None:
    """A server's process that ends in a round had its time before: it neither lowers nor raises that of the round."""
    before = remote_work.ProcessorTime({1: 1.0, 2: 0.5004}, ended=0.0)
    after = remote_work.ProcessorTime({1: 1.25, 3: 0.125}, ended=0.49)
    assert after.since(before) == 0.375
    assert remote_work.ProcessorTime({1: 1.25}, ended=0.75).since(before) == pytest.approx(0.25 + 0.2496)


def test_a_server_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An engine whose server is not installed ends nothing, and the user reads how to get it."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["remote", "redis", "--quick"]) == 0
    assert "redis-server is not installed" in capsys.readouterr().out


def test_a_worker_that_does_not_come_up_says_why() -> None:
    """The reason of a client that cannot take part is the last thing its process said."""
    with pytest.raises(measure.Fails, match="ended with status 1: LookupError: nobody on redis"):
        fleet.Worker("redis", "nobody", None, servers.Server("redis://127.0.0.1:1"), "asyncio")


@pytest.mark.parametrize(
    ("does", "first", "then"),
    [
        ("sys.exit('no more')", "its process ended with status 1: no more", "its process ended with status 1: no more"),
        ('os.close(0); print(\'{"error": "WrongResult: 2 of 3"}\', flush=True)', "WrongResult: 2 of 3", "status 0"),
    ],
    ids=["dies", "loses messages"],
)
def test_a_worker_that_dies_or_loses_messages_fails_alone(
    does: str, first: str, then: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies in a round, or a wrong count, is a failure with a reason; so is all it is told later."""
    program = f"import os, sys\nprint('{{\"versions\": {{}}}}', flush=True)\ninput()\n{does}"
    monkeypatch.setattr(fleet, "python_of", lambda project, env: [sys.executable, "-c", program])
    worker = fleet.Worker("sqlite", "planted", None, servers.Server("sqlite:///nowhere"), "asyncio")
    try:
        for why in first, then, then:
            with pytest.raises(measure.Fails, match=why):
                worker.do("consume", "jobs", count=3)
    finally:
        worker.close()


def test_what_is_wanted_of_remote_queues_is_measured() -> None:
    """Every goal refers to an engine there is, and to one of its references."""
    for (engine, _), goals in remote_cases.WANTED.items():
        assert set(goals) <= set(remote_cases.REFERENCES[engine])
    assert {engine for engine, _ in remote_cases.LIMITS} <= set(remote_cases.REFERENCES)
    with pytest.raises(SystemExit, match="2"):
        main(["remote", "kafka"])
