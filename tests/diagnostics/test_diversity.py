"""Repetition across answers: counted by hand, zlib by its file format, self-BLEU against NLTK's."""

import gzip
import random

import numpy as np
import pytest
from nltk.translate.bleu_score import sentence_bleu

from refinery.diagnostics import _numbers, diversity
from refinery.diagnostics._pairs import paired

RANDOM = random.Random(0)
WORDS = [f"word{i}" for i in range(25)]


def sentence(n=14):
    return " ".join(RANDOM.choice(WORDS) for _ in range(n))


def test_commonest_openings_and_endings():
    refined = ["Sure! Here is the thing."] * 6 + ["sure, here IS another thing"] * 2 + ["No.", "!!"]
    rows = {r["name"]: r for r in diversity.measure(paired([sentence() for _ in refined], refined))}
    opening = rows["openings_refined"]
    assert opening["detail"]["top"][0] == ["sure here is", 8] and opening["n"] == 9
    assert opening["value"] == 8 / 9 and opening["low"] < 8 / 9 < opening["high"]
    assert rows["endings_refined"]["detail"]["top"][0] == ["is the thing", 6]


def test_repetition_compresses():
    varied = ["".join(RANDOM.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(300)) for _ in range(40)]
    rows = {r["name"]: r for r in diversity.measure(paired(varied, [varied[0]] * 40))}
    blocks = ["\n".join(varied[i::10]).encode() for i in range(10)]
    theirs = np.mean([len(b) / (len(gzip.compress(b, 6)) - 12) for b in blocks])  # gzip: the same stream, 12 bytes more
    assert rows["compression_raw"]["value"] == pytest.approx(theirs, rel=0.01)
    assert rows["compression_refined"]["value"] > 2 * rows["compression_raw"]["value"]
    assert rows["compression_change"]["low"] > 0


def test_self_bleu_equals_nltk():
    texts = [" ".join(RANDOM.choice("abcd") for _ in range(RANDOM.randint(8, 20))) for _ in range(12)]
    ours = diversity._each_against_the_rest(texts)
    for i, text in enumerate(texts):
        others = [t.split() for t in texts[:i] + texts[i + 1 :]]
        assert ours[i] == pytest.approx(100 * sentence_bleu(others, text.split()), rel=1e-6)
    assert diversity._each_against_the_rest(["a b c d e"] * 3) == pytest.approx([100] * 3)


def test_without_sacrebleu_the_rest_is_measured(monkeypatch):
    monkeypatch.setattr(_numbers, "find_spec", lambda name: None)
    rows = {r["name"]: r for r in diversity.measure(paired([sentence()] * 5, [sentence()] * 5))}
    assert rows["self_bleu_raw"]["value"] is None
    assert rows["self_bleu_raw"]["detail"]["note"] == 'needs sacrebleu: pip install "refinery[diagnose]"'
    assert rows["compression_raw"]["value"] is not None


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_next_to_nothing(texts):
    rows = {r["name"]: r for r in diversity.measure(paired(texts, texts))}
    assert rows["openings_raw"]["value"] is None
