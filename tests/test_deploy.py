"""The files of ``deploy/``: their numbers fit the command line and one another, and what they start does its work.

There is no Docker and no cluster here: the commands in the files are run as they stand, with other paths and ports.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as families_in
from remote.servers import must_have

from asyncpc import RemoteQueue, remote_queue
from asyncpc.cli.main import main
from asyncpc.remote.connection import CLOSES_WITHIN
from examples.order_queue import Order

ROOT: Final = Path(__file__).parent.parent
DEPLOY: Final = ROOT / "deploy"
UNIT: Final = DEPLOY / "orders.service"

PATIENCE: Final = 60.0
"""Seconds after which something that should happen is missed."""

TARGET: Final = "examples.order_queue_worker:pipeline"


# -- what the files say ---------------------------------------------------------------------------


class Line(NamedTuple):
    """An instruction of a Dockerfile."""

    name: str
    words: str


def dockerfile() -> list[Line]:
    """Its instructions."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    return [Line._make(one.split(" ", 1)) for one in lines if one and not one.startswith("#")]


def of_image(name: str) -> str:
    """The words of the only instruction of that name."""
    (words,) = [line.words for line in dockerfile() if line.name == name]
    return words


def manifests() -> dict[str, Any]:
    """What the manifest makes, by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def pod() -> Any:
    """What the Deployment makes."""
    return manifests()["Deployment"]["spec"]["template"]["spec"]


def container() -> Any:
    """The only one of the pod."""
    (only,) = pod()["containers"]
    return only


def unit() -> dict[str, list[str]]:
    """The settings of the unit, by name."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            settings.setdefault(name, []).append(value)
    return settings


def of_unit(name: str) -> str:
    """The only value of a setting."""
    (value,) = unit()[name]
    return value


COMMANDS: Final[dict[str, Callable[[], list[str]]]] = {
    "Dockerfile": lambda: list(json.loads(of_image("CMD"))),
    "kubernetes.yaml": lambda: list(container()["args"]),
    "orders.service": lambda: shlex.split(of_unit("ExecStart")),
}
"""How each starts the program."""

each_file = pytest.mark.parametrize("name", COMMANDS)


def option(words: list[str], name: str) -> str:
    """The value of an option of a command."""
    return words[words.index(name) + 1]


def seconds_to_stop(name: str) -> float:
    """What the platform of a file gives the program between SIGTERM and SIGKILL."""
    if name == "Dockerfile":
        told = re.search(r"docker run --stop-timeout (\d+) ", (DEPLOY / name).read_text())
        assert told is not None
        return float(told[1])
    return float(pod()["terminationGracePeriodSeconds"] if name == "kubernetes.yaml" else of_unit("TimeoutStopSec"))


# -- they fit -------------------------------------------------------------------------------------


@each_file
def test_a_drain_ends_before_the_platform_kills(name: str) -> None:
    """Protects what a worker has begun: SIGKILL comes later than the longest drain and the end of the connections."""
    drain = float(option(COMMANDS[name](), "--drain-timeout"))
    assert seconds_to_stop(name) > drain + CLOSES_WITHIN + 2


