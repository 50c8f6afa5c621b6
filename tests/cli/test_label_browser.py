"""The judging page in a real browser: a click and a key are saved, and the page moves on."""

import asyncio
import importlib.util
import threading
from pathlib import Path

import pytest

from refinery.cli.label_server import Server
from refinery.diagnostics._judging import Sheet, items
from refinery.diagnostics._pairs import paired
from refinery.store import Store

_spec = importlib.util.spec_from_file_location("browser", Path(__file__).parents[1] / "reports" / "test_browser.py")
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium")]


async def judge(address: str, profile: Path) -> list[str]:
    said = []

    async def run(page, script: str) -> str:
        found = await page.call("Runtime.evaluate", expression=script, awaitPromise=True)
        await asyncio.sleep(0.7)
        return found["result"].get("value", "")

    async with browser.tab(profile) as page:
        await page.call("Page.enable")
        await page.call("Page.navigate", url=address)
        await page.wait_for("Page.loadEventFired")
        state = "document.getElementById('state').textContent"
        said.append(await run(page, state))
        await run(page, "document.querySelector('[data-choice=a]').click()")
        said.append(await run(page, state))
        await run(page, "dispatchEvent(new KeyboardEvent('keydown', {key: 't'}))")
        said.append(await run(page, state))
    return said


def test_a_click_and_a_key_are_saved(tmp_path):
    store = Store(tmp_path / "s.duckdb")
    pairs = paired([f"raw {i}" for i in range(3)], [f"refined {i}" for i in range(3)])
    sheet = Sheet("step", "", 0, {pair.id: pair for pair in pairs})
    server = Server(store, sheet, items(list(pairs), {}, 0), "me", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        said = asyncio.run(judge(server.address, tmp_path / "profile"))
    finally:
        server.shutdown()
        server.server_close()
    assert said == ["0 of 6 judged", "1 of 6 judged", "2 of 6 judged"]
    rows = store.preferences("step")
    assert len(rows) == 2 and sorted(row["choice"] == "tie" for row in rows) == [False, True]
