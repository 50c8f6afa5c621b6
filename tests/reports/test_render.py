"""Both renderers: structure stays, and no text from a row ever becomes markup."""

from typing import Any

import pytest
from markdown_it import MarkdownIt

from reports import html, markdown, svg
from reports.blocks import (
    Block,
    Bullets,
    Chart,
    Code,
    Column,
    Details,
    Figure,
    Heading,
    Mono,
    Paragraph,
    Side,
    Strong,
    Table,
)
from reports.text import clean, shorten, slug

ATTACKS = [
    "<script>alert(1)</script>",
    "</style></pre></code><img src=x onerror=alert(1)>",
    "\"><svg onload='alert(1)'>",
    "[click](javascript:alert(1)) ![x](http://example.com/x.png) <http://example.com> https://a.example www.a.example",
    "[1, 2](http://example.com) [a]: http://example.com",
    "`code` ```\nfence\n``` ~~~ | cell | **bold** _it_ ~~no~~ @someone #1 $x$",
    "1. list\n2. list\n# heading\n- item\n> quote\n---\n===",
    "&lt;script&gt; &amp; &#60;b&#62;",
    "مرحبا בעולם \u202egnp.exe\u202c",
    "w" * 3000,
    "\U0001f469\u200d\U0001f52c \x00 \x1b[31m \ufffe \ud800",
    "``` `` ` ````",
]


def everywhere(text: str) -> list[Block]:
    """The text in every place where a block takes one."""
    table = Table([Column(text), Column("n", "right")], [[text, "1"], [Mono(text), Strong(text)]], text, text)
    return [
        Heading(text),
        Heading(text, 3),
        Paragraph([text, Strong(text), Mono(text)]),
        Paragraph(text, "warning"),
        Paragraph(text, "note"),
        Bullets([text, [Mono(text)]]),
        table,
        Figure(text, text, None, table, text),
        Code(text),
        Side([(text, text, text), ("b", text, "")]),
        Details(text, [Code(text), Paragraph(text)]),
    ]


@pytest.mark.parametrize("text", ATTACKS)
def test_html_shows_hostile_text_and_is_not_changed_by_it(text: str, read_page: Any) -> None:
    page = read_page(html.render(text, [text], everywhere(text)))
    plain = read_page(html.render("plain", ["plain"], everywhere("plain")))
    assert page.tags == plain.tags
    page.check_harmless()
    shown = "".join(page.text)
    assert clean(text).split()[0] in shown