@each_file
def test_a_command_is_one_of_ours(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Protects a first start: every option is known, and the program is the one in ``examples/``."""
    words = COMMANDS[name]()
    assert words[0].rpartition("/")[2] == "asyncpc"
    assert words[1:3] == ["run", TARGET]
    with pytest.raises(SystemExit) as ended:
        main([*words[1:], "--help"])
    assert ended.value.code == 0
    with pytest.raises(SystemExit):
        main([*words[1:], "--no-such-option"])
    assert "unrecognized arguments: --no-such-option" in capsys.readouterr().err


def test_the_image_runs_without_a_shell_and_without_root() -> None:
    """Protects the signal, which a shell would not pass on, and the host from what is inside."""
    assert of_image("STOPSIGNAL") == "SIGTERM"
    assert [line.name for line in dockerfile()].count("ENTRYPOINT") == 0
    assert of_image("FROM").endswith("-slim")
    assert of_image("USER") == "10001:10001"
    assert [line.name for line in dockerfile()][-1] == "CMD"
    context = pod()["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == of_image("USER")
    assert context["runAsNonRoot"] is True
    assert container()["securityContext"]["readOnlyRootFilesystem"] is True


def test_what_the_image_copies_is_sent_to_the_builder() -> None:
    """Protects the build: what ``.dockerignore`` leaves out cannot be copied."""
    copied = [word for line in dockerfile() if line.name == "COPY" for word in line.words.split()[:-1]]
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert sorted(copied) == sorted(line[1:] for line in lines if line.startswith("!"))
    assert all((ROOT / one).exists() for one in copied)


def test_all_agree_on_the_port() -> None:
    """Protects probes and scrapes: they ask where the command listens, and from outside of the pod."""
    (port,) = container()["ports"]
    address = f"0.0.0.0:{port['containerPort']}"
    assert {option(COMMANDS[name](), "--metrics") for name in ("Dockerfile", "kubernetes.yaml")} == {address}
    assert of_image("EXPOSE") == str(port["containerPort"])
    assert {container()[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} == {port["name"]}
    template = manifests()["Deployment"]["spec"]["template"]["metadata"]
    assert template["annotations"]["prometheus.io/port"] == str(port["containerPort"])


def test_a_busy_loop_is_no_reason_to_kill_at_once() -> None:
    """Protects a worker whose handler blocks for some seconds: it is given up after a minute."""
    probe = container()["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 60
    assert probe["timeoutSeconds"] <= probe["periodSeconds"]


def test_the_selectors_find_what_they_select() -> None:
    """Protects against a Deployment without pods, and a scaler without a Deployment."""
    deployment, scaled = manifests()["Deployment"], manifests()["ScaledObject"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert scaled["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # or each apply would undo what the scaler chose
    assert scaled["spec"]["minReplicaCount"] >= 1  # the workers tell the metric that it looks at


def test_only_the_command_gets_the_signal() -> None:
    """Protects a drain of several processes: the command leads it, and a second signal would cancel."""
    assert of_unit("KillSignal") == of_image("STOPSIGNAL")
    assert of_unit("KillMode") == "mixed"
    assert of_unit("SuccessExitStatus") == "143"
    assert "--processes" in COMMANDS["orders.service"]()  # which SIGHUP replaces
    assert of_unit("ExecReload") == "/bin/kill -HUP $MAINPID"


# -- they work ------------------------------------------------------------------------------------


class Started:
    """A program that was started as one of the files says, with its queue in a file of the test."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'orders.db'}?queue=orders"
        self._said = folder / "said"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(words, cwd=folder, env={"ORDERS_URL": self.url}, stdout=said, stderr=said)

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def said(self) -> str:
        """What it has said by now."""
        return self._said.read_text()

    def until(self, is_so: Callable[[], object]) -> None:
        """Wait for something while it lives."""
        ends = time.monotonic() + PATIENCE
        while not is_so():
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < ends, self.said()
            time.sleep(0.02)

    def address(self) -> str:
        """Where its pages are."""
        pattern = re.compile(r"asyncpc: (http://\S+)/metrics")
        self.until(lambda: pattern.search(self.said()))
        found = pattern.search(self.said())
        assert found is not None
        return found[1].replace("0.0.0.0", "127.0.0.1")

    def stop(self) -> int:
        """Stop it as the platform does, and wait for its end; how it ended."""
        self._process.terminate()
        return self._process.wait(PATIENCE)


async def put(queue: RemoteQueue[Order], orders: int) -> None:
    """So many orders."""
    async with queue.open() as opened:
        await opened.put_many([Order(number) for number in range(orders)])


def samples(address: str) -> dict[str, float]:
    """What a scrape tells of the source and of its queue, as Prometheus would find it."""
    found = {}
    for family in families_in(httpx.get(f"{address}/metrics").text):
        for one in family.samples:
            if "source" in one.labels:
                found[f'{one.name}{{source="{one.labels["source"]}"}}'] = one.value
    return found


def is_well(url: str) -> bool:
    """Whether a probe would be content."""
    return httpx.get(url).status_code == 200


def does_its_work(words: list[str], folder: Path) -> None:
    """Start it, ask the probes, let it handle orders, look at what the scaler looks at, and stop it."""
    with Started(words, folder) as program:
        address = program.address()
        for probe in "livenessProbe", "readinessProbe":
            program.until(partial(is_well, f"{address}{container()[probe]['httpGet']['path']}"))
        asyncio.run(put(remote_queue(program.url, Order), 20))
        acknowledged = 'asyncpc_messages_acknowledged_total{source="orders"}'
        program.until(lambda: samples(address).get(acknowledged) == 20)
        (trigger,) = manifests()["ScaledObject"]["spec"]["triggers"]
        (series,) = re.findall(r"max\((.*)\)", trigger["metadata"]["query"])
        program.until(lambda: series in samples(address))
        assert samples(address)[series] < float(trigger["metadata"]["activationThreshold"])
        assert str(program.stop()) == of_unit("SuccessExitStatus"), program.said()


def at_any_port(words: list[str]) -> list[str]:
    """A command whose pages are at a free port."""
    where = option(words, "--metrics")
    return [re.sub(r"\d+$", "0", word) if word == where else word for word in words]


@pytest.mark.processes
@pytest.mark.realtime
@pytest.mark.parametrize("name", [pytest.param("Dockerfile", marks=pytest.mark.thorough), "orders.service"])
def test_what_is_started_does_its_work(name: str, tmp_path: Path) -> None:
    """Protects the first deployment: orders are handled, probes answered, and SIGTERM ends it as the files expect."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    words = at_any_port(COMMANDS[name]())
    does_its_work([sys.executable, "-m", "asyncpc", *words[1:]], tmp_path)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_what_the_image_installs_is_enough(tmp_path: Path) -> None:
    """Protects the build: in an empty environment, with nothing but what is copied and installed, the command works."""
    folder, environment = tmp_path / "app", tmp_path / "venv"
    folder.mkdir()
    venv.create(environment, with_pip=True)
    for line in dockerfile():
        if line.name == "COPY":
            *sources, _ = line.words.split()
            for one in sources:
                copy = shutil.copytree if (ROOT / one).is_dir() else shutil.copy
                copy(ROOT / one, folder / one)
        elif line.words.startswith("pip "):
            subprocess.run([environment / "bin/python", "-m", *shlex.split(line.words)], cwd=folder, check=True)
    words = at_any_port(COMMANDS["Dockerfile"]())
    does_its_work([str(environment / "bin" / words[0]), *words[1:]], folder)


@pytest.mark.thorough
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Protects against a setting that systemd ignores with a warning, and says that little is left open."""
    program = shutil.which("systemd-analyze")
    must_have(program, "systemd-analyze", "apt-get install systemd")
    assert program is not None
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace(COMMANDS[UNIT.name]()[0], sys.executable))  # it looks for the program
    for words in ["verify", "--man=no"], ["security", "--offline=yes", "--threshold=20"]:
        judged = subprocess.run([program, *words, copy], capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout + judged.stderr
        assert copy.name not in judged.stderr, judged.stderr
