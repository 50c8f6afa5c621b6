"""The page in a real browser: it asks nothing of the network, nothing complains, every chart stands at every width."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from reports import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0"
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]

LOOK = """JSON.stringify({
  charts: [...document.querySelectorAll('svg.chart')].map(c => c.getBoundingClientRect())
    .map(r => [Math.round(r.width), Math.round(r.height)]),
  wider: document.documentElement.scrollWidth - innerWidth,
  beyond: [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
    && !e.closest('pre, .table, svg')).map(e => e.tagName),
  scripts: document.scripts.length,
  background: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.querySelector('svg.chart text')).fill,
  links: [...document.querySelectorAll('a[href]')].filter(a => !document.getElementById(a.hash.slice(1))).length,
})"""


class Tab:
    """One page, spoken to over the browser's debugging protocol; keeps every event."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self.socket, self.events, self._last = socket, [], 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        await self.socket.send_json({"id": self._last, "method": method, "params": params})
        while (message := await self._receive()).get("id") != self._last:
            pass
        assert "error" not in message, message
        return message["result"]

    async def wait_for(self, event: str) -> None:
        while not any(e["method"] == event for e in self.events):
            await self._receive()

    async def _receive(self) -> dict[str, Any]:
        message = await self.socket.receive_json(timeout=60)
        if "method" in message:
            self.events.append(message)
        return message


@asynccontextmanager
async def tab(profile: Path) -> AsyncIterator[Tab]:
    command = [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
    browser = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        port = None
        while port is None:
            line = await asyncio.wait_for(browser.stderr.readline(), 60)
            assert line, "the browser ended"
            port = re.search(rb"DevTools listening on ws://[^:]+:(\d+)", line)
        address = f"http://127.0.0.1:{int(port[1])}/json"
        async with aiohttp.ClientSession() as session:
            async with session.get(address) as reply:
                page = next(each for each in await reply.json() if each["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        browser.terminate()
        await browser.wait()


async def look(path: Path, profile: Path, width: int, scheme: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    async with tab(profile) as page:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await page.call("Emulation.setEmulatedMedia", features=features)
        page.events.clear()
        await page.call("Page.navigate", url=path.as_uri())
        await page.wait_for("Page.loadEventFired")
        await page.call(
            "Runtime.evaluate", expression="document.querySelectorAll('details').forEach(d => d.open = true)"
        )
        found = await page.call("Runtime.evaluate", expression=LOOK, returnByValue=True)
        return json.loads(found["result"]["value"]), page.events


@pytest.fixture(scope="module")
def page(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.build(toy.store, toy.spec, tmp_path_factory.mktemp("page"))["html"]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_loads_whole_and_asks_for_nothing(page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    seen, events = asyncio.run(look(page, tmp_path / "profile", width, scheme))
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert asked == [page.as_uri()]
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [event for event in events if event["method"] in complaints] == []
    drawn = [size for size in seen["charts"] if size[0] > 250 and size[1] > 100]
    assert len(drawn) * 2 == len(seen["charts"]) >= 20  # of each chart the one for this width
    assert seen["scripts"] == 1 and seen["links"] == 0
    assert seen["wider"] <= 0 and seen["beyond"] == []
    dark = "rgb(22, 25, 29)"
    assert (seen["background"] == dark) == (scheme == "dark") and seen["ink"] != seen["background"]
