"""The page in a real browser, of real runs: Chromium, driven by Playwright."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import pytest
from support import endless, named

from asyncpc import Pipeline, PipelineError, Running, route
from asyncpc.cli.web import PageTerms, page_served
from asyncpc.web.app import Page
from asyncpc.web.dashboard import page_of

try:
    from playwright.sync_api import Browser, Dialog, expect, sync_playwright
    from playwright.sync_api import Page as Tab
except ImportError:
    if os.environ.get("ASYNCPC_REQUIRE_SERVERS"):
        raise
    pytest.skip("playwright is not installed: uv sync --group browser", allow_module_level=True)

CHROMIUM = shutil.which("chromium") or ""

pytestmark = [pytest.mark.thorough, pytest.mark.realtime, pytest.mark.timeout(180)]

MARKUP = "<script>alert('x')</script><img src=x onerror=alert(1)>"

WIDTHS = [390, 1280, 2560]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, where each foreign name leads to this machine, as after DNS rebinding."""
    if not CHROMIUM:
        assert not os.environ.get("ASYNCPC_REQUIRE_SERVERS")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP *.test 127.0.0.1"]
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield made
        made.close()


class Run:
    """A pipeline that runs in a thread, beside the server of its page, as the command has it."""

    def __init__(self, pipeline: Pipeline[Any, Any], port: int = 0) -> None:
        self._pipeline = pipeline
        self._port = port
        self._begun = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._end: asyncio.Event
        self.running: Running[Any, Any]
        self.url = ""
        self.token = ""

    async def _main(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with self._pipeline as self.running:
            self._begun.set()
            await self._end.wait()
            await self.running.drain(timeout=0)

    @contextmanager
    def served(self, **more: Any) -> Iterator[Run]:
        """Run it, and serve its page."""
        options = Namespace(**{"web": self._port, "web_host": "127.0.0.1", "web_payloads": False} | more)
        thread = threading.Thread(target=self._run, args=(options,))
        thread.start()
        assert self._begun.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._end.set)
            thread.join()

    def _run(self, options: Namespace) -> None:
        def page(terms: PageTerms) -> Page:
            return page_of(self._pipeline, token=terms.token, hosts=terms.hosts, payloads=terms.payloads)

        told = io.StringIO()
        with ExitStack() as stack:
            with redirect_stderr(told):
                stack.enter_context(page_served(page, options))
            found = re.search(r"(http://\S+) shows the run; its controls need the token (\S+)", told.getvalue())
            assert found
            self.url, self.token = found[1], found[2]
            with suppress(PipelineError):  # it is cut short
                asyncio.run(self._main())

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def call(self, function: Callable[[], Any]) -> Any:
        """Call it in the loop of the run."""

        async def called() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)


async def work(n: int) -> int:
    await asyncio.sleep(0.001)
    return n


async def work_on(failure: object) -> None:
    """Take a dead letter."""


async def refuse(n: int) -> int:
    if n % 3 == 0:
        raise ValueError(f"{n}: {MARKUP}")
    await asyncio.sleep(0.002)
    return n


def few() -> Pipeline[Any, Any]:
    """Seven stages, with branches and failures."""
    letters = named("dead_letters", work_on)
    first = endless() >> named("fetch", work, concurrency=4) >> named("parse", refuse, on_error=letters)
    branches = {0: named("store", work), 1: named("index", work), 2: named("audit", work)}
    return Pipeline(first >> route(lambda n: n % 3, branches), name="shop")


def many() -> Pipeline[Any, Any]:
    """Fifty."""
    chain: Any = endless
    for n in range(40):
        chain = chain() if chain is endless else chain
        chain = chain >> named(f"a_long_name_of_a_stage_that_goes_on_{n}", work)
    return Pipeline(chain >> route(lambda n: n % 9, {n: named(f"shard_{n}", work) for n in range(9)}), name="fifty")


