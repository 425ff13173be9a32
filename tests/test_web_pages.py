"""The web apps of the documentation, each in a real server, with real requests, and SIGTERM in the midst of them."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from children import PATIENCE, UNMEASURED, Child
from pages import DOCS, differs, programs

pytestmark = pytest.mark.realtime

ROOT: Final = Path(__file__).parent.parent
FRAMEWORKS: Final = DOCS / "how-to" / "web-frameworks.md"
UVICORN: Final = "-m uvicorn app:app --port 0 --no-access-log"
SERVERS: Final = {
    "FastAPI": UVICORN,
    "Starlette": UVICORN,
    "Litestar": UVICORN,
    "aiohttp": "app.py",
    "Flask": "app.py",
}
"""How the page says that each of its apps is run."""


def apps() -> dict[str, str]:
    """The programs of the page, by the heading that they stand under."""
    text = FRAMEWORKS.read_text()
    headings = [re.findall(r"^## (.+)$", text[: text.index(one.text)], re.MULTILINE) for one in programs(FRAMEWORKS)]
    return {found[-1]: one.text for found, one in zip(headings, programs(FRAMEWORKS), strict=True)}


def test_every_app_is_served() -> None:
    """Protects against an app that is added to the page and never started."""
    assert apps().keys() == SERVERS.keys()


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("framework", "count"),
    [("FastAPI", 100), *[pytest.param(name, 10_000, marks=pytest.mark.thorough) for name in SERVERS]],
)
def test_what_was_accepted_is_handled(framework: str, count: int, tmp_path: Path) -> None:
    """Protects orders in a deployment: SIGTERM in the midst of the load, and each 202 is kept, once."""
    (tmp_path / "app.py").write_text(apps()[framework])
    driver = ("tests/load_orders.py", str(count), "--terminate-after", str(count // 2))
    service = ("--folder", str(tmp_path), f"--service={SERVERS[framework]}")
    ended = subprocess.run(
        [sys.executable, *driver, *service],
        cwd=ROOT,
        env=os.environ | UNMEASURED | {"PORT": "0"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert ended.returncode == 0, ended.stderr
    seen: dict[str, Any] = json.loads(ended.stdout)
    assert seen["answers"]["202"] + seen["answers"].get("503", 0) >= count // 2  # before the signal all are answered
    assert seen["waiting_at_signal"] > 0
    assert seen["handled"] == seen["accepted"] + seen["unanswered"]
    assert (seen["lost"], seen["unasked"], seen["twice"], seen["without_retry_after"]) == ([], [], [], 0)


# -- the tutorial -------------------------------------------------------------------------------------


ON_STDOUT: Final = """
import sys, uvicorn
sys.stderr = sys.stdout
uvicorn.run("app:app", port=0, access_log=False)
"""
"""The server's own lines come where they can be read one by one."""


class Shop:
    """An app of the tutorial, served."""

    def __init__(self, folder: Path) -> None:
        environment = UNMEASURED | {"PYTHONUNBUFFERED": "1"}
        self.child = Child(folder, "-c", ON_STDOUT, own_group=False, patience=PATIENCE, **environment)
        address = re.search(r"http://[\w.:]+", self.child.line_with("running on"))
        assert address
        self.address = address[0]

    def order(self, numbers: range) -> None:
        """Order, as curl does on the page."""
        with httpx.Client(base_url=self.address, trust_env=False, timeout=60) as http:
            for number in numbers:
                assert http.post(f"/orders/{number}").status_code == 202

    def stop(self, number: signal.Signals) -> str:
        """Stop it, and return what it wrote, without the server's own lines."""
        self.child.send(number)
        return "".join(line for line in self.child.end().out.splitlines(keepends=True) if not line.startswith("INFO:"))


def step(number: int, folder: Path) -> list[str]:
    """Save the app of a step of the tutorial, and return the outputs that the step shows."""
    section = re.split(r"^## \d\. ", (DOCS / "tutorial.md").read_text(), flags=re.MULTILINE)[number]
    program, *outputs = re.findall(r"^```(?:python title=\"app.py\".*|text)\n((?:.*\n)*?)```$", section, re.MULTILINE)
    (folder / "app.py").write_text(program)
    return outputs


def test_the_tutorials_web_app(tmp_path: Path) -> None:
    """Protects the step from a script to a service: ten orders, Ctrl-C, and the report that the page shows."""
    (promised,) = step(5, tmp_path)
    shop = Shop(tmp_path)
    shop.order(range(1, 11))
    written = shop.stop(signal.SIGINT).replace(f"{tmp_path}/", "")
    assert not (wrong := differs(written, promised)), wrong


@pytest.mark.thorough
def test_the_tutorials_shop_resumes(tmp_path: Path) -> None:
    """Protects its last step: what a stop cuts short is saved, and handled after the next start; nothing is missing."""
    promised = [re.sub(r"\d+", "9", re.sub(r"(recorded .*\n)+", "...\n", output)) for output in step(6, tmp_path)]
    shop = Shop(tmp_path)
    shop.order(range(1, 41))
    shop.child.line_with("recorded")
    first = shop.stop(signal.SIGTERM)
    (saved,) = map(int, re.findall(r"saved (\d+) orders for later", first))
    shop = Shop(tmp_path)
    recorded = 0
    while recorded < saved:
        recorded += int(shop.child.line_with("recorded").split()[1])
    second = shop.stop(signal.SIGTERM)
    assert f"taking back {saved} orders" in second
    for written, shown in zip((first, second), promised, strict=True):
        assert not (wrong := differs(re.sub(r"\d+", "9", written), shown)), wrong
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        assert {number for (number,) in database.execute("SELECT number FROM charged")} == set(range(1, 41))


def test_the_page_of_the_dashboard_is_served(tmp_path: Path) -> None:
    """Protects who mounts it as the page says: it is where the page says, and shows the pipeline of the app."""
    (app,) = programs(DOCS / "how-to" / "dashboard.md")
    (tmp_path / "app.py").write_text(app.text)
    child = Child(tmp_path, "-c", "import uvicorn, app; uvicorn.run(app.app, uds='app.sock')")
    deadline = time.monotonic() + PATIENCE
    while "Uvicorn running" not in child.errors_so_far():
        assert time.monotonic() < deadline, child.errors_so_far()
        time.sleep(0.05)
    transport = httpx.HTTPTransport(uds=str(tmp_path / "app.sock"))
    with httpx.Client(transport=transport, base_url="http://localhost") as http:
        assert http.get("/pipelines/").status_code == 200
        assert http.get("/pipelines/api/snapshot").status_code == 401  # a socket has no address
    child.send(signal.SIGTERM)
    child.end()
