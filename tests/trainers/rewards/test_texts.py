"""Penalties against values worked out by hand, and against counting written out."""

from collections import Counter

import pytest

from trainers.rewards import texts


@pytest.mark.parametrize(("length", "cost"), [(0, 0), (80, 0), (85, 0.25), (90, 0.5), (100, 1), (140, 1)])
def test_overlong_rises_over_the_last_tokens(length: int, cost: float) -> None:
    assert texts.overlong(length, 100, 20) == pytest.approx(cost)


def test_places_are_whole_words_in_any_case_and_spacing() -> None:
    text = "Twelve: 12, 112, 12.\nThe ANSWER\n is 12"
    assert [text[a:b] for a, b in texts.places(text, "12")] == ["12", "12", "12"]
    assert [text[a:b] for a, b in texts.places(text, "the answer")] == ["The ANSWER"]
    assert texts.places(text, "  ") == [] and texts.places("a.b", "a+b") == []


def test_leak_by_place_and_by_reasoning() -> None:
    assert texts.leak(20, 100, 0.2, 16) == 0 and texts.leak(19, 100, 0.2, 16) == 1
    assert texts.leak(15, 40, 0.2, 16) == 1 and texts.leak(16, 40, 0.2, 16) == 0


@pytest.mark.parametrize(
    ("tokens", "cost"), [(0, 1), (20, 1), (30, 0.5), (40, 0), (100, 0), (160, 0), (205, 0.5), (250, 1), (900, 1)]
)
def test_length_ratio_ramps_on_both_sides(tokens: int, cost: float) -> None:
    assert texts.length_ratio(tokens, 100, (0.4, 1.6), (0.2, 2.5)) == pytest.approx(cost)


def test_repetition_counts_four_grams() -> None:
    words = ("a b c d " * 5 + "e f g h i j k l m n o p").split()
    grams = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    share = sum(count - 1 for count in grams.values()) / sum(grams.values())
    assert 0.1 < share < 0.6
    assert texts.repetition(words) == pytest.approx(min(1, (share - 0.1) / 0.3))
    assert texts.repetition("a b c".split()) == 0 == texts.repetition([]) and texts.repetition([7] * 50) == 1
    assert texts.repetition(range(50)) == 0  # type: ignore[arg-type]


def test_copied_looks_at_close_copies_alone() -> None:
    original = " ".join(f"w{i}" for i in range(20))
    assert texts.copied(original, original) == pytest.approx(1)
    nearly = original.replace("w3", "x")
    assert texts.copied(nearly, original) == pytest.approx((0.95 - 0.9) / 0.1)
    assert texts.copied("something else", original) == 0 and texts.copied("", "") == 0


def test_mentions_leaves_what_the_question_speaks_of() -> None:
    assert texts.mentions("As shown above, it is so.", ("as shown above",), "What is it?") == 1
    assert texts.mentions("As shown above, it is so.", ("as shown above",), "Use what is as shown above.") == 0
    assert texts.mentions("It was rewritten.", ("rewrite",), "") == 0


def test_skipped_counts_the_originals_numbers() -> None:
    original = "First 3 + 4 = 7, then 7 * 2 = 14."
    assert texts.skipped("3 and 4 make 7, twice that is 14", original) == 0  # 5 of 5 different numbers but 2
    assert texts.skipped("it is 14", original) == pytest.approx(1 - 1 / 5)
    assert texts.skipped("it is so", "no number at all") == 0


def test_the_final_answer_is_found_by_what_the_rule_reads() -> None:
    def found(check: str, reference: str, text: str) -> list[str] | None:
        spans = texts.final_places(check, reference, text)
        return None if spans is None else [text[start:end] for start, end in spans]

    assert found("number", "so 12 x 100 = $1,200", "1200, not 1200.5 or 1200%; $1,200") == ["1200", "$1,200"]
    assert found("number", "none", "1") is None
    assert found("choice", "the answer is A", "A remedy is A, not (B); a day") == ["A"]
    assert found("last_word", "We open at **nine**.", "Nine, or ninety-nine: nine.") == ["Nine", "nine", "nine"]
    assert found("boxed", r"it is \boxed{x + 1} at last", "x +  1 and 1") == ["x +  1"]
    assert found("contains", "in the old town", "In the old town.") == ["In the old town"]
    assert found("math", "x = 5", "so x = 5") == ["x = 5"]
    assert found("math", "first we take off two from seven, x = 5", "x = 5") is None