class Opened:
    """The page in a tab, with its first news; what goes wrong in it is told at the end."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.trouble: list[str] = []

    def __call__(self, run: Run, width: int = 1280, **context: Any) -> Tab:
        tab = self._browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
        tab.on("pageerror", lambda error: self.trouble.append(f"the page raised {error}"))
        tab.on("dialog", self._dialog)
        tab.goto(run.url)
        tab.wait_for_selector("#rows tr")
        return tab

    def _dialog(self, dialog: Dialog) -> None:
        self.trouble.append("markup of a payload was run")
        dialog.dismiss()


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opened]:
    """Opens pages, and closes them after the test."""
    made = Opened(browser)
    yield made
    for context in browser.contexts:
        context.close()
    assert made.trouble == []


def waited(tab: Tab, true: Callable[[], bool], seconds: float) -> bool:
    """Whether it becomes true in time; a page that forbids eval cannot be asked by ``wait_for_function``."""
    for _ in range(int(seconds * 20)):
        if true():
            return True
        tab.wait_for_timeout(50)
    return False


def total(tab: Tab, what: str) -> int:
    return int((tab.locator(f"#total-{what}").text_content() or "").replace(",", ""))


def test_values_are_those_of_the_run(opened: Opened) -> None:
    """Paused, each figure is the one of ``statistics()``; moving, it is no older than one update."""
    with Run(few()).served() as run:
        tab = opened(run)
        before = run.call(run.running.statistics).done
        assert waited(tab, lambda: total(tab, "done") > before, 2)
        assert total(tab, "done") <= run.call(run.running.statistics).done
        run.call(run.running.pause)
        expect(tab.locator("#verdict")).to_have_text("paused: no handler takes an item before resume()")
        tab.wait_for_timeout(1500)  # until nothing is in flight, and one update more
        now = run.call(run.running.statistics)
        assert (total(tab, "done"), total(tab, "failed")) == (now.done, now.failed)
        for stage, row in zip(now.stages, tab.locator("#rows tr").all(), strict=True):
            assert row.locator("button").text_content() == stage.name
            assert row.locator(".queue span").text_content() == f"{stage.queued} / {stage.maxsize}"
            failed = f"{stage.failed} failed" if stage.failed else ""
            assert row.locator(".note .bad").first.text_content() == failed
            row.locator("button").click()
            for word, value in (("received", stage.received), ("done", stage.done), ("in flight", stage.in_flight)):
                figure = tab.locator(f"#figures div:has(dt:text-is('{word}')) dd")
                assert figure.text_content() == f"{value:,}"
            tab.keyboard.press("Escape")


def test_the_token_controls(opened: Opened) -> None:
    """Without it a button says why not, and nothing happens; with it the run pauses, goes on, scales and drains."""
    with Run(few()).served() as run:
        tab = opened(run)
        tab.get_by_role("button", name="Pause").click()
        expect(tab.locator("#outcome")).to_have_text("pause: this is not the token")
        assert not run.call(run.running.bottleneck).startswith("paused")
        tab.get_by_label("Token").fill(run.token)
        tab.get_by_role("button", name="Pause").click()
        expect(tab.locator("#outcome")).to_have_text("pause: done")
        assert run.call(run.running.bottleneck).startswith("paused")
        tab.get_by_role("button", name="Resume").click()
        expect(tab.locator("#outcome")).to_have_text("resume: done")
        tab.locator("#stage").select_option("parse")
        tab.locator("#workers").fill("7")
        tab.get_by_role("button", name="Scale").click()
        expect(tab.locator("#outcome")).to_have_text("scale: done")
        assert run.call(run.running.statistics).stages[1].concurrency == 7
        tab.get_by_role("button", name="Drain and stop").click()
        assert run.call(run.running.statistics).state == "running"
        tab.get_by_role("button", name="Really drain and stop?").click()
        expect(tab.locator("#total-state")).to_have_text("closed", timeout=10_000)


def test_a_slip_does_no_harm(opened: Opened) -> None:
    """Enter in a field does what stands beside it, and a double click on the button that stops all of it does not."""
    with Run(few()).served() as run:
        tab = opened(run)
        expect(tab.locator("#workers")).to_have_value("4")
        tab.get_by_label("Token").fill(run.token)
        tab.get_by_label("Calls").fill("7")
        tab.keyboard.press("Enter")
        expect(tab.locator("#outcome")).to_have_text("rate: done")
        assert run.call(run.running.statistics).stages[0].concurrency == 4
        tab.get_by_role("button", name="Drain and stop").dblclick()
        expect(tab.locator("#drain")).to_have_text("Really drain and stop?")
        tab.wait_for_timeout(700)  # an update
        assert run.call(run.running.statistics).state == "running"


TWO = """() => {
  const real = shown;
  shown = { ...real, pipelines: [real.pipelines[0], { name: "mails", view: null }] };
  const before = chosen().name;
  shown.pipelines[1].view = { alarm: true };
  const after = chosen().name;
  shown = real;
  return [before, after];
}"""

GONE = """() => {
  const one = connection;
  begun = heard = Date.now() - 30000;
  age();
  const first = document.getElementById("said").textContent;
  begun -= 5000, heard -= 5000;
  age();
  return [one.signal.aborted, first, document.getElementById("said").textContent];
}"""


def test_the_page_stays_with_what_was_chosen(opened: Opened) -> None:
    """An alarm elsewhere does not turn the buttons to another pipeline; an address with a strange end opens too."""
    with Run(few()).served() as run:
        tab = opened(run)
        assert tab.evaluate(TWO) == ["shop", "shop"]
        tab.goto(f"{run.url}/#%")
        tab.reload()
        tab.wait_for_selector("#rows tr")


def test_a_connection_that_nobody_ends_is_given_up(opened: Opened) -> None:
    """A laptop that slept hears nothing of the other end; the page asks again. Its age is read out once."""
    with Run(few()).served() as run:
        tab = opened(run)
        words = "no news: the page shows the past"
        assert tab.evaluate(GONE) == [True, words, words]
        before = total(tab, "done")
        assert waited(tab, lambda: total(tab, "done") > before, 5)
        expect(tab.locator("#past")).to_be_hidden()


def test_markup_stays_text(opened: Opened) -> None:
    """In a payload, a name and an error: it is shown as it is, and nothing of it runs."""
    pipeline = Pipeline(endless() >> named(f"parse {MARKUP}", refuse, on_error="skip"), name=f"shop {MARKUP}")
    with Run(pipeline).served(web_payloads=True) as run:
        tab = opened(run)
        expect(tab.locator("#failures tbody")).to_contain_text(MARKUP)
        expect(tab.locator("#name")).to_have_text(f"shop {MARKUP}")
        tab.locator("#rows button").click()
        expect(tab.locator("#dialog-title")).to_have_text(f"parse {MARKUP}")
        assert tab.evaluate("[document.scripts.length, document.images.length]") == [1, 0]


FOREIGN = """<script>
const told = [];
for (const [mode, type] of [["no-cors", "text/plain"], ["cors", "application/json"]])
  told.push(fetch("%s/api/control", {method: "POST", mode, headers: {"content-type": type}, credentials: "include",
    body: '{"pipeline": "shop", "action": "pause"}'}).then((a) => a.type, () => "refused"));
