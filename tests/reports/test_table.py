"""How numbers become text."""

import math
from datetime import datetime
from types import SimpleNamespace

import pytest

from reports import table

NAN = math.nan


def estimate(value: float | None, low: float | None = NAN, high: float | None = NAN) -> SimpleNamespace:
    return SimpleNamespace(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("value", "places", "sign", "text"),
    [
        (1234.5, 1, False, "1,234.5"),
        (-6.84, 1, False, "−6.8"),
        (3.4, 1, True, "+3.4"),
        (-0.04, 1, True, "0.0"),
        (0.0, 1, True, "0.0"),
        (0.04, 1, False, "0.0"),
        (math.inf, 1, False, "∞"),
        (-math.inf, 1, False, "−∞"),
    ],
)
def test_a_number_with_fixed_decimals(value: float, places: int, sign: bool, text: str) -> None:
    assert table.fixed(value, places, sign) == text


def test_a_share_has_its_interval_and_no_more_decimals_than_it_bears() -> None:
    assert table.score_interval(estimate(0.642, 0.61, 0.674)) == "64.2% [61.0, 67.4]"
    assert table.score_interval(estimate(0.642, 0.5, 0.78)) == "64% [50, 78]"
    assert table.score_interval(estimate(0.642, 0.6416, 0.6424)) == "64.20% [64.16, 64.24]"
    assert table.score_interval(estimate(1.0, 1.0, 1.0)) == "100.0% [100.0, 100.0]"


def test_ends_where_nothing_can_be_are_cut() -> None:
    assert table.score_interval(estimate(0.955, 0.901, 1.008)) == "95.5% [90.1, 100.0]"
    assert table.points_interval(estimate(0.955, 0.901, 1.008)) == "+95.5 [+90.1, +100.0]"
    assert table.amount(estimate(-0.955, -1.008, -0.901)) == "95.5 [90.1, 100.0]"
    assert table.ratio_interval(estimate(1.04, 0.97, 1.1)) == "104.0% [97.0, 110.0]"


def test_a_change_has_a_true_minus_sign_and_a_plus() -> None:
    assert table.points_interval(estimate(-0.068, -0.091, -0.045)) == "−6.8 [−9.1, −4.5]"
    assert table.points_interval(estimate(0.012, -0.001, 0.025)) == "+1.2 [−0.1, +2.5]"


def test_the_size_of_a_change_turns_its_interval_around() -> None:
    assert table.amount(estimate(-0.068, -0.091, -0.045)) == "6.8 [4.5, 9.1]"
    assert table.amount(estimate(0.068, 0.045, 0.091)) == "6.8 [4.5, 9.1]"
    assert table.amount(estimate(-0.01, -0.03, 0.01)) == "1.0 [−1.0, 3.0]"


@pytest.mark.parametrize("write", [table.score_interval, table.points_interval, table.amount])
def test_what_is_not_known_is_said_in_words(write) -> None:
    assert write(estimate(NAN)) == write(estimate(None, None, None)) == "not estimable"
    assert write(estimate(0.5)).endswith("(no interval)")


def test_unknown_plain_numbers_are_said_too() -> None:
    for text in (table.percent(None), table.points(NAN), table.p_value(NAN), table.count(None), table.decimal(None)):
        assert text == "not measured"
    assert table.half_width(estimate(0.1)) == "no interval"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "< 0.001"), (0.0004, "< 0.001"), (0.0123, "0.012"), (0.0949, "0.095"), (0.096, "0.10"), (1.0, "> 0.99")],
)
def test_p_values(p: float, text: str) -> None:
    assert table.p_value(p) == text


def test_parts_of_a_count() -> None:
    assert table.part(641, 1008) == "641 (64%)"
    assert table.part(1, 1008) == "1 (0.1%)"
    assert table.part(1007, 1008) == "1,007 (99.9%)"
    assert table.part(0, 1008) == "0 (0%)"
    assert table.part(0, 0) == "0"
    assert table.counted(1, "row") == "1 row"
    assert table.counted(1319, "row") == "1,319 rows"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123, "0.00123"), (12345.0, "12,345"), (0.5, "0.500"), (-2.0, "−2.00"), (0.0, "0"), (1.5e-7, "1.50e−7")],
)
def test_numbers_of_no_unit_have_three_digits(value: float, text: str) -> None:
    assert table.decimal(value) == text


def test_an_interval_of_no_unit_has_as_many_decimals_as_it_bears() -> None:
    assert table.decimal_interval(0.5512, 0.5104, 0.5901) == "0.55 [0.51, 0.59]"
    assert table.decimal_interval(0.9123, 0.9, 0.925) == "0.912 [0.900, 0.925]"
    assert table.decimal_interval(12.3, 2.1, 25.0) == "12 [2, 25]"
    assert table.decimal_interval(1.0, 1.0, 1.0) == "1.00"
    assert table.decimal_interval(NAN, None, None) == "not estimable"


def test_parameters_and_times() -> None:
    start = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  the store's times are UTC without a zone
    assert [table.plain_number(v) for v in (0.0003, 1e-6, True, None, 5, "x")] == [
        "0.0003",
        "1e-6",
        "true",
        "none",
        "5",
        "x",
    ]
    assert [table.duration(seconds) for seconds in (42, 720, 12240)] == ["42 s", "12 min", "3.4 h"]
    assert [table.edge(value) for value in (3.0, 0.975, -0.05)] == ["3", "0.975", "−0.05"]
    assert table.moment(None) == "not finished"
    assert table.moment(start) == "2026-01-02 03:04 UTC"
    assert table.margin_points(0.05) == "5"
