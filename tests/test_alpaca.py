"""Real rows, real rewrites, the real encoder: `specs/alpaca.yaml` against sentence-transformers and plain Python.

The rows are not part of the repository (non-commercial licence). They are looked for in $REFINERY_DATA/alpaca, then in
shared/data/alpaca beside the repository; without them these tests are skipped.
"""

import functools
import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from refinery.diagnostics import REFINED_ONLY, run
from refinery.encoder import Encoder
from refinery.ops.rewrite import BANNED
from tests.loopback_rewrites import Recorded, serving

pytest.importorskip("sentence_transformers")

ROOT = Path(__file__).parent.parent
FOLDERS = [Path(os.environ["REFINERY_DATA"])] if "REFINERY_DATA" in os.environ else [ROOT.parent / "shared" / "data"]
FOLDER = next((f / "alpaca" for f in FOLDERS if (f / "alpaca" / "distilled_alpaca.json").is_file()), None)
WINDOW = 254
"""Tokens of a text that all-MiniLM-L6-v2 reads at once, without its two special tokens."""

pytestmark = [
    pytest.mark.skipif(FOLDER is None, reason="no alpaca rows: set REFINERY_DATA to the folder above alpaca/"),
    pytest.mark.timeout(3000),  # 8,000 texts through an encoder, on a machine that may be busy
]