@pytest.mark.parametrize("text", ATTACKS)
def test_markdown_shows_hostile_text_and_is_not_changed_by_it(text: str, read_page: Any) -> None:
    """Read by a Markdown parser with raw HTML and linked addresses on, as the least careful reader would."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    page = read_page(reader.render(markdown.render(text, [text], everywhere(text))).replace("<br />", ""))
    plain = read_page(reader.render(markdown.render("plain", ["plain"], everywhere("plain"))))
    assert page.tags <= plain.tags  # emphasis that touches punctuation may be lost, but nothing is added
    page.check_harmless()


def test_markdown_leaves_plain_text_plain() -> None:
    assert markdown.escape("64.2% [61.0, 67.4], −6.8 of sft_raw") == "64.2% [61.0, 67.4], −6.8 of sft_raw"
    assert markdown.escape("_it_ a*b [x](y)") == "\\_it\\_ a\\*b \\[x\\](y)"
    assert markdown.escape("1. one") == "1\\. one"
    assert markdown.code_span("a`b|c") == "``a`b\\|c``"
    assert markdown.fence("x\n````", "yaml") == "`````yaml\nx\n````\n`````"


def test_a_page_names_its_sections_once_each(read_page: Any) -> None:
    blocks = [Heading("Same"), Paragraph("a"), Heading("Same"), Heading("مرحبا"), Heading("Same", 3)]
    page = read_page(html.render("t", [], blocks))
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert set(ids) == {"content", "theme", "same", "same-2", "section", "same-3"}
    assert len(ids) == len(set(ids))
    links = [value for tag, key, value in page.attributes if key == "href"]
    assert {link for link in links if link} <= {f"#{i}" for i in ids}
    assert page.tags["section"] == 3


def test_text_fit_to_show() -> None:
    assert clean("a\r\nb\x00\u202e") == "a\nb\ufffd\u241b"
    assert shorten("abcdef", 4) == ("abcd", 2)
    family = "\U0001f469\u200d\U0001f52c"
    assert shorten("ab" + family, 4) == ("ab", 3)
    assert slug("Lost / gained!") == "lost-gained"


# ---- charts


def draw(label: str) -> Any:
    def drawing(figure: Any, width: int) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=svg.SERIES[1], marker="D", label=label[:60])
        axes.bar([0], [1], color=svg.KIND_COLOR["fell_back"], hatch="//")
        axes.set_title(label[:60])
        axes.legend()

    return drawing


def two_charts(label: str) -> list[Block]:
    data = Table([Column("a")], [["1"]])
    charts = [svg.chart(name, label, label, draw(label), (200, 200)) for name in ("one", "two")]
    return [Figure(label, label, chart, data) for chart in charts]


@pytest.mark.parametrize("text", ['$\\frac{1}{2}$ </svg><script>x</script> --> "&', "مرحبا \U0001f469 " + "w" * 500])
def test_charts_hold_text_as_text_and_share_no_id(text: str, read_page: Any) -> None:
    pytest.importorskip("matplotlib")
    page = read_page(html.render("t", [], two_charts(clean(text))))
    page.check_harmless()
    assert page.tags["svg"] == 4
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    used = {v.removeprefix("#") for t, k, v in page.attributes if k == "href" and t == "use" and v}
    assert used <= set(ids)
    assert clean(text)[:60] in "".join(page.text)


def test_charts_leave_colour_and_font_to_the_page() -> None:
    pytest.importorskip("matplotlib")
    made = svg.chart("one", "title", "what it shows", draw("label"), (200, 200))
    assert isinstance(made, Chart)
    for text in (made.wide, made.narrow):
        assert "#" not in text.replace("url(#", "").replace('href="#', "")
        assert "font-family" not in text
        assert "<style" not in text and "xmlns" not in text
        assert text.index("<title") < text.index("<desc") < text.index("<g")
        assert "var(--series-1)" in text and "var(--kind-fell-back)" in text
    assert made == svg.chart("one", "title", "what it shows", draw("label"), (200, 200))


def test_every_stand_in_colour_has_its_variable_in_the_style_sheet() -> None:
    from importlib.resources import files

    style = files("reports").joinpath("style.css").read_text("utf-8")
    light, dark = style.split("@media screen and (prefers-color-scheme: dark)")
    for variable in svg.VARIABLES.values():
        assert f"{variable}:" in light and f"{variable}:" in dark.split("}\n}")[0], variable
    assert "@import" not in style and "url(" not in style


def test_without_matplotlib_the_numbers_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svg, "available", lambda: False)
    assert svg.chart("one", "t", "d", draw("x"), (200, 200)) is None
    page = html.render("t", [], [Figure("Gain", "d", None, Table([Column("a")], [["17"]]))])
    assert "<svg" not in page and ">17<" in page and "needs matplotlib" in page


def test_a_caption_stands_outside_the_box_that_scrolls() -> None:
    for count, kind in ((html.WIDE - 1, "table"), (html.WIDE, "table wide")):
        made = html.table(Table([Column(f"c{n}") for n in range(count)], [["x"] * count], "What <this> is"))
        before, box = made.split(f'<div class="{kind}">')
        assert "What &lt;this&gt; is</p>" in before and "<caption" not in box
        assert 'aria-label="What &lt;this&gt; is"' in box
