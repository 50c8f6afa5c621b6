"""math against sympy's own equality, from a thread that is not the main one, and on what cannot be decided in time."""

import itertools
import threading
import time

import pytest
import sympy

from refinery.checks import Check, agrees, compare, maths, timed

PAIRS = {
    "x^2 - 1": "x**2 - 1",
    "(x-1)(x+1)": "(x-1)*(x+1)",
    "2x": "2*x",
    "x + x": "x + x",
    "\\frac{x}{2}": "x/2",
    "0.5 x": "x/2",
    "\\sqrt{8}": "sqrt(8)",
    "2\\sqrt{2}": "2*sqrt(2)",
    "\\frac{6}{4}": "Rational(6, 4)",
    "1.5": "Rational(3, 2)",
}
"""LaTeX to sympy."""


def test_equal_exactly_where_sympy_says_so():
    pairs = list(itertools.combinations(PAIRS.items(), 2))
    ours = [agrees("math", f"It is ${a}$.", b) for (a, _), (b, _) in pairs]
    theirs = [sympy.simplify(sympy.sympify(f"({a}) - ({b})")) == 0 for (_, a), (_, b) in pairs]
    assert ours == theirs
    assert sum(ours) == 5


def test_it_works_off_the_main_thread_and_side_by_side():
    found = {}
    texts = ["1/2", "1/3", "1/4", "1/5", "1/6"]
    threads = [threading.Thread(target=lambda t=t: found.update({t: agrees("math", t, "0.25")})) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {text: text == "1/4" for text in texts}


def test_what_takes_too_long_is_unknown_and_the_next_one_is_answered(monkeypatch):
    monkeypatch.setattr(timed, "LIMIT", 1.0)
    begun = time.monotonic()
    finding = compare(Check("math"), "$\\sum_{n=1}^{10000000} \\sin(n^n)$", "$\\prod_{n=1}^{90000000} \\cos(n)$")
    assert (finding.agrees, finding.unknown) == (None, "timed_out")
    assert time.monotonic() - begun < 30
    monkeypatch.setattr(timed, "LIMIT", 30.0)
    assert agrees("math", "1+1", "2")


@pytest.mark.parametrize(
    "text", ["9^{9^{9^{9}}}", "$\\frac{1}{0}$", "\\boxed{", "{" * 500, "\\frac{", "\u0000", "$$", "∑" * 50]
)
def test_odd_texts_never_crash(text, monkeypatch):
    monkeypatch.setattr(timed, "LIMIT", 2.0)
    assert compare(Check("math"), text, "5").agrees in (False, None)


def test_words_are_no_products_of_letters():
    assert maths.read("half") is None
    assert maths.read("12 apples") == "12"
    assert maths.read("2xy") == "2*x*y"
