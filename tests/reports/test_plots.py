"""Charts of few and of many methods: each can be told from every other."""

import itertools
import re

import pytest

from reports import marks, plots


def rows(count: int) -> tuple[list[plots.Dots], dict[str, int]]:
    spans = [(number, plots.Span(float(number), number - 1.0, number + 1.0)) for number in range(count)]
    series = {f"method_{number}": number for number in range(count)}
    return [plots.Dots("facts", spans, "general"), plots.Dots("sums", spans, "general")], series


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


def test_no_two_methods_look_alike() -> None:
    assert len({(marks.color(n), marks.marker(n)) for n in range(64)}) == 64
    assert len({(marks.color(n), marks.dash(n)) for n in range(64)}) == 64


@pytest.mark.parametrize("count", [3, 8, 9, 20])
def test_methods_stand_in_a_legend_or_in_every_row(count: int) -> None:
    found, series = rows(count)
    chart = plots.dots("d", "t", "d", found, series, 5.0)
    for svg in (chart.wide, chart.narrow):
        said = texts(svg)
        assert {"facts", "sums"} <= set(said) and said.count("general") == 1
        for name in series:
            assert said.count(name) == (1 if count <= 8 else 2), name


@pytest.mark.parametrize("count", [3, 20])
def test_a_benchmarks_name_stands_above_its_dots_and_the_groups_above_that(count: int) -> None:
    found, series = rows(count)
    svg = plots.dots("d", "t", "d", found, series, 5.0).narrow
    places = [(float(y), text) for y, text in re.findall(r' y="([-\d.]+)"[^>]*>([^<>]+)</text>', svg)]
    names = list(series) if count == 20 else []  # of fewer the names are in the legend
    wanted = ["general", "facts", *names, "sums", *names]
    own = sorted((y, text) for y, text in places if text in wanted)
    if not names:
        own = [(y, text) for y, text in own if text not in series]
    assert [text for _, text in own] == wanted
    assert min(b - a for (a, _), (b, _) in itertools.pairwise(own)) >= 11
