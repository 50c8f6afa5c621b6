"""The headline of `refinery diagnose`: short, what looks bad first, and by bounds that intervals must clear."""

import pytest

from refinery.cli.diagnose import Compared
from refinery.cli.diagnose_headline import LOOKS, headline_pair, show_headline
from refinery.diagnostics import meaning


def row(family, name, value, low=None, high=None, n=50):
    return {"family": family, "name": name, "value": value, "n": n, "low": low, "high": high, "detail": {}}


def shown(capsys, monkeypatch, *rows, fell_back=0, pairs=50, mixed_in=0):
    monkeypatch.setenv("COLUMNS", "80")
    found = Compared("raw", "last", pairs, fell_back, 0, mixed_in, list(rows), ["a note " * 40])
    show_headline(found, [("raw", "first")])
    return capsys.readouterr().out.splitlines()


def test_what_looks_bad_comes_first_and_only_where_the_interval_clears_the_bound(capsys, monkeypatch):
    lines = shown(
        capsys,
        monkeypatch,
        row("quality", "answer_refined", 0.95, 0.92, 0.98),
        row("quality", "numbers_kept", 0.85, 0.70, 0.95),  # spans the bound of 0.9: open
        row("embedding", "cosine_mean", 0.50, 0.45, 0.55),
        row("quality", "false_accepts:close", 0.30, 0.20, 0.40),
        row("quality", "false_accepts:far", 0.00, 0.00, 0.05),
    )
    text = "\n".join(lines)
    first, rest = lines.index("Look at these first"), lines.index("The rest")
    flagged = [line[2:].split("  ")[0] for line in lines[first:rest] if line.startswith("! ")]
    assert flagged == ["of candidates let through, wrong: close", "cosine of raw and refined answer, mean"]
    assert "0.50 [0.45, 0.55]    n 50" in text and "The meaning moved far." in text
    after = "\n".join(lines[rest:])
    assert meaning("quality", "numbers_kept")[1] in after  # how to read it, where it is open
    assert after.index("raw numbers that are kept") < after.index("refined answers that agree")  # open before good
    assert "What is taught is right." in after and "! " not in after


def test_openings_are_measured_against_the_raw_ones(capsys, monkeypatch):
    refined = row("diversity", "openings_refined", 0.5, 0.45, 0.55)
    alike = shown(capsys, monkeypatch, refined, row("diversity", "openings_raw", 0.5, 0.45, 0.55))
    assert "Nothing looks bad here" in alike and not any(line.startswith("!") for line in alike)
    template = shown(capsys, monkeypatch, refined, row("diversity", "openings_raw", 0.1, 0.05, 0.15))
    assert sum(line.startswith("!") for line in template) == 1


def test_rows_that_fell_back_do_not_hide_the_others(capsys, monkeypatch):
    rows = (
        row("embedding", "cosine_mean", 0.9, 0.88, 0.92),
        row("embedding", "cosine_mean@refined", 0.4, 0.3, 0.5, 20),
    )
    assert "0.40 [0.30, 0.50]    n 20" in "\n".join(shown(capsys, monkeypatch, *rows, fell_back=30))
    assert "0.90 [0.88, 0.92]    n 50" in "\n".join(shown(capsys, monkeypatch, *rows))


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -1234.5])
def test_it_fits_40_lines_of_80_columns_whatever_is_measured(capsys, monkeypatch, value):
    rows = [row(look.family, look.name, value, value - 0.01, value + 0.01, 12345) for look in LOOKS]
    rows += [row("quality", f"false_accepts:a_very_long_name_of_a_step_{n}", 0.9, 0.8, 1.0) for n in range(5)]
    lines = shown(capsys, monkeypatch, *rows, fell_back=1, mixed_in=7)
    assert len(lines) <= 40 and max(map(len, lines)) <= 80
    assert "7 rows mixed in left out" in lines[0]


def test_nothing_is_said_of_nothing(capsys, monkeypatch):
    assert "no rows to measure" in shown(capsys, monkeypatch, pairs=0)
    assert "nothing could be measured" in shown(capsys, monkeypatch, row("quality", "fell_back", None))


def test_every_measure_has_a_meaning():
    assert [look.name for look in LOOKS if meaning(look.family, look.name) is None] == []


def test_of_several_comparisons_the_raw_answers_with_the_last_step():
    assert headline_pair([("raw", "a"), ("raw", "b"), ("a", "b")]) == ("raw", "b")
    assert headline_pair([("a", "b")]) == ("a", "b")