def load(name: str) -> list[dict[str, str]]:
    return json.loads((FOLDER / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def refined(tmp_path_factory):
    """Limit to (results of run_graph, store, the server, seconds) of the spec over that many rows."""
    from refinery.graph import run_graph
    from refinery.spec import load_spec
    from refinery.store import Store

    @functools.cache
    def refine(limit: int):
        recorded, store = Recorded(load("distilled_alpaca.json")), Store(tmp_path_factory.mktemp("alpaca") / "db")
        with serving(recorded) as url, pytest.MonkeyPatch.context() as patch:
            patch.setenv("REFINERY_SERVER", url)
            patch.setenv("REFINERY_DATA", str(FOLDER.parent))
            spec = load_spec(ROOT / "specs" / "alpaca.yaml", [f"source.limit={limit}"])
            start = time.monotonic()
            results = run_graph(spec, store)
        return results, store, recorded, time.monotonic() - start

    return refine


@functools.cache
def expected(limit: int):
    """(raw, new, leaks, cosines, encoder) of the first rows, worked out without our code but for the list of phrases.

    The encoder looks up the vectors that the cosines came from.
    """
    raw = [row["output"].strip() for row in load("alpaca_train.json")[:limit]]
    new = [row["output"].strip() for row in load("distilled_alpaca.json")[:limit]]
    questions = [f"{row['instruction']} {row['input']}" for row in load("alpaca_train.json")[:limit]]
    leaks = [leak(n, f"{q} {r}") for q, r, n in zip(questions, raw, new, strict=True)]
    vectors = encode([*raw, *new])
    return raw, new, leaks, np.sum(vectors[:limit] * vectors[limit:], axis=1), Known([*raw, *new], vectors)


class Known:
    identity = "sentence-transformers"

    def __init__(self, texts: list[str], vectors: np.ndarray):
        self.vectors = dict(zip(texts, vectors, strict=True))

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([self.vectors[text.strip()] for text in texts])


def leak(text: str, given: str) -> bool:
    """A phrase that gives the reference away, where question and reference do not hold it themselves."""

    def flat(t: str) -> str:
        return f" {' '.join(re.findall(r'[a-z0-9_]+', t.lower()))} "

    return any(f" {phrase} " in flat(text) and f" {phrase} " not in flat(given) for phrase in BANNED)


def encode(texts: list[str]) -> np.ndarray:
    """sentence-transformers for what fits its window; the rest by plain transformers, mean-pooled window by window."""
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    folder = str(Encoder().folder)
    whole, plain = SentenceTransformer(folder, device="cpu"), AutoModel.from_pretrained(folder).eval()
    tokenizer = whole.tokenizer
    ids = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    vectors = whole.encode(texts, batch_size=16).astype(np.float64)

    def piece(some: list[int]) -> np.ndarray:
        batch = torch.tensor([[tokenizer.cls_token_id, *some, tokenizer.sep_token_id]])
        with torch.inference_mode():
            mean = plain(input_ids=batch).last_hidden_state[0].double().mean(0).numpy()
        return mean / np.linalg.norm(mean)

    for i, row in enumerate(ids):
        if len(row) > WINDOW:
            parts = [row[at : at + WINDOW] for at in range(0, len(row), WINDOW)]
            vectors[i] = sum(len(part) * piece(part) for part in parts)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


LIMITS = [200, pytest.param(2000, marks=pytest.mark.slow)]


def test_every_recorded_row_is_found_by_its_prompt():
    rows = load("distilled_alpaca.json")
    recorded = Recorded(rows)
    for row, old in zip(rows, load("alpaca_train.json"), strict=True):
        prompt = f"Question:\n{row['instruction']}\n\n{row['input']}\n\nKnown answer:\n{old['output']}\n\nAnswer it."
        assert recorded.find(prompt) is row


@pytest.mark.parametrize("limit", LIMITS)
def test_funnel(refined, limit):
    results, _, recorded, seconds = refined(limit)
    raw, new, leaks, cosines, _ = expected(limit)
    rows = list(zip(raw, new, leaks, cosines, strict=True))
    assert not [c for *_, leaked, c in rows if abs(c - 0.8) < 1e-5 and not leaked]  # none that rounding could move
    rewritten, close = Counter(), Counter()
    for a, b, leaked, c in rows:
        rewritten[("fell_back", "banned_phrase") if leaked else ("kept" if a == b else "changed", "ok")] += 1
        passed = ("kept", "ok") if c >= 0.8 else ("fell_back", "below_threshold")
        close[("kept", "fell_back_earlier") if leaked else passed] += 1
    assert results["rewritten"].counts == rewritten
    assert results["close"].counts == close
    assert recorded.answered == limit
    print(f"\n{limit} rows in {seconds:.1f} s: {dict(rewritten)} {dict(close)}")


@pytest.mark.parametrize("limit", LIMITS)
def test_rows_and_scores(refined, limit):
    results, store, *_ = refined(limit)
    raw, new, leaks, cosines, _ = expected(limit)
    outcomes = store.outcomes(results["close"].fingerprint)
    assert len(outcomes) == limit
    for outcome, a, b, leaked, c in zip(outcomes, raw, new, leaks, cosines, strict=True):
        assert outcome.example.answer.strip() == a
        stays = not leaked and c >= 0.8
        assert outcome.example.response.strip() == (b if stays else a)
        assert outcome.example.fell_back == (not stays)
        if not leaked:
            assert outcome.scores["cosine"] == pytest.approx(c, abs=1e-5)


@pytest.mark.parametrize("limit", LIMITS)
def test_diagnostics(refined, limit):
    results, store, *_ = refined(limit)
    raw, new, leaks, cosines, encoder = expected(limit)
    start = time.monotonic()
    rows = {r["name"]: r for r in run(store, results["rewritten"].fingerprint, encoder=encoder)}
    seconds = time.monotonic() - start
    kept = [not leaked for leaked in leaks]
    after = [b if k else a for a, b, k in zip(raw, new, kept, strict=True)]
    assert rows["cosine_mean"]["value"] == pytest.approx(np.where(kept, cosines, 1).mean(), abs=1e-5)
    assert rows["cosine_mean" + REFINED_ONLY]["value"] == pytest.approx(cosines[kept].mean(), abs=1e-5)
    assert rows["identical"]["value"] == sum(a == b for a, b in zip(raw, after, strict=True)) / limit
    words = sum(len(t.split()) for t in after) / sum(len(t.split()) for t in raw)
    assert rows["words_ratio"]["value"] == pytest.approx(words)
    assert rows["words_ratio"]["low"] < words < rows["words_ratio"]["high"]
    assert rows["mmd2"]["value"] > 0 and rows["mmd2"]["detail"]["p"] < 0.01  # a chat model's style is not Alpaca's
    assert (rows["frechet"]["value"] is None) == (limit < 2 * 384)
    print(f"\n{limit} rows in {seconds:.1f} s:")
    for row in rows.values():
        value, low, high = (f"{x:.4f}" if x is not None else "-" for x in (row["value"], row["low"], row["high"]))
        print(f"  {row['name']:<34} {value:>10} [{low}, {high}] n={row['n']} {row['detail'].get('p', '')}")
