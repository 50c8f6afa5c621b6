"""How alike the answers of one side are to each other: repeated openings and endings, compressibility, self-BLEU."""

import zlib
from collections import Counter

import numpy as np

from refinery.diagnostics._numbers import Meanings, Row, mean_row, missing_extra, row, wilson
from refinery.diagnostics._pairs import Pairs
from refinery.diagnostics.ngram import words

VERSION = 1
NEEDS, USES, LIBRARIES = (), (), ("sacrebleu",)

LIMIT = 10_000
BLEU_LIMIT = 100
"""Answers compared with each other by self-BLEU, whose cost grows with their square."""
BLOCKS = 10
EDGE = 3
"""Words of an opening or an ending."""

MEANINGS: Meanings = {
    "openings_raw": ("raw answers with the commonest first three words", "High: answers open alike."),
    "openings_refined": ("refined answers with the commonest opening", "Far above raw's: collapse into a template."),
    "endings_raw": ("raw answers with the commonest last three words", "High: answers end alike."),
    "endings_refined": ("refined answers with the commonest ending", "Far above raw's: collapse into a template."),
    "compression_raw": ("compression ratio of the raw answers", "Higher: more repetition across answers."),
    "compression_refined": ("compression ratio of the refined answers", "Higher than raw's: more alike."),
    "compression_change": ("compression ratio, change", "Above 0: refined answers repeat each other more."),
    "self_bleu_raw": ("self-BLEU of the raw answers", "0 to 100: how well the others predict an answer's phrases."),
    "self_bleu_refined": ("self-BLEU of the refined answers", "Higher than raw's: less variety."),
    "self_bleu_change": ("self-BLEU, change", "Above 0: refined answers are more alike than raw ones."),
}


def measure(pairs: Pairs, *, seed: int = 0) -> list[Row]:
    """Rows of the family "diversity".

    openings_<side>, endings_<side>: share of answers that begin (end) with the commonest three words, Wilson interval,
    the five commonest in the detail. compression_<side>: bytes over deflated bytes, mean over ten blocks of answers,
    both sides cut to equal bytes since a longer text deflates better. self_bleu_<side>: mean sentence BLEU-4 (0 to
    100) of an answer against all others of its sample, which needs sacrebleu. _change: paired, t interval.
    """
    chosen = pairs.sample(LIMIT, seed)
    sides = {"raw": [p.raw for p in chosen], "refined": [p.refined for p in chosen]}
    rows = []
    for side, texts in sides.items():
        split = [found for text in texts if (found := words(text))]
        rows.append(_commonest(f"openings_{side}", [" ".join(w[:EDGE]) for w in split]))
        rows.append(_commonest(f"endings_{side}", [" ".join(w[-EDGE:]) for w in split]))
    few = pairs.sample(BLEU_LIMIT, seed)
    return [*rows, *_compression(*sides.values()), *_self_bleu([p.raw for p in few], [p.refined for p in few])]


def _commonest(name: str, edges: list[str]) -> Row:
    top = Counter(edges).most_common(5)
    count, n = top[0][1] if top else 0, len(edges)
    return row("diversity", name, count / n if n else None, n, wilson(count, n), top=[[text, k] for text, k in top])


def _compression(raw: list[str], refined: list[str]) -> list[Row]:
    ratios: list[list[float]] = [[], []]
    for i in range(BLOCKS):
        texts = ["\n".join(side[i::BLOCKS]).encode("utf-8", "replace") for side in (raw, refined)]
        size = min(map(len, texts))
        if size:
            for found, text in zip(ratios, texts, strict=True):
                found.append(size / len(zlib.compress(text[:size])))
    return _three("compression", np.array(ratios[0]), np.array(ratios[1]), len(raw), blocks=len(ratios[0]))


def _self_bleu(raw: list[str], refined: list[str]) -> list[Row]:
    if missing := missing_extra("sacrebleu"):
        names = ("self_bleu_raw", "self_bleu_refined", "self_bleu_change")
        return [row("diversity", name, None, 0, note=missing) for name in names]
    x, y = (np.array(_each_against_the_rest(side)) for side in (raw, refined))
    return _three("self_bleu", x, y, len(raw), sampled=len(raw))


def _each_against_the_rest(texts: list[str]) -> list[float]:
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(effective_order=True)
    if len(texts) < 2:
        return []
    return [bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)]


def _three(name: str, x: np.ndarray, y: np.ndarray, n: int, **detail: int) -> list[Row]:
    named = (("raw", x), ("refined", y), ("change", y - x))
    return [{**mean_row("diversity", f"{name}_{side}", values, **detail), "n": n} for side, values in named]
