"""The benchmark suite: that it can fail, that it checks results, and that its files say what they should.

Nothing here judges a time. The suite runs with what is installed; none of the peers is needed.
"""

from __future__ import annotations

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent.parent))
cases, measure, peers, report, tables, work = (
    import_module(f"benchmarks.{name}") for name in ("cases", "measure", "peers", "report", "tables", "work")
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

    monkeypatch.setattr(cases, "CROWDS", [(2, 8)])
    monkeypatch.setattr(cases, "THREAD_QUEUES", (peers.Peer("janus", run),))
    assert main(["crowd", *QUICK, "--require", "1"]) == status
    assert ("too slow: crowd 2 × bound 8" in capsys.readouterr().out) == bool(status)


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
    assert report.compare(measured, measured) == ([], [])
    exact = {"median": 2.0, "quartiles": [2.0, 2.0]}
    wide = {"median": 1.5, "quartiles": [1.0, 2.5]}
    near = {"median": 1.95, "quartiles": [1.95, 1.95]}
    low = {"median": 1.85, "quartiles": [1.8, 1.9]}
    assert [bool(report.compare(run(exact), run(new))[0]) for new in (wide, near, low)] == [False, False, True]


def run(ratio: dict[str, Any]) -> dict[str, Any]:
    return {"cases": {"throughput": {"": {"asyncpc": {"ratios": {"hand-written": ratio}}}}}}


def test_what_cannot_be_compared_is_said(measured: dict[str, Any]) -> None:
    """Files from another loop or machine, or with no case in common, are compared with a doubt that is told."""
    assert report.compare(measured | {"loop": "other"}, measured)[1] == ["loop: other then, asyncio now"]
    assert "nothing in common" in report.compare(measured | {"cases": {}}, measured)[1][0]


# -- what it tells ---------------------------------------------------------------------------------


def test_the_json_says_where_and_what(measured: dict[str, Any]) -> None:
    """A figure can be judged years later: machine, Python, loop, versions, commit, date, and every spread."""
    assert set(measured) == {
        *("machine", "python", "loop", "versions", "missing", "failed", "commit", "date", "quick", "cases"),
    }
    assert set(measured["machine"]) == {"platform", "processor", "cpus"}
    assert measured["versions"]["asyncpc"]
    ours = measured["cases"]["throughput"][""]["asyncpc"]
    assert set(ours) == {"unit", "rounds", "value", "ratios"}
    assert (ours["unit"], ours["rounds"]) == ("s", 2)
    assert set(ours["ratios"]) == {"hand-written", "bare loop"}
    low, high = ours["value"]["quartiles"]
    assert 0 < low <= ours["value"]["median"] <= high
    assert set(measured["cases"]["latency"]) >= {f"{load} % load p99" for load in (20, 50, 80)}


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


def test_without_rich_and_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The suite runs on a bare installation: plain tables, and for the plot the line that installs what it needs."""
    for module in ("rich", "rich.console", "rich.table", "matplotlib"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["startup", *QUICK]) == 0
    assert "hand-written" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["startup", *QUICK, "--plot", "plot.svg"])
    assert "uv run --project benchmarks" in capsys.readouterr().err


def test_the_readme_is_written_from_the_files(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's figures are never typed: they come from JSON files, and writing them twice changes nothing."""
    readme, file = tmp_path / "README.md", tmp_path / "run.json"
    readme.write_text(tables.README.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(tables, "README", readme)
    file.write_text(json.dumps(measured))
    tables.main([str(file), str(file)])
    written = readme.read_text(encoding="utf-8")
    tables.main([str(file), str(file)])
    assert readme.read_text(encoding="utf-8") == written
    assert written.count("| **asyncpc** |") == 1
    assert "| latency 50 % load p99 | hand-written |" in written
    assert "## Adding a case or a peer" in written


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """--list names every case without measuring; a misspelt case and a gate that judges nothing are refused."""
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(cases.CASES)
    for wrong in (["troughput"], ["startup", "--require", "1.2"]):
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
    file, page = tmp_path / "run.json", page_in(tmp_path)
    written = ["--json", str(file), "--markdown", str(page)]
    assert main(["remote", "sqlite", "--quick", "--rounds", "1", *written, "--require", "0.0001"]) == 0
    lines = json.loads(file.read_text())["cases"]["sqlite"]
    assert {"64 B publish", "64 B consume", "64 B consume client CPU", "end to end", "20 % load p99"} <= set(lines)
    assert lines["64 B consume"]["asyncpc"]["ratios"]["raw batched"]["median"] > 0
    assert lines["processes client CPU"]["asyncpc"]["ratios"]["1 process"]["median"] > 0
    assert "≥ 0.75 × raw batched" in capsys.readouterr().out
    assert "| **asyncpc** |" in page.read_text(encoding="utf-8")


def page_in(folder: Path) -> Path:
    """A page with the two marks."""
    page = folder / "page.md"
    page.write_text(
        f"before\n\n{remote_page.BEGIN}\nfigures of yesterday\n{remote_page.END}\n\nafter\n", encoding="utf-8"
    )
    return page


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

    page = page_in(tmp_path)
    samples = {"asyncpc": lambda: {"consume": 2e-6}, "raw batched": fails_later}
    remote_lines(monkeypatch, measure.Line("64 B", samples), measure.Line("end to end", {"asyncpc": lambda: 3e-6}))
    assert main(["remote", "sqlite", "--rounds", "3", "--markdown", str(page)]) == 1
    told = capsys.readouterr().out
    assert "failed: ConnectionError: it went away" in told
    assert "failed: raw batched, sqlite 64 B (ConnectionError: it went away)" in told
    written = page.read_text(encoding="utf-8")
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


def test_the_page_is_written_between_its_marks_only(tmp_path: Path) -> None:
    """The figures of the page are never typed: writing them again changes nothing, nor anything around them."""
    document = {
        "machine": {"processor": "one", "cpus": 2},
        "date": "2026-01-02T03:04:05",
        "python": "CPython 3.13.0",
        "loop": "asyncio",
        "versions": {"Redis": "7"},
        "missing": {},
        "failed": [],
        "cases": {},
    }
    page = page_in(tmp_path)
    remote_page.write_into(page, document)
    written = page.read_text(encoding="utf-8")
    remote_page.write_into(page, document)
    assert page.read_text(encoding="utf-8") == written
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "yesterday" not in written
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):  # before it measures for minutes
        main(["remote", "--markdown", str(page)])


@pytest.mark.parametrize(("numbers", "of"), [([0, 1], 0), ([0, 1, 1], 0), ([0, 1, 3], 0), ([0, 1, 4], 4)])
def test_a_remote_round_that_loses_or_doubles_a_message_fails(numbers: list[int], of: int) -> None:
    """A fast client that loses messages, or handles one twice, does not pass for a fast one."""
    round_of_three = remote_work.Round(3, 64, remote_work.Meter(None), of=of)
    asyncio.run(round_of_three.handle_all(numbers))
    with pytest.raises(remote_work.WrongResult):
        round_of_three.check()


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
