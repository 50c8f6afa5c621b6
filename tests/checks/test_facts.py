"""Numbers and names that a rewrite must keep: recall and precision by hand."""

from fractions import Fraction

import pytest

from refinery.checks import Check, compare, names, numbers


def shares(kind, candidate, reference, **options):
    finding = compare(Check(kind, **options), candidate, reference)
    return finding.agrees, finding.scores["recall"], finding.scores["precision"]


def test_numbers_of_a_text():
    text = "1. It cost $1,200 in 1990\n2) 5% of it, 3/4 and -2.50; see H2O."
    assert numbers.all_numbers(text) == {
        (Fraction(1200), False), (Fraction(1990), False), (Fraction(5), True), (Fraction(3, 4), False),
        (Fraction(-5, 2), False),
    }  # fmt: skip


def test_a_spaced_minus_and_a_bullet_are_no_signs():
    assert numbers.all_numbers("10 - 4 = 6") == {(Fraction(n), False) for n in (10, 4, 6)}
    assert numbers.all_numbers("3 - -2") == {(Fraction(3), False), (Fraction(-2), False)}
    assert shares("numbers", "You need:\n- 2 eggs\n- 3 cups", "You need 2 eggs and 3 cups.") == (True, 1.0, 1.0)


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ("1 2 3", "1 2 3", (True, 1.0, 1.0)),
        ("1 and 2", "1 2 3 4", (False, 0.5, 1.0)),
        ("1 2 3 4", "1 and 2", (True, 1.0, 0.5)),
        ("none", "1", (False, 0.0, None)),
        ("1", "none", (True, None, 0.0)),
        ("none", "none", (True, None, None)),
        ("1.0, 1", "1", (True, 1.0, 1.0)),
    ],
)
def test_recall_and_precision_of_numbers(candidate, reference, expected):
    assert shares("numbers", candidate, reference) == expected


def test_bounds_and_tolerance():
    assert shares("numbers", "1 and 2", "1 2 3 4", min_recall=0.5)[0]
    assert not shares("numbers", "1 2 3 4", "1 and 2", min_precision=0.6)[0]
    assert shares("numbers", "99", "100", tolerance=0.01)[0]
    assert not shares("numbers", "98.9", "100", tolerance=0.01)[0]
    assert not shares("numbers", "100%", "100", tolerance=0.5)[0]
    assert compare(Check("number", tolerance=0.01), "it is 3.14", "3.14159").agrees
    assert not compare(Check("number", tolerance=0.0001), "it is 3.14", "3.14159").agrees


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Marie Curie lived in Paris.", {"marie curie", "paris"}),
        ("In Paris, the Bank of England was unknown.", {"paris", "bank of england"}),
        ("The Hague is a city. We like it.", {"hague"}),
        ("They met in The Hague.", {"hague"}),
        ("NASA flew. However, GPT-4 did not.", {"nasa", "gpt-4"}),
        ("Rome fell. People left Rome.", {"rome"}),
        ("Rome fell.", set()),
        ('He said "good night" and `git add`.', {"good night", "git add"}),
        ("I think A and I are here.", set()),
        ("Paris and London; Rome's Forum", {"london", "rome forum"}),
        ("1) Cost of living\n2) Work", set()),
        ("He read Don Quixote de la Mancha twice.", {"don quixote de la mancha"}),
    ],
)
def test_names_of_a_text(text, found):
    assert {" ".join(name) for name in names.read(text)} == found


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        ("the works of marie curie", "by Marie Curie", (True, 1.0, None)),
        ("Marie went to Paris with Curie.", "by Marie Curie, Paris", (False, 0.5, 1.0)),
        ("Spark's engine", "It runs on Spark.", (True, 1.0, None)),
        ("It was Albert Einstein.", "it was he", (True, None, 0.0)),
    ],
)
def test_recall_and_precision_of_names(candidate, reference, expected):
    assert shares("entities", candidate, reference) == expected
