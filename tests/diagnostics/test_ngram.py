"""Word measures against rouge_score, scipy, a table-filling subsequence and plain loops."""

import math
import random
from collections import Counter

import pytest
from rouge_score import rouge_scorer
from rouge_score.tokenizers import DefaultTokenizer
from scipy.spatial.distance import jensenshannon

from refinery.diagnostics import ngram
from refinery.diagnostics._pairs import paired

RANDOM = random.Random(4)
VOCABULARY = "the patient should rest take two tablets daily and call if pain 5 mg knee it's well-known Dose".split()


def text(low=0, high=40):
    return " ".join(RANDOM.choice(VOCABULARY) for _ in range(RANDOM.randint(low, high)))


RAW = [text() for _ in range(120)]
REFINED = [t if i % 10 == 0 else f"Sure! {t} {text()}" if i % 3 else text() for i, t in enumerate(RAW)]
ROWS = {r["name"]: r for r in ngram.measure(paired(RAW, REFINED))}


def slow_common_subsequence(a, b):
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_common_subsequence():
    for _ in range(300):
        a, b = (RANDOM.choices("abcdef"[: RANDOM.randint(1, 6)], k=RANDOM.randint(0, 90)) for _ in range(2))
        assert ngram.common_subsequence(a, b) == slow_common_subsequence(a, b)
    assert ngram.common_subsequence("ab" * 500, "ba" * 500) == 999


def test_rouge_l_and_overlaps_equal_rouge_score():
    kinds = ["rougeL", "rouge1", "rouge2", "rouge3", "rouge4"]
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=False)
    words = DefaultTokenizer(use_stemmer=False).tokenize
    theirs = [scorer.score(a, b) for a, b in zip(RAW, REFINED, strict=True)]
    size = [min(len(words(a)), len(words(b))) for a, b in zip(RAW, REFINED, strict=True)]
    either = [len(words(a)) + len(words(b)) > 0 for a, b in zip(RAW, REFINED, strict=True)]
    expected = [t["rougeL"].fmeasure for t, some in zip(theirs, either, strict=True) if some]
    assert ROWS["rouge_l"]["n"] == len(expected)
    assert ROWS["rouge_l"]["value"] == pytest.approx(sum(expected) / len(expected))
    for n in (1, 2, 3, 4):
        expected = [t[f"rouge{n}"].fmeasure for t, k in zip(theirs, size, strict=True) if k >= n]
        assert ROWS[f"overlap_{n}"]["n"] == len(expected)
        assert ROWS[f"overlap_{n}"]["value"] == pytest.approx(sum(expected) / len(expected))


def test_copied_share():
    shares = []
    for a, b in zip(RAW, REFINED, strict=True):
        a, b = ngram.words(a), ngram.words(b)
        if len(a) >= 4 and len(b) >= 4:
            known = [a[i : i + 4] for i in range(len(a) - 3)]
            found = [b[i : i + 4] for i in range(len(b) - 3)]
            shares.append(sum(g in known for g in found) / len(found))
    assert ROWS["copied_4"]["value"] == pytest.approx(sum(shares) / len(shares))
    assert ROWS["copied_4"]["n"] == len(shares)
    assert ngram.copied(ngram.words("a b c d"), ngram.words("a b c d a b c d"), 4) == pytest.approx(2 / 5)


def test_identical_share():
    same = sum(a == b for a, b in zip(RAW, REFINED, strict=True))
    assert ROWS["identical"]["value"] == same / 120
    assert ROWS["identical"]["low"] < same / 120 < ROWS["identical"]["high"]


def test_jensen_shannon_equals_scipy():
    a, b = (Counter(w for t in side for w in ngram.words(t)) for side in (RAW, REFINED))
    vocabulary = sorted({*a, *b})
    expected = jensenshannon([a[w] for w in vocabulary], [b[w] for w in vocabulary], base=2) ** 2
    assert ROWS["unigram_js"]["value"] == pytest.approx(expected, abs=1e-12)
    assert ngram.jensen_shannon([["a"]], [["b"]]) == 1
    assert ngram.jensen_shannon([["a", "b"]], [["b", "a"]]) == 0


def test_distinct_compares_equal_numbers_of_ngrams():
    """Twice the same corpus must count as equally varied, though its share of different bigrams is half."""
    long = [[*t, *t] for t in map(ngram.words, RAW)]
    (raw, refined), total = ngram.distinct([ngram.words(t) for t in RAW], long, 2, seed=0)
    assert total == sum(max(0, len(ngram.words(t)) - 1) for t in RAW)
    assert raw == len({g for t in RAW for g in ngram.ngrams(ngram.words(t), 2)}) / total
    assert 0.5 * raw < refined <= raw
    assert ngram.distinct([["a", "b"]], [["a", "a"]], 1, seed=0) == ([1.0, 0.5], 2)
    assert ngram.distinct([["a", "b"]], [[]], 1, seed=0) == ([None, None], 0)


def test_type_token_ratio():
    ratios = [len({*w}) / len(w) for w in map(ngram.words, REFINED) if w]
    assert ROWS["type_token_ratio_refined"]["value"] == pytest.approx(sum(ratios) / len(ratios))


@pytest.mark.parametrize("a, b", [([], []), ([""], [""]), (["!!"], ["one two three four five"])])
def test_texts_without_words(a, b):
    rows = {r["name"]: r for r in ngram.measure(paired(a, b))}
    assert rows["overlap_4"]["value"] is None and rows["unigram_js"]["value"] is None
    assert rows["identical"]["n"] == len(a)
    assert not any(isinstance(r["value"], float) and math.isnan(r["value"]) for r in rows.values())


def test_words_are_unicode_and_lower_case():
    assert ngram.words("Überdosis: 3,5 mg — naïve_x") == ["überdosis", "3", "5", "mg", "naïve_x"]


def test_sampling_is_seeded(monkeypatch):
    monkeypatch.setattr(ngram, "LIMIT", 30)
    first = ngram.measure(paired(RAW, REFINED), seed=1)
    assert first[0]["n"] == 30
    assert ngram.measure(paired(RAW, REFINED), seed=1) == first != ngram.measure(paired(RAW, REFINED), seed=2)
