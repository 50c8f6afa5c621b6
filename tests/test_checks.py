"""Agreement rules, each on the texts that a careless rule gets wrong."""

import time
from fractions import Fraction

import pytest

from refinery import checks

AGREE = [
    ("last_word", "It is **Paris**.", "paris"),
    ("last_word", "The answer is Paris . ", "So: PARIS!"),
    ("last_word", "She said “zurbo”.", "zurbo"),
    ("last_word", "Straße", "STRASSE"),
    ("last_word", "cafe\u0301", "café"),
    ("last_word", "it is rock-n-roll", "rock-n-roll"),
    ("last_word", "Paris \U0001f389", "Paris"),
    ("exact", "a  b\nc ", "a b c"),
    ("contains", "The capital, as you know, is New  York, of course.", "new york"),
    ("contains", "(New York)", "New York."),
    ("contains", "it costs 3.5 euros", "3.5"),
    ("number", "So she pays $1,234.50 in all.", "1234.5"),
    ("number", "3 + 4 = 7.", "7"),
    ("number", "it is -3", "\u22123"),
    ("number", "3/4 of it", "0.75"),
    ("number", "1 1/2", "1.5"),
    ("number", "\\frac{3}{4}", ".75"),
    ("number", "1.5 × 10^3", "1500"),
    ("number", "2e-5", "0.00002"),
    ("number", "60 %", "60%"),
    ("number", "60 percent", "60%"),
    ("number", "1,2,3", "3"),
    ("number", "It weighs 18kg", "18"),
    ("number", "between 3-4", "4"),
    ("number", "-$5", "-5"),
    ("number", "9" * 5000, "9" * 5000 + ".0"),
    ("boxed", "\\boxed{1} then \\boxed{\\frac{1}{2}}", "\\boxed{0.5}"),
    ("boxed", "so \\boxed{ x + 1 }.", "x+1"),
    ("boxed", "\\boxed{\\{1, 2\\}}", "\\{1,2\\}"),
    ("boxed", "\\boxed{1,234}", "1234"),
    ("boxed", "\\boxed{\\text{Paris}}", "Paris"),
    ("boxed", "\\boxed{1 1/2}", "3/2"),
    ("boxed", "\\boxed{-1\\frac{1}{2}}", "-1.5"),
    ("boxed", "\\boxed{2\\frac12}", "5/2"),
    ("boxed", "\\boxed{10\\,000}", "10,000"),
    ("boxed", "\\boxed{ - 5 }", "-5"),
    ("boxed", "\\boxed{\\frac {1}{ 2 }}", "1 / 2"),
    ("boxed", "\\boxed{(1, 2)}", "(1,2)"),
    ("boxed", "\\boxed{3  4}", "3 4"),
    ("choice", "b", "B"),
    ("choice", "The answer is (B).", "B"),
    ("choice", "A dog is an animal, so the answer is **C**", "C"),
    ("choice", "B) Paris", "(B)"),
    ("choice", "I would say D", "D"),
    ("choice", "A cat sat, hence D", "D"),
    ("choice", "Between B and C, answer: C", "C"),
    ("choice", "\\boxed{E}", "E"),
    ("choice", "Answer: C, since option B is wrong", "C"),
    ("choice", "The answer is B because it fits", "B"),
    ("choice", "The answer is A because it fits", "A"),
    ("choice", "<answer>\n(B)\n</answer>", "B"),
    ("choice", "A. Paris\nB. London\n\nThe correct option is B.", "B"),
    ("choice", "(A) Paris\n(B) London\n\nSo it is **A**. London is larger.", "A"),
    ("choice", "A) is wrong because it is too small. B) is right.", "B"),
    ("choice", "A) too small. B) is the correct option. C) too large.", "B"),
    ("choice", "A) is wrong. The right one is B.", "B"),
    ("choice", "Paris is on the list:\nA. Paris\nB. London\nso I take A", "A"),
    ("choice", "B) Paris. It is large. Dogs like it.", "B"),
    ("choice", "B. Paris\n\nB. is right, since A is too small", "B"),
    ("math", "So \\boxed{\\frac{2x}{4}}", "x/2"),
    ("math", "first \\boxed{1}, no: \\boxed{2}", "2"),
    ("math", "$(a+b)^2$", "a^2 + 2ab + b^2"),
    ("math", "sin(x)^2 + cos(x)^2", "1"),
    ("math", "10% of $50 is $5.\n#### 1,234", "1234"),
    ("math", "\\{2, 1\\}", "$\\{1, 2\\}$"),
    ("math", "x = 5", "5"),
    ("tool_call", "I call `f(b=[1, 'x'], a=1.0)` now.", '{"name": "f", "arguments": {"a": 1, "b": [1, "x"]}}'),
    ("tool_call", "Action: f\nAction Input: {}", "f()"),
    ("numbers", "In 1912 it had 3 decks, 3/4 of them open.", "3 decks since 1912, .75"),
    ("numbers", "no digits", "none either"),
    ("entities", "It was written by marie curie in PARIS.", "Marie Curie wrote it, in Paris."),
    ("entities", "nothing to lose", "This has no names."),
]

