"""What a reader does with the page, in a real browser: sort, filter, look through items, choose colours, print."""

import asyncio
import base64
import importlib.util
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape, unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reports import html, report
from reports.blocks import Column, Explorer, Heading, Item, ItemSet, Mono, Paragraph, Table
from reports.text import clean

_spec = importlib.util.spec_from_file_location("browser", Path(__file__).with_name("test_browser.py"))
browser = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(browser)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium")]

COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")

HOSTILE = [
    "<script>window.hit = 1</script>",
    "</script><script>window.hit = 1</script><!-- <script>",
    '<img src=x onerror="window.hit = 1"><svg onload="window.hit = 1">',
    '</div></noscript></pre><iframe srcdoc="<script>parent.hit = 1</script>"></iframe>',
    "javascript:window.hit=1",
    "{{constructor.constructor('window.hit = 1')()}} ${window.hit = 1} <%= window.hit = 1 %>",
    '\\u003cscript\\u003ewindow.hit = 1\\u003c/script\\u003e \\" \\n',
    "مرحبا \u202egnp.exe\u202c \u2028 \u2029 \U0001f469\u200d\U0001f52c \x00 \ud800",
    "<base href=//example.com><meta http-equiv=refresh content=0;url=//example.com><form action=//example.com>",
]