told.push(fetch("%s/api/snapshot").then((a) => a.text(), () => "refused"));
Promise.all(told).then((all) => { document.title = all.join(" "); });
</script>"""


def test_other_sites_reach_nothing(browser: Browser) -> None:
    """A site that the same browser shows can neither read nor pause; nor can a name that was bound to this address."""
    with Run(few()).served() as run:
        text = FOREIGN.replace("%s", run.url)

        class Evil(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the name is the library's
                self.send_response(200)
                self.send_header("content-type", "text/html")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *of: Any) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Evil) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            for host in ("evil.test", "localhost"):
                tab = browser.new_context().new_page()
                tab.goto(f"http://{host}:{server.server_port}/")
                tab.wait_for_load_state()
                expect(tab).to_have_title(re.compile("^(opaque|refused) refused refused$"))
            server.shutdown()
            thread.join()
        for context in browser.contexts:
            context.close()
        assert not run.call(run.running.bottleneck).startswith("paused")
        answer = browser.new_context().new_page().goto(f"http://rebound.test:{run.port}/")
        assert answer is not None
        assert answer.status == 421
        browser.contexts[0].close()


OVERLAPS = """() => {
  const texts = [...document.querySelectorAll("main *, dialog[open] *")].filter((one) =>
    [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) && one.checkVisibility()
    && !one.closest(".unseen, option, select, #past"));
  const found = [], inDialog = document.querySelector("dialog[open]");
  const boxes = texts.filter((one) => !inDialog || inDialog.contains(one)).map((one) => {
    const range = document.createRange();
    range.selectNodeContents(one);
    const { left, right, top, bottom } = range.getBoundingClientRect();
    const end = getComputedStyle(one).overflow === "hidden" ? one.getBoundingClientRect().bottom : bottom;
    return { one, left: left + 1, right: right - 1, top: top + 2, bottom: Math.min(end, bottom) - 2 };
  });
  boxes.forEach((a, place) => boxes.slice(place + 1).forEach((b) => {
    if (a.one.contains(b.one) || b.one.contains(a.one)) return;
    if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
      found.push(`${a.one.textContent} / ${b.one.textContent}`);
  }));
  const wide = document.documentElement.scrollWidth - innerWidth;
  return wide > 0 ? [...found, `${wide} px too wide`] : found;
}"""


@pytest.mark.parametrize("stages", [few, many], ids=["7", "50"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overlaps(opened: Opened, width: int, stages: Callable[[], Pipeline[Any, Any]]) -> None:
    """On a phone, a laptop and a wide screen every text can be read, and nothing has to be scrolled sideways."""
    with Run(stages()).served(web_payloads=True) as run:
        tab = opened(run, width)
        tab.wait_for_timeout(1500)
        assert tab.evaluate(OVERLAPS) == []
        tab.locator("#rows button").first.click()
        tab.wait_for_selector("#workers-of tr")
        assert tab.evaluate(OVERLAPS) == []
        tab.keyboard.press("Escape")
        tab.evaluate("document.getElementById('name').style.marginBottom = '-20px'")
        assert tab.evaluate(OVERLAPS) != []  # it would be seen


def serious(tab: Tab) -> list[str]:
    """What axe-core finds that keeps somebody from using the page."""
    tab.evaluate((files("axe_playwright_python") / "axe.min.js").read_text())
    found: Mapping[str, Any] = tab.evaluate("axe.run(document)")
    return [one["id"] for one in found["violations"] if one["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [390, 1280])
def test_everybody_can_use_it(opened: Opened, scheme: str, width: int) -> None:
    """axe-core finds no serious fault on the page, in the dialog and while it shows the past; planted ones it finds."""
    with Run(few()).served() as run:
        tab = opened(run, width, color_scheme=scheme, reduced_motion="reduce")
        tab.wait_for_timeout(1000)
        assert serious(tab) == []
        tab.locator("#rows button").first.click()
        tab.wait_for_selector("#workers-of tr")
        assert serious(tab) == []
        tab.keyboard.press("Escape")
        tab.evaluate("document.getElementById('token').parentElement.replaceWith(document.getElementById('token'))")
        tab.evaluate("document.getElementById('name').style.color = '#888'")
        tab.evaluate("document.getElementById('name').style.backgroundColor = '#666'")
        assert set(serious(tab)) >= {"label", "color-contrast"}


def test_the_keyboard_reaches_everything(opened: Opened) -> None:
    """Tab goes through stages and controls in their order; Enter opens a stage, Escape closes it and goes back."""
    with Run(few()).served() as run:
        tab = opened(run)
        reached = []
        for _ in range(20):
            tab.keyboard.press("Tab")
            reached.append(tab.evaluate("document.activeElement.textContent || document.activeElement.id"))
        stages = [stage.name for stage in run.call(run.running.statistics).stages]
        assert reached[: len(stages)] == stages
        assert [
            one for one in reached if one in ("token", "Pause", "Resume", "Drain and stop", "Scale", "Set rate")
        ] == [*("token", "Pause", "Resume", "Drain and stop", "Scale", "Set rate")]
        tab.locator("#rows button").nth(1).focus()
        tab.keyboard.press("Enter")
        expect(tab.locator("#dialog")).to_be_visible()
        expect(tab.locator("#dialog-title")).to_have_text("parse")
        tab.keyboard.press("Escape")
        assert tab.evaluate("document.activeElement.textContent") == "parse"


def test_it_says_that_it_shows_the_past_and_comes_back(opened: Opened) -> None:
    """When the server is gone nobody takes old figures for new ones; after a restart the page goes on by itself."""
    with Run(few()).served() as run:
        tab = opened(run)
        port = run.port
        expect(tab.locator("#past")).to_be_hidden()
    last = total(tab, "done")
    expect(tab.locator("#past")).to_have_text(
        re.compile(r"^no news for \d+(\.\d)? s: the page shows the past$"), timeout=10_000
    )
    assert total(tab, "done") == last
    with Run(few(), port).served() as run:
        expect(tab.locator("#past")).to_be_hidden(timeout=10_000)
        expect(tab.locator("#total-state")).to_have_text("running")


def test_from_another_machine_it_asks_for_the_token(browser: Browser) -> None:
    """Behind a proxy, which adds a header, the page says what it needs, and shows the run once it has it."""
    with Run(few()).served() as run:
        tab = browser.new_context(extra_http_headers={"x-forwarded-for": "203.0.113.9"}).new_page()
        tab.goto(run.url)
        expect(tab.locator("#verdict")).to_have_text("from other machines, reading needs the token too")
        tab.get_by_label("Token").fill(run.token)
        tab.get_by_role("button", name="Read with it").click()
        tab.wait_for_selector("#rows tr")
        expect(tab.get_by_role("button", name="Pause")).to_be_visible()