DIFFER = [
    ("last_word", "Paris it is", "Paris"),
    ("last_word", "", ""),
    ("last_word", "...", "..."),
    ("last_word", "it is -5", "5"),
    ("last_word", "60%", "60"),
    ("exact", "Paris", "paris"),
    ("exact", " ", ""),
    ("contains", "New Yorker", "New York"),
    ("contains", "York New", "New York"),
    ("contains", "it is 13.5", "3.5"),
    ("contains", "anything", ""),
    ("number", "60%", "60"),
    ("number", "60%", "0.6"),
    ("number", "1 1/2", "2 1/2"),
    ("number", "1.5×10^3", "2×10^3"),
    ("number", "-3", "3"),
    ("number", "seven", "seven"),
    ("number", "H2O", "2"),
    ("number", "1/0", "1/0"),
    ("number", "0.333", "1/3"),
    ("boxed", "\\boxed{1} and \\boxed{2", "1"),
    ("boxed", "2", "2"),
    ("boxed", "\\boxed{}", ""),
    ("boxed", "\\boxed{60\\%}", "60"),
    ("boxed", "\\boxed{3 4}", "34"),
    ("boxed", "\\boxed{1 1/2}", "11/2"),
    ("boxed", "\\boxed{1, 234}", "1234"),
    ("boxed", "\\boxed{3. 4}", "3.4"),
    ("boxed", "\\boxed{2\\frac12x}", "5/2"),
    ("choice", "A. Paris\nB. London\n\nThe correct option is B.", "A"),
    ("choice", "A. Paris\nB. London", "A"),
    ("choice", "A. Paris\nB. London\n", "B"),
    ("choice", "A. Paris\nB. London\n\nIt may be A or B.", "B"),
    ("choice", "A. Paris\nB. London\nNeither A nor B is correct.", "B"),
    ("choice", "A) is wrong because it is too small. B) is right.", "A"),
    ("choice", "A) is wrong.", "A"),
    ("choice", "A) is not correct. B) is not correct.", "B"),
    ("choice", "A) is correct in part.\nB) says it all.", "A"),
    ("choice", "A or B", "A"),
    ("choice", "A dog", "A"),
    ("choice", "the answer is not B", "B"),
    ("choice", "Dogs", "D"),
    ("choice", "F", "F"),
    ("choice", "The answer is A dog", "A"),
    ("choice", "A or B", "B"),
    ("choice", "The answer is B or C", "B"),
    ("choice", "The answer is (B) and (C).", "B"),
    ("choice", "B) or C)", "B"),
    ("math", "x+2", "x+1"),
    ("math", "\\boxed{2} and \\boxed{3", "2"),
    ("math", "$(1,2)$", "$[1,2]$"),
    ("math", "listen", "silent"),
    ("math", "", ""),
    ("tool_call", "f(a='1')", "f(a=1)"),
    ("tool_call", "the file(s) I read", "the file(s) I read"),
    ("numbers", "It had 3 decks.", "It had 3 decks in 1912."),
    ("numbers", "7%", "7"),
    ("entities", "A chemist, in Paris.", "Marie Curie lived in Paris."),
    ("entities", "", ""),
]


@pytest.mark.parametrize(("kind", "candidate", "reference"), AGREE)
def test_agrees(kind, candidate, reference):
    assert checks.agrees(kind, candidate, reference)


@pytest.mark.parametrize(("kind", "candidate", "reference"), DIFFER)
def test_differs(kind, candidate, reference):
    assert not checks.agrees(kind, candidate, reference)


def test_every_kind_has_both_examples():
    assert {kind for kind, *_ in AGREE} == {kind for kind, *_ in DIFFER} == set(checks.KINDS)


def test_unknown_kind_is_a_bug():
    with pytest.raises(ValueError, match="unknown check 'fuzzy'; known: last_word"):
        checks.agrees("fuzzy", "a", "a")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12/05/2024", 2024),
        ("3.14.15", Fraction(314, 100)),
        ("answer...5", 5),
        ("1,2345", 2345),
        ("+7", 7),
        ("x=-2", -2),
        ("x = -3", -3),
        ("-$5", -5),
        ("$-5", -5),
        ("(-2)", -2),
        ("−8", -8),
        ("10 - 4", 4),
        ("10 − 4", 4),
        ("**Answer**\n- 42", 42),
        ("- $5", 5),
        ("+ 7", 7),
    ],
)
def test_last_number_of_odd_texts(text, value):
    assert checks.last_number(text) == (value, False)


def test_numbers_stay_fast_on_long_text():
    assert checks.last_number("1,234 " * 20_000 + "7/8") == (Fraction(7, 8), False)
    assert checks.last_number("{" * 50_000 + "1") == (1, False)
    assert checks.last_box("\\boxed{" * 2_000 + "}" * 2_000) == ""


@pytest.mark.parametrize("kind", [kind for kind in checks.KINDS if kind != "math"])
@pytest.mark.parametrize("piece", [" ", "*", "A", "a ", ". ", "answer ", "\n", '"', "1 ", "1/", "Ab ", "_", "$", "'"])
def test_rules_stay_fast_on_hostile_text(kind, piece):
    begun = time.monotonic()
    checks.agrees(kind, "The answer is " + piece * 20_000, "the answer " + piece * 20_000)
    assert time.monotonic() - begun < 10