class Reader:
    """One page that is open, and what it has said."""

    def __init__(self, tab: Any):
        self.tab = tab

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.tab.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def press(self, key: str) -> None:
        """A key, as from a keyboard: to whatever has the focus."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"ArrowDown": 40, "ArrowUp": 38, "End": 35, "Home": 36, "Enter": 13, "Tab": 9}.get(key, 0)
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            await self.tab.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    @property
    def complaints(self) -> list[Any]:
        return [event for event in self.tab.events if event["method"] in COMPLAINTS]


@asynccontextmanager
async def reading(page: Path, profile: Path, width: int = 1280, scheme: str = "light") -> AsyncIterator[Reader]:
    async with browser.tab(profile) as tab:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.call(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        await tab.call("Emulation.setDeviceMetricsOverride", **size)
        await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.events.clear()
        await tab.call("Page.navigate", url=page.as_uri())
        await tab.wait_for("Page.loadEventFired")
        yield Reader(tab)


@pytest.fixture(scope="module")
def page(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.build(toy.store, toy.spec, tmp_path_factory.mktemp("page"))["html"]


FIRST = "[...document.querySelector('table.sortable tbody').rows].map(r => r.cells[0].textContent)"
GENERAL = "document.querySelectorAll('table.sortable thead button')[2]"


def test_a_table_is_sorted_by_its_numbers_and_by_its_names(page: Path, tmp_path: Path) -> None:
    async def read() -> list[Any]:
        async with reading(page, tmp_path / "profile") as reader:
            seen = [await reader.run(FIRST)]
            for click in (f"{GENERAL}.click()", f"{GENERAL}.click()",
                          "document.querySelector('table.sortable thead button').click()"):  # fmt: skip
                await reader.run(click)
                seen.append(await reader.run(FIRST))
            seen.append(await reader.run(f"{GENERAL}.focus(); document.activeElement.textContent"))
            await reader.press("Enter")
            seen.append(await reader.run(f"{GENERAL}.closest('th').getAttribute('aria-sort')"))
            assert reader.complaints == []
            return seen

    start, up, down, names, focused, said = asyncio.run(read())
    assert start == ["base", "sft_raw", "sft_close", "raft"]
    assert up == ["sft_raw", "sft_close", "raft", "base"] and down == up[::-1]
    assert names == ["base", "raft", "sft_close", "sft_raw"]
    assert focused == "General mean of 3" and said == "ascending"


def test_a_long_table_is_filtered(page: Path, tmp_path: Path) -> None:
    async def read() -> list[Any]:
        async with reading(page, tmp_path / "profile") as reader:
            await reader.run("document.querySelectorAll('details').forEach(d => d.open = true)")
            rows = "[...document.querySelector('input.filter ~ .table tbody').rows]"
            type_ = "(t => { const b = document.querySelector('input.filter'); b.value = t;"
            type_ += " b.dispatchEvent(new Event('input')); })"
            whole = await reader.run(f"{rows}.length")
            await reader.run(f"{type_}('TOY_SUMS')")
            some = await reader.run(f"{rows}.filter(r => r.offsetHeight).map(r => r.cells[0].textContent)")
            await reader.run(f"{type_}('')")
            return [whole, some, await reader.run(f"{rows}.filter(r => r.offsetHeight).length")]

    whole, some, again = asyncio.run(read())
    assert whole == again > len(some) == 4
    assert all(name.startswith("toy_sums") for name in some)


PICK = """((name, value) => { const s = document.querySelector(`.explorer [name=${name}]`); s.value = value;
  s.dispatchEvent(new Event(s.tagName === 'SELECT' ? 'change' : 'input')); })"""
LIST = "[...document.querySelectorAll('.found button')].length"
MARKS = "[...document.querySelectorAll('.item .mark')].map(m => m.textContent).join()"
HEADS = "[...document.querySelectorAll('.item h4')].map(h => h.firstChild.textContent).join()"


def test_items_are_looked_through_by_benchmark_change_text_and_keyboard(
    page: Path, tmp_path: Path, toy: SimpleNamespace
) -> None:
    async def read() -> dict[str, Any]:
        seen: dict[str, Any] = {}
        async with reading(page, tmp_path / "profile") as reader:
            seen["start"] = await reader.run(LIST)
            seen["heads"], seen["marks"] = await reader.run(HEADS), await reader.run(MARKS)
            await reader.run(f"{PICK}('benchmark', '1')")
            seen["facts"] = await reader.run(LIST)
            seen["count"] = await reader.run("document.querySelector('.explorer .count').textContent")
            await reader.run(f"{PICK}('change', 'rescued')")
            seen["rescued"], seen["rescued marks"] = await reader.run(LIST), await reader.run(MARKS)
            await reader.run(f"{PICK}('change', 'gained')")
            seen["gained"] = await reader.run(LIST)
            await reader.run(f"{PICK}('change', 'lost')")
            current = "[...document.querySelectorAll('.found button')].findIndex(b => b.hasAttribute('aria-current'))"
            await reader.run("document.querySelector('.found button').focus()")
            for key in ("ArrowDown", "j", "ArrowDown", "k"):
                await reader.press(key)
            seen["third"] = await reader.run(current)
            seen["focus"] = await reader.run("document.activeElement.hasAttribute('aria-current')")
            await reader.press("End")
            seen["end"] = await reader.run(current)
            await reader.press("/")
            seen["search"] = await reader.run("document.activeElement.name")
            await reader.run(f"{PICK}('search', 'item 12?')")
            seen["found"] = await reader.run(LIST)
            await reader.run(f"{PICK}('search', 'nowhere at all')")
            seen["none"] = await reader.run("document.querySelector('.item').textContent")
            assert reader.complaints == []
        return seen

    seen = asyncio.run(read())
    assert seen["heads"] == "Prompt,Expected,base,sft_raw,raft"  # B is the method that lost least
    assert seen["marks"].startswith("right,wrong")
    # what the store says of the first seeds, capped as the page is
    sql = """SELECT count(*) AS n FROM samples b JOIN samples m USING (benchmark, item) JOIN checkpoints c
             ON m.checkpoint = c.fingerprint WHERE b.checkpoint = ? AND c.name = 'sft_raw' AND c.seed = 0
             AND c.role = 'final' AND benchmark = 'toy_facts' AND m.value < b.value"""
    (row,) = toy.store.query(sql, ["base" * 8])
    assert row["n"] == 48 and seen["facts"] <= 40
    assert f"{seen['facts']} items found among the 40 of " in seen["count"]
    assert 0 < seen["rescued"] <= seen["facts"] and seen["rescued marks"].startswith("right,wrong,right")
    assert seen["gained"] == 0
    assert seen["third"] == 2 and seen["focus"] and seen["end"] == seen["facts"] - 1
    assert seen["search"] == "search" and seen["found"] <= 1 and seen["none"] == "No item fits."
    assert seen["start"] > seen["facts"]


def test_colours_are_chosen_and_paper_is_always_light(page: Path, tmp_path: Path) -> None:
    async def read() -> list[Any]:
        colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.documentElement)"
        colours += ".getPropertyValue('--series-0').trim(), document.getElementById('theme').textContent]"
        shown = "getComputedStyle(document.querySelector('.explorer')).display"
        async with reading(page, tmp_path / "profile") as reader:
            seen = [await reader.run(colours)]
            for _ in range(2):
                await reader.run("document.getElementById('theme').click()")
                seen.append(await reader.run(colours))
            await reader.tab.call("Emulation.setEmulatedMedia", media="print")
            seen.append([*await reader.run(colours), await reader.run(shown)])
            pdf = await reader.tab.call("Page.printToPDF")
            seen.append(base64.b64decode(pdf["data"])[:5])
            await reader.tab.call("Emulation.setEmulatedMedia", media="")
            await reader.tab.call("Page.reload")
            reader.tab.events.clear()
            await reader.tab.wait_for("Page.loadEventFired")
            seen.append((await reader.run(colours))[2])
            assert reader.complaints == []
            return seen

    auto, light, dark, paper, pdf, again = asyncio.run(read())
    assert auto[:2] == light[:2] and [each[2].split()[-1] for each in (auto, light, dark)] == ["auto", "light", "dark"]
    assert dark[0] == "rgb(22, 25, 29)" and dark[1] != light[1]
    assert paper[0] == "rgb(255, 255, 255)" and paper[1] == light[1] and paper[3] == "none"
    assert pdf == b"%PDF-" and again == "Colours: dark"


def test_the_items_open_on_a_method_that_has_some(page: Path, tmp_path: Path) -> None:
    """Where the first lost nothing, the first that did; where none did, on what was gained."""
    whole = page.read_text("utf-8")
    place = re.search(r'(?<=<div class="data" hidden>).*?(?=</div>)', whole, re.DOTALL)
    assert place

    async def opened(name: str, *, gained_only: bool) -> list[Any]:
        data = json.loads(unescape(place[0]))
        for item in (item for each in data["sets"] for item in each["items"]):
            base, _, *others = item["values"]
            item["values"] = [base, base, *(max(base, value) if gained_only else value for value in others)]
        file = tmp_path / f"{name}.html"
        file.write_text(whole[: place.start()] + escape(json.dumps(data)) + whole[place.end() :], "utf-8")
        async with reading(file, tmp_path / name) as reader:
            change = await reader.run("document.querySelector('.explorer [name=change]').value")
            assert reader.complaints == []
            return [await reader.run(HEADS), change, await reader.run(LIST)]

    for name, gained_only in (("lost", False), ("gained", True)):
        heads, change, found = asyncio.run(opened(name, gained_only=gained_only))
        assert (heads, change) == ("Prompt,Expected,base,sft_close,sft_raw", name) and found > 0


@pytest.mark.parametrize("width", [1280, 800, 390])
def test_nothing_is_wider_than_the_window_and_all_can_be_reached_by_keyboard(
    page: Path, tmp_path: Path, width: int
) -> None:
    async def read() -> list[Any]:
        async with reading(page, tmp_path / "profile", width) as reader:
            wider = await reader.run("document.documentElement.scrollWidth - innerWidth")
            explorer = await reader.run(
                "[...document.querySelectorAll('.explorer *')].filter(e => e.offsetWidth && "
                "e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('pre, ol')).map(e => e.tagName)"
            )
            await reader.press("Tab")
            first = await reader.run("document.activeElement.className")
            seen = set()
            for _ in range(30):
                await reader.press("Tab")
                seen.add(await reader.run("document.activeElement.tagName"))
            return [wider, explorer, first, seen]

    wider, explorer, first, seen = asyncio.run(read())
    assert wider <= 0 and explorer == []
    assert first == "skip" and {"A", "BUTTON"} <= seen


def hostile_page(path: Path) -> Path:
    """Every hostile text in every place of an explorer, and in a table and a paragraph."""
    items = [Item(text, text, text, [text, text], [1.0, 0.0]) for text in HOSTILE]
    counts = Table([Column("a"), Column(HOSTILE[0], "right")], [[Mono(text), text] for text in HOSTILE])
    sets = [ItemSet(text, "general", 9, 9, items) for text in HOSTILE[:3]]
    blocks = [Heading(HOSTILE[1]), Paragraph(HOSTILE[2]), Explorer(["base", HOSTILE[1]], sets, counts)]
    path.write_text(html.render(HOSTILE[0], HOSTILE, blocks), "utf-8")
    return path


def test_hostile_text_is_shown_and_stays_text(tmp_path: Path) -> None:
    page = hostile_page(tmp_path / "hostile.html")

    async def read() -> dict[str, Any]:
        async with reading(page, tmp_path / "profile") as reader:
            shown = []
            for number in range(len(HOSTILE)):
                await reader.run(f"document.querySelectorAll('.found button')[{number}].click()")
                shown.append(await reader.run("[...document.querySelectorAll('.item pre')].map(p => p.textContent)"))
            tags = "[...new Set([...document.querySelectorAll('main *')].map(e => e.tagName))]"
            return {
                "shown": shown,
                "hit": await reader.run("typeof window.hit"),
                "scripts": await reader.run("document.scripts.length"),
                "tags": await reader.run(tags),
                "complaints": reader.complaints,
                "asked": [e["params"]["request"]["url"] for e in reader.tab.events
                          if e["method"] == "Network.requestWillBeSent"],
            }  # fmt: skip

    seen = asyncio.run(read())
    for text, columns in zip(HOSTILE, seen["shown"], strict=True):
        assert columns == [clean(text)] * 4
    assert seen["hit"] == "undefined" and seen["scripts"] == 1
    assert not {"IMG", "IFRAME", "SCRIPT", "FORM", "BASE", "META", "OBJECT"} & set(seen["tags"])
    assert seen["complaints"] == [] and seen["asked"] == [page.as_uri()]


def test_the_policy_stops_what_escaping_would_have_missed(tmp_path: Path) -> None:
    """Markup put past the renderer on purpose: the page's own policy lets none of it act."""
    holes = '<script>window.hit = 1</script><img src="x" onerror="window.hit = 1"><iframe src="about:blank"></iframe>'
    page = hostile_page(tmp_path / "holed.html")
    page.write_text(page.read_text("utf-8").replace("</main>", f"{holes}</main>"), "utf-8")

    async def read() -> list[Any]:
        async with reading(page, tmp_path / "profile") as reader:
            await reader.run(
                "document.body.insertAdjacentHTML('beforeend', '<a id=link href=\"javascript:window.hit=1\">x</a>');"
                "document.getElementById('link').click()"
            )
            await asyncio.sleep(0.3)
            refused = [e["params"]["entry"]["text"] for e in reader.tab.events if e["method"] == "Log.entryAdded"]
            return [
                await reader.run("typeof window.hit"),
                await reader.run("document.querySelectorAll('.found button').length"),
                refused,
            ]

    hit, items, refused = asyncio.run(read())
    assert hit == "undefined" and items > 0
    assert json.dumps(refused).count("Content Security Policy") >= 3
