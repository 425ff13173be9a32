"""The command line, tried as a user does: in processes of its own, with signals, pipes and terminals."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import Child, Ended, run_child, run_on_terminal
from support import BUSY

import asyncpc
from asyncpc.cli.main import main

pytestmark = pytest.mark.realtime

APP = r"""
import asyncio, contextlib, logging, sys, time
from asyncpc import Pipeline, Restart, consumer, feed, merge, producer, source

all_given = False

@producer
async def numbers():
    global all_given
    all_given = False
    for n in range(10):
        yield n
    all_given = True

async def all_numbers():
    while not all_given:
        await asyncio.sleep(0)

@producer(restart=Restart(times=3, within=60))
async def idle():
    for n in range(5):
        yield n
    print("ready", flush=True)
    await asyncio.Event().wait()

@producer
async def ready():
    yield 0
    print("ready", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("draining", flush=True)

@contextlib.asynccontextmanager
async def session():
    yield "session"

@consumer(concurrency=4)
async def work(n):
    return n

@consumer(concurrency=3, maxsize=100, context=session)
async def save(n, session):
    return n

@consumer
async def twice(n):
    yield n
    yield n

@consumer
async def bad(n):
    if n == "canary-5":
        raise ValueError("boom at redis://me:hunter2@host/0\x1b[2J\nsecond line")
    return n

@consumer
async def grouped(n):
    async with asyncio.TaskGroup() as group:
        group.create_task(bad.__wrapped__("canary-5"))

@consumer
async def hangs(n):
    await asyncio.Event().wait()

@consumer
async def swallows(n):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

@consumer
async def blocks(n):
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        time.sleep(60)  # user code that blocks the loop, in a child that the third signal ends long before

class Mute(Exception):
    def __str__(self):
        raise RuntimeError

@consumer
async def mute(n):
    raise Mute

@consumer
async def leaves(n):
    await all_numbers()
    sys.exit(7)

@consumer(on_error="skip")
async def logs(n):
    logging.getLogger("app").info("item %s of ftp://me:hunter2@host\x1b[2J", n)
    logging.getLogger("app").debug("seen")
    if n == 4:
        raise ValueError("ftp://me:hunter2@host")

@consumer
async def ends(n):
    await all_numbers()
    sys.exit()

@consumer
async def complains(n):
    await all_numbers()
    sys.exit("no disk at redis://me:hunter2@host/0")

@producer
async def leaves_at_last():
    yield 1
    await asyncio.sleep(0.01)
    sys.exit()

@consumer
async def interrupts(n):
    raise KeyboardInterrupt

@consumer
async def tell_loop(n):
    print(type(asyncio.get_running_loop()).__module__.split(".")[0])

@consumer
async def slow(n):
    await asyncio.sleep(0.01)

@consumer
async def grows(n):
    if n < 30:
        feed(n + 1)
    await asyncio.sleep(0.02)

@consumer
async def prints(n):
    await asyncio.sleep(0.25 if n == 500 else 0)
    print(f"line {n}")

done = numbers >> work >> save
failing = source([f"canary-{n}" for n in range(10)], "strings") >> bad
muted = numbers >> mute
nested = numbers >> grouped
waiting = idle >> work >> save
stalled = ready >> twice >> hangs
stuck = ready >> swallows
blocked = ready >> blocks
leaving = numbers >> leaves
logging_ = numbers >> logs
ending = numbers >> ends
complaining = numbers >> complains
left_at_last = leaves_at_last >> work
interrupted = numbers >> interrupts
loop = source([1]) >> tell_loop
counted = Pipeline(range(40), slow)
uncounted = Pipeline((n for n in range(40)), slow, maxsize=1)
fed = Pipeline([0], grows)
printing = Pipeline(range(1000), prints)
headless = Pipeline(work)
odd = source([1], 'a"[b]') >> work
merged = merge(numbers, idle, source([1, 2], "some")) >> twice >> save
class Inner:
    pipeline = done

    @property
    def broken(self):
        raise OSError("no settings at redis://me:hunter2@host/0")

inner = Inner()
"""

STOPS = (signal.SIGINT, signal.SIGTERM)

either = pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.thorough)])
"""A signal that comes after a stop, whichever it is."""

both_loops = pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.thorough)])
"""``test_runner`` compares the two loops; here each is a whole process."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's directory with ``app.py`` in it."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def called(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """``main`` called in the user's directory, for what needs no process of its own: its status, stdout and stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "app", raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        return main(arguments), *capsys.readouterr()

    yield call
    sys.modules.pop("app", None)


@pytest.fixture
def in_folder(called: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """The same, for what ends well: its stdout."""

    def call(*arguments: str) -> str:
        status, out, _ = called(*arguments)
        assert status == 0
        return out

    return call


def asyncpc_run(folder: Path, name: str, *options: str) -> Child:
    return Child(folder, "-m", "asyncpc", "run", f"app:{name}", *options)


# -- running --------------------------------------------------------------------------------------


@both_loops
def test_a_run_that_is_done_exits_0_and_prints_nothing_but_its_report(folder: Path, loop: str) -> None:
    """Scripts read stdout: when piped, the report is all there is, and stderr is silent."""
    ended = asyncpc_run(folder, "done", "--loop", loop).end()
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].split()[:3] == ["stage", "received", "done"]
    assert ended.row("save")[:2] == ["10", "10"]
    assert re.fullmatch(r"10 produced, 10 done in \d+\.\d{3} s", lines[-1])
    assert len(lines) == 7  # head, rule, a source, two stages, that the results were not read, the sum


def test_a_failed_run_exits_1_with_its_report_and_a_line_per_error(folder: Path) -> None:
    """What failed, on which item, where, and how much is left is seen at once; no password is shown (faults F7, F8)."""
    ended = asyncpc_run(folder, "failing").end()
    assert ended.status == 1
    assert ended.row("bad")[2] == "1"
    head, error, left = ended.err.splitlines()
    assert "failed" in head
    assert error.startswith(r"  ValueError: boom at redis://me:***@host/0\x1b[2J second line (app.py:")
    assert "item 'canary-5', in bad-1 of pipeline" in error
    assert left == "left unfinished: 4 items (bad 4)"
    assert [text.count("canary") for text in (ended.err, ended.out)] == [1, 1]  # the error, and the last failure


def test_traceback_shows_the_whole_group_without_the_password(folder: Path) -> None:
    """The frames are one flag away, and as safe to look at as the line was."""
    ended = asyncpc_run(folder, "failing", "--traceback").end()
    assert ended.status == 1
    assert "asyncpc.run.report.PipelineError" in ended.err
    assert 'raise ValueError("boom at redis' in ended.err
    assert "hunter2" not in ended.err
    assert "\x1b" not in ended.err


def test_errors_in_nested_groups_are_told_one_by_one(folder: Path) -> None:
    """A task group in a handler must not hide its error behind "1 sub-exception"."""
    ended = asyncpc_run(folder, "nested").end()
    assert ended.status == 1
    assert "  ValueError: boom" in ended.err
    assert "sub-exception" not in ended.err


def test_an_error_that_cannot_be_shown_is_told_all_the_same(folder: Path) -> None:
    """An exception whose ``__str__`` raises must not take the report and the other errors with it."""
    ended = asyncpc_run(folder, "muted").end()
    assert ended.status == 1
    assert "  Mute: (its message cannot be shown) (app.py:" in ended.err


@pytest.mark.parametrize(
    ("name", "call", "status"),
    [
        ("leaving", "sys.exit(7)", 7),
        ("ending", "sys.exit()", 1),
        ("complaining", "sys.exit('no disk at redis://me:***@host/0')", 1),
    ],
)
def test_system_exit_of_a_handler_ends_the_run_and_never_with_0(
    called: Callable[..., tuple[int, str, str]], name: str, call: str, status: int
) -> None:
    """A program may choose its own exit status (fault B13), but not say that all is done while items are left."""
    ended, out, err = called("run", f"app:{name}")
    assert ended == status
    assert "10 produced, 0 done" in out
    assert err.splitlines() == [
        f"asyncpc: the program called {call}, which ended the run",
        f"left unfinished: 9 items ({out.splitlines()[3].split()[0]} 9)",
    ]


def test_a_profile_that_the_program_ends_did_not_end_well(called: Callable[..., tuple[int, str, str]]) -> None:
    """What was not measured must not look as if it had been."""
    status, _, err = called("profile", "app:ending", "--seconds", "1")
    assert (status, err) == (1, "asyncpc: the program called sys.exit(), which ended the run\n")


def test_a_program_that_ends_when_all_is_done_keeps_its_status(called: Callable[..., tuple[int, str, str]]) -> None:
    """A source may end the program: what was left is what counts."""
    assert called("run", "app:left_at_last")[0] == 0


def test_keyboard_interrupt_of_a_handler_exits_130(folder: Path) -> None:
    """It is what the shell expects of an interrupted program (fault B13)."""
    ended = asyncpc_run(folder, "interrupted").end()
    assert (ended.status, ended.err) == (130, "asyncpc: interrupted\n")


@both_loops
def test_loop_chooses_the_loop(folder: Path, loop: str) -> None:
    """An option that does nothing is worse than none."""
    assert asyncpc_run(folder, "loop", "--loop", loop).end().out.splitlines()[0] == loop


# -- what is told ---------------------------------------------------------------------------------


def as_json(out: str) -> dict[str, Any]:
    """The one line of JSON that was printed."""
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out)
    return found


def test_json_is_one_object_on_stdout(called: Callable[..., tuple[int, str, str]]) -> None:
    """Scripts get each figure by its name, on the last line of stdout, whatever the program has printed before."""
    status, out, err = called("run", "app:done", "--json")
    told = as_json(out)
    assert (status, err) == (0, "")
    assert told.pop("statistics")["stages"][1]["done"] == 10
    assert told == {
        "state": "closed",
        "exit_status": 0,
        "signal": None,
        "failures": [],
        "unfinished": {},
        "abandoned": [],
        "errors": [],
    }


def test_json_tells_what_failed_and_what_was_left(called: Callable[..., tuple[int, str, str]]) -> None:
    """A failed run is told in full too, and on stderr as ever; no password is in either (fault F7)."""
    status, out, err = called("run", "app:failing", "--json")
    told = as_json(out)
    assert (status, told["exit_status"], told["state"]) == (1, 1, "failed")
    assert told["failures"] == [
        {
            "stage": "bad",
            "item": "canary-5",
            "error": "ValueError: boom at redis://me:***@host/0\x1b[2J\nsecond line",
            "attempts": 1,
            "history": [],
        }
    ]
    assert told["unfinished"] == {"bad": 4}
    [error] = told["errors"]
    assert error.startswith("ValueError: boom at redis://me:***@host/0")
    assert "left unfinished: 4 items (bad 4)" in err
    assert "hunter2" not in out + err
    assert "\x1b" not in out + err


def test_json_tells_that_the_program_ended_the_run(called: Callable[..., tuple[int, str, str]]) -> None:
    """The status is the one of the command, and the reason is there too."""
    status, out, _ = called("run", "app:leaving", "--json")
    told = as_json(out)
    assert (status, told["exit_status"], told["unfinished"]) == (7, 7, {"leaves": 9})
    assert told["errors"] == ["the program called sys.exit(7), which ended the run"]


def test_json_tells_the_signal(folder: Path) -> None:
    """Whoever started it sees that it was stopped, and that nothing was left."""
    child = asyncpc_run(folder, "waiting", "--json")
    child.line_with("ready")
    child.send(signal.SIGTERM)
    ended = child.end()
    told = json.loads(ended.out.splitlines()[-1])
    assert (ended.status, told["exit_status"], told["signal"], told["state"]) == (143, 143, 15, "closed")


def test_quiet_shows_errors_only(folder: Path, called: Callable[..., tuple[int, str, str]]) -> None:
    """A job of cron that has nothing to say sends no mail; one that failed says why."""
    assert called("run", "app:done", "--quiet") == (0, "", "")
    status, out, err = called("run", "app:failing", "--quiet")
    assert (status, out) == (1, "")
    assert "ValueError: boom" in err
    assert as_json(called("run", "app:done", "--quiet", "--json")[1])["state"] == "closed"
    ended = run_on_terminal(folder, "-m", "asyncpc", "run", "app:counted", "--quiet")
    assert (ended.status, ended.out) == (0, "")


def test_the_log_is_shown_when_asked_for(called: Callable[..., tuple[int, str, str]]) -> None:
    """A line says when, how bad, who and what; without passwords and control characters, whoever logs (F7, F9)."""
    status, out, err = called("run", "app:logging_", "--log-level", "INFO")
    assert (status, out[:5]) == (1, "stage")
    lines = err.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO app|WARNING asyncpc): ", one) for one in lines)
    assert len(lines) == 11
    assert lines[0].endswith(r" INFO app: item 0 of ftp://me:***@host\x1b[2J")
    assert " WARNING asyncpc: stage 'logs': 1 failed, the last on 4: ValueError: ftp://me:***@host" in err
    assert "DEBUG app: seen" in called("run", "app:logging_", "--log-level", "debug")[2]
    assert called("run", "app:logging_", "--log-level", "error")[2] == ""
    assert called("run", "app:logging_")[2] == ""


# -- signals --------------------------------------------------------------------------------------


@both_loops
@pytest.mark.parametrize("number", STOPS)
def test_a_signal_while_the_source_is_idle_drains_and_exits_within_a_second(
    folder: Path, loop: str, number: signal.Signals
) -> None:
    """A source that waits for its next item must still hear "stop"; plain programs ignore SIGTERM then."""
    child = asyncpc_run(folder, "waiting", "--loop", loop)
    child.line_with("ready")
    child.send(number)
    ended = child.end()
    assert (ended.status, ended.err) == (128 + number, "")
    assert ended.row("save")[:2] == ["5", "5"]  # received and done
    assert ended.cpu < 1.0
    assert ended.seconds < BUSY


@both_loops
@either
def test_the_second_signal_cancels_now_and_tells_what_is_left(folder: Path, loop: str, number: signal.Signals) -> None:
    """Whoever signals twice does not want to wait 30 s for the drain, but wants to know what it cost."""
    child = asyncpc_run(folder, "stalled", "--loop", loop)
    child.line_with("ready")
    child.send(signal.SIGTERM)
    child.line_with("draining")
    child.send(number)
    ended = child.end()
    assert ended.status == 1
    assert ended.seconds < BUSY
    assert "left unfinished: 2 items (hangs 2)" in ended.err
    assert ended.row("hangs")[:3] == ["2", "0", "2"]


@both_loops
@either
def test_the_third_signal_has_its_default_action(folder: Path, loop: str, number: signal.Signals) -> None:
    """Whatever a handler does, the process can be ended by hand: it dies of the signal itself."""
    child = asyncpc_run(folder, "blocked", "--loop", loop)
    child.line_with("ready")
    child.send(signal.SIGTERM)
    child.line_with("draining")
    child.send(signal.SIGINT)
    child.line_with("cancelled")
    child.send(number)
    ended = child.end()
    assert ended.status == -number
    assert ended.seconds < BUSY


@both_loops
def test_a_handler_that_swallows_every_cancel_is_abandoned_by_name(folder: Path, loop: str) -> None:
    """No handler keeps the process alive beyond its deadline, or makes Python complain at exit (faults B4, B9)."""
    child = asyncpc_run(folder, "stuck", "--loop", loop, "--drain-timeout", "0.1")
    child.line_with("ready")
    child.send(signal.SIGTERM)
    ended = child.end()
    assert ended.status == 1
    assert ended.seconds < BUSY
    assert "abandoned: swallows-1" in ended.out
    assert "swallows-1 left behind" in ended.err
    assert "destroyed" not in ended.err
    assert "GeneratorExit" not in ended.err
    assert "never" not in ended.err


@both_loops
@pytest.mark.parametrize("timeout", ["0.2", pytest.param("0", marks=pytest.mark.thorough)])
def test_an_incomplete_drain_exits_1_and_tells_what_is_left(folder: Path, loop: str, timeout: str) -> None:
    """An orchestrator must not take a drain that was cut short for a success; ``--drain-timeout`` sets its length."""
    child = asyncpc_run(folder, "stalled", "--loop", loop, "--drain-timeout", timeout)
    child.line_with("ready")
    child.send(signal.SIGTERM)
    ended = child.end()
    assert ended.status == 1
    assert float(timeout) <= ended.seconds < float(timeout) + BUSY
    assert "could not finish" in ended.err
    assert "DrainTimeout: stopped before it was done; items left: 2 in hangs" in ended.err
    assert "left unfinished: 2 items (hangs 2)" in ended.err


# -- what cannot begin ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("app", "which pipeline of 'app'? 'app' has: app:done, app:failing"),
        ("app.done", "no module 'app.done' in "),
        ("app.done", "write app:done"),
        ("app.other", "or on sys.path\n"),
        ("json", "'json' has no Pipeline: make one with pipeline = source >> consumer"),
        ("app:dnoe", "no 'dnoe' in 'app:dnoe'; 'app' has: app:done"),
        ("app:work", "'app:work' is a Consumer, not a Pipeline; 'app' has: app:done"),
        ("app:Inner.other", "no 'other'"),
        ("apq:done", "no module 'apq' in "),
        ("app.py:done", "'app.py' is a file; write the module's name: app:done"),
        ("./app.py:done", "'./app.py' is a file; write the module's name: app:done"),
        ("deep/er/app.py", "write the module's name: deep.er.app\n"),
        ("/no/such/app.py:done", "write the module's name: app:done"),
        ("./app:done", "is not module:pipeline"),
        (
            "app:inner.broken",
            "'app:inner.broken' cannot be read: OSError: no settings at redis://me:***@host/0 (app.py:",
        ),
        ("", "is not module:pipeline"),
        ("json:JSONEncoder", "'json:JSONEncoder' is a type, not a Pipeline; 'json' has no Pipeline: make one with"),
        ("app:headless", "has no source"),
        ("a\x1b[2J:b", r"a\x1b[2J:b"),
    ],
)
def test_a_wrong_target_exits_2_and_says_what_to_write(
    called: Callable[..., tuple[int, str, str]], target: str, told: str
) -> None:
    """A mistake costs a look at one line, not a search; and nothing typed can play with the terminal (fault F9)."""
    status, out, err = called("run", target)
    assert (status, out) == (2, "")
    assert told in err.replace("\\\\", "\\")
    assert len(err.splitlines()) == 1


def test_the_only_pipeline_of_a_module_need_not_be_named(
    folder: Path, called: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most modules have one; its parts and its other names are no others. In doubt nothing is run."""
    (folder / "single.py").write_text("from app import done, headless\npipeline = again = done\n")
    (folder / "part.py").write_text("from app import headless\n")
    (folder / "parts.py").write_text("from app import headless\nfrom app import work\nother = work >> work\n")
    (folder / "maker.py").write_text(
        "from asyncpc import Pipeline\ndef make() -> Pipeline[int, int]: ...\ndef no(): ...\n"
    )
    for name in ("single", "part", "parts", "maker"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert called("run", "single")[0] == 0
    assert called("show", "part")[1].startswith("put() ")
    assert (
        called("show", "parts")[2] == "asyncpc: which pipeline of 'parts'? 'parts' has: parts:headless, parts:other\n"
    )


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("import asyncpc\n1 / 0", "ZeroDivisionError: division by zero (broken.py:2)"),
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library' (broken.py:1)"),
        ("def f(:", "SyntaxError: "),
        ("import sys\nsys.exit()", "it called sys.exit(); put that below: if __name__ == '__main__':"),
        ("import asyncpc\n@asyncpc.consumer\ndef f(): ...", "DefinitionError: consumer 'f' must take item"),
    ],
)
def test_a_module_that_cannot_be_imported_exits_2_and_says_why(
    folder: Path, called: Callable[..., tuple[int, str, str]], program: str, told: str
) -> None:
    """The error of the user's module, with its line, is what has to be mended; ``--traceback`` shows the rest."""
    (folder / "broken.py").write_text(program)
    status, out, err = called("run", "broken:pipeline")
    assert (status, out) == (2, "")
    assert err.startswith("asyncpc: 'broken' cannot be imported: ")
    assert told in err
    assert "Traceback" not in err
    assert "Traceback" in called("run", "broken:pipeline", "--traceback")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["walk", "app:done"],
        ["run"],
        ["run", "app:done", "--loop", "trio"],
        ["run", "app:done", "--log-level", "loud"],
        ["run", "app:done", "--drain-timeout", "-1"],
        ["run", "app:done", "--drain-timeout", "nan"],
        ["run", "app:done", "--drain-timeout", "soon"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The exit status tells a mistake on the command line from a failed run."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert "usage: asyncpc" in capsys.readouterr().err


def test_a_dotted_attribute_names_a_pipeline(folder: Path) -> None:
    """Pipelines may live in classes and namespaces."""
    assert run_child(folder, "-m", "asyncpc", "run", "app:Inner.pipeline").status == 0


def test_the_current_directory_comes_first(folder: Path) -> None:
    """The installed script finds what lies where the user stands, even if a library has the same name."""
    (folder / "colorsys.py").write_text(APP)
    script = Path(sys.executable).with_name("asyncpc")
    assert script.exists(), "asyncpc is not installed as a script: uv sync"
    ended = subprocess.run([script, "run", "colorsys:done"], cwd=folder, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1].startswith("10 produced")


# -- on a terminal --------------------------------------------------------------------------------


def frames(ended: Ended) -> list[str]:
    """The progress lines that were drawn, without colours and cursor movements."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "\n", ended.out)
    return [line for line in text.splitlines() if "/s · " in line]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run whose sources know their total, on a terminal."""
    pytest.importorskip("rich")
    folder = tmp_path_factory.mktemp("counted")
    (folder / "app.py").write_text(APP)
    return run_on_terminal(folder, "-m", "asyncpc", "run", "app:counted")


def test_a_terminal_shows_progress_and_then_the_report(counted: Ended) -> None:
    """A person sees that it moves, how fast, and which queue is full; no more than four redraws a second."""
    ended = counted
    drawn = frames(ended)
    assert ended.status == 0
    assert drawn
    assert all(re.search(r"\d+ % · \d+/40 · \d+/s · 0:00 · 0:0\d left · slow queue \d+/128", line) for line in drawn)
    assert len(drawn) <= ended.seconds * 4 + 1
    assert "40 produced, 40 done in" in ended.out


def test_the_progress_line_is_gone_at_the_end_and_the_cursor_there(counted: Ended) -> None:
    """The terminal is left as it was found: after the line was erased, the report is all that stands there."""
    ended = counted
    erased = ended.out.rindex("\x1b[2K")
    assert "/s · " not in ended.out[erased:]
    assert ended.out[erased:].startswith("\x1b[2Kstage")
    assert "\x1b[?25l" not in ended.out  # a third signal would leave no time to show it again


def test_a_bar_is_drawn_only_where_the_total_is_known(folder: Path, counted: Ended) -> None:
    """A bar promises an end: it needs sources that know theirs, or that have ended."""
    assert "━" in counted.out
    drawn = frames(run_on_terminal(folder, "-m", "asyncpc", "run", "app:uncounted"))
    assert drawn
    assert not any("━" in line or "%" in line or "left" in line for line in drawn)


def test_a_run_that_feeds_itself_has_no_total(folder: Path) -> None:
    """With ``feed`` nobody knows the end: the line goes on, and never shows more done than there is."""
    pytest.importorskip("rich")
    ended = run_on_terminal(folder, "-m", "asyncpc", "run", "app:fed")
    assert ended.status == 0
    assert frames(ended)
    assert "1 produced, 30 fed, 31 done" in ended.out


def test_what_the_program_prints_is_kept_whole_and_costs_few_redraws(folder: Path) -> None:
    """The progress line gives way: a thousand lines come out whole and in order, without a redraw for each.

    Four times a second it is drawn as it is then, and at most ten times as it was before, so that it does not flicker.
    """
    pytest.importorskip("rich")
    ended = run_on_terminal(folder, "-m", "asyncpc", "run", "app:printing")
    assert ended.status == 0
    left = re.sub(r"[^\n]*\r\x1b\[2K", "", ended.out)  # of what was erased
    assert "".join(f"line {n}\n" for n in range(1000)) in left
    assert len(frames(ended)) <= ended.seconds * (4 + 10) + 1


def test_a_terminal_without_rich_gets_a_plain_bar(folder: Path) -> None:
    """The extra is optional: without it there is the same line, in plain characters, and it is gone at the end."""
    program = (
        "import sys; sys.modules['rich'] = None\n"
        "from asyncpc.cli.main import main\n"
        "sys.exit(main(['run', 'app:counted']))"
    )
    ended = run_on_terminal(folder, "-c", program)
    assert ended.status == 0
    assert "\x1b" not in ended.out
    assert re.search(r"\[#+-+\] \d+ % · \d+/40 · \d+/s · 0:00 · 0:0\d left · slow queue \d+/128 *\r", ended.out)
    assert re.search(r"\r +\rstage ", ended.out)
    assert "40 produced, 40 done in" in ended.out


def test_control_characters_in_names_are_refused(folder: Path) -> None:
    """A name may come from anywhere; it must not move the cursor or clear the screen (fault F9)."""
    (folder / "evil.py").write_text("import asyncpc\npipeline = asyncpc.source([1], 'a\\x1b[2Jb')\n")
    for command in ("run", "show"):
        ended = run_child(folder, "-m", "asyncpc", command, "evil:pipeline")
        assert (ended.status, ended.out) == (2, "")
        assert r"name='a\x1b[2Jb' must be printable" in ended.err
        assert "\x1b" not in ended.err


def test_a_reader_that_has_gone_is_no_traceback(folder: Path) -> None:
    """``asyncpc show … | head -0`` ends quietly."""
    program = (
        "import os, sys; from asyncpc.cli.main import main\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "sys.exit(main(['show', 'app:done']))"
    )
    ended = run_child(folder, "-c", program)
    assert (ended.status, ended.err) == (1, "")


def test_the_file_of_a_module_is_named_as_from_here(folder: Path, called: Callable[..., tuple[int, str, str]]) -> None:
    """A shell completes paths; the advice has to be a name that can be imported."""
    assert "write the module's name: app:done" in called("show", f"{folder}/app.py:done")[2]


CLOSED = """
import os, sys
for number in map(int, sys.argv[1]):
    os.close(number)
os.execv(sys.executable, [sys.executable, "-m", "asyncpc", *sys.argv[2:]])
"""


@pytest.mark.parametrize(
    ("closed", "command", "target", "status"),
    [
        ("1", "run", "app:done", 0),
        ("1", "show", "app:done", 0),
        pytest.param("1", "run", "app:failing", 1, marks=pytest.mark.thorough),
        pytest.param("0", "run", "app:done", 0, marks=pytest.mark.thorough),
        ("012", "run", "app:failing", 1),
    ],
)
def test_without_a_stdout_the_status_is_that_of_the_run(
    folder: Path, closed: str, command: str, target: str, status: int
) -> None:
    """``>&-`` says that nobody wants the report; a run that is done is done, and one that failed has failed."""
    ended = run_child(folder, "-c", CLOSED, closed, command, target)
    assert ended.status == status
    assert "Traceback" not in ended.err
    assert (ended.err == "") == (status == 0 or "2" in closed)
    assert (ended.out == "") == ("1" in closed)


def test_a_full_disk_is_told_on_one_line(folder: Path) -> None:
    """A report that is not there must not pass for one."""
    program = "import os, sys; from asyncpc.cli.main import main; os.dup2(os.open('/dev/full', os.O_WRONLY), 1)\n"
    program += "sys.exit(main(sys.argv[1:]))"
    for command in ("run", "show"):
        ended = run_child(folder, "-c", program, command, "app:done")
        assert (ended.status, ended.err) == (1, "asyncpc: cannot write to stdout: No space left on device\n")


# -- show -----------------------------------------------------------------------------------------


def test_show_draws_the_topology(in_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources, queues with their bounds and stages with their concurrency are seen at a glance."""
    monkeypatch.setenv("COLUMNS", "100")
    assert in_folder("show", "app:done") == (
        "numbers ─► [128] ─► work ×4 ─► [100] ─► save ×3\n\nsave: session is opened once per worker\n"
    )
    assert in_folder("show", "app:headless") == "put() ─► [128] ─► work ×4\n"
    assert in_folder("show", "app:merged").splitlines() == [
        "numbers ─┐",
        "idle ────┤",
        "some ────┴─► [128] ─► twice ×1 ─► [100] ─► save ×3",
        "",
        "idle: started again when it raises, at most 3 times in 60 s",
        "some: 2 items",
        "twice: emits any number of values per item",
        "save: session is opened once per worker",
    ]


def test_show_draws_downwards_on_a_narrow_terminal(
    in_folder: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrapped line would tear the picture apart."""
    picture = "numbers ─► [128] ─► work ×4 ─► [100] ─► save ×3"
    monkeypatch.setenv("COLUMNS", str(len(picture)))
    assert in_folder("show", "app:done").splitlines()[0] == picture
    monkeypatch.setenv("COLUMNS", str(len(picture) - 1))
    assert in_folder("show", "app:done").splitlines()[:5] == [
        "numbers",
        "  ▼ [128]",
        "work ×4",
        "  ▼ [100]",
        "save ×3",
    ]
    assert in_folder("show", "app:merged").splitlines()[:8] == [
        "┌ numbers",
        "├ idle",
        "├ some",
        "└─┐",
        "  ▼ [128]",
        "twice ×1",
        "  ▼ [100]",
        "save ×3",
    ]


def test_show_mermaid_is_a_flowchart_with_quoted_labels(in_folder: Callable[..., str]) -> None:
    """It can be pasted into a README, whatever the names are made of."""
    assert in_folder("show", "app:merged", "--mermaid").splitlines() == [
        "flowchart LR",
        '    source0(["numbers"]) --> queue0',
        '    source1(["idle"]) --> queue0',
        '    source2(["some"]) --> queue0',
        '    queue0[("128")] --> stage0["twice ×1"]',
        "    stage0 --> queue1",
        '    queue1[("100")] --> stage1["save ×3"]',
    ]
    assert '(["a#34;#91;b#93;"])' in in_folder("show", "app:odd", "--mermaid")


def test_show_runs_nothing(folder: Path) -> None:
    """Looking at a pipeline must not start it."""
    ended = run_child(folder, "-m", "asyncpc", "show", "app:leaving")
    assert (ended.status, ended.out) == (0, "numbers ─► [128] ─► leaves ×1\n")


def test_show_draws_in_ascii_where_lines_cannot_be_printed(folder: Path) -> None:
    """An old terminal gets a plainer picture, not a traceback."""
    ended = run_child(folder, "-m", "asyncpc", "show", "app:merged", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert (ended.status, ended.err) == (0, "")
    assert "some ----+-> [128] -> twice x1 -> [100] -> save x3" in ended.out.splitlines()


# -- the command itself ---------------------------------------------------------------------------


def test_version_is_the_package_s(tmp_path: Path) -> None:
    """Bug reports name the version that ran."""
    ended = run_child(tmp_path, "-m", "asyncpc", "--version")
    assert (ended.status, ended.out) == (0, f"asyncpc {asyncpc.__version__}\n")


def test_a_checkout_that_is_not_installed_runs(folder: Path) -> None:
    """``python -m asyncpc`` in a clone needs no metadata, which only an installation has."""
    for arguments in (["--version"], ["show", "app:done"]):
        ended = run_child(folder, "-S", "-m", "asyncpc", *arguments, PYTHONPATH=str(Path(asyncpc.__file__).parents[1]))
        assert (ended.status, ended.err) == (0, "")


def test_what_is_typed_is_shown_without_passwords(capsys: pytest.CaptureFixture[str]) -> None:
    """A password in the wrong place of a command must not end in a log (fault F7)."""
    for arguments in (
        ["run", "app:done", "redis://me:hunter2@host"],
        ["run", "a:b", "--loop", "http://me:hunter2@host"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        told = capsys.readouterr().err
        assert "://me:***@host" in told
        assert "hunter2" not in told


def test_a_piped_run_imports_no_rich(folder: Path) -> None:
    """What is used on terminals only costs nothing elsewhere."""
    program = (
        "import sys; from asyncpc.cli.main import main\nmain(['run', 'app:done'])\nsys.exit('rich' in sys.modules)"
    )
    assert run_child(folder, "-c", program).status == 0


def test_main_leaves_its_caller_in_peace(in_folder: Callable[..., str]) -> None:
    """``main`` may be called by another program: its streams and signal handlers are as before."""

    def state() -> tuple[object, ...]:
        log = logging.getLogger()
        signals = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        return sys.stdout, sys.stderr, signals, list(log.handlers), log.level

    before = state()
    started = time.monotonic()
    assert "10 produced, 10 done" in in_folder("run", "app:done", "--log-level", "debug")
    assert time.monotonic() - started < BUSY
    assert before == state()
