"""A stored step measured: which rows count, what is kept, and what is computed again."""

import hashlib

import numpy as np
import pytest

from refinery import diagnostics
from refinery.diagnostics import REFINED_ONLY, Remembering, run
from refinery.errors import UserError
from refinery.records import Example, Outcome
from refinery.store import Store


class Hashed:
    """A unit vector per text from its digest; counts what it encodes."""

    def __init__(self, identity="hashed"):
        self.identity, self.texts = identity, []

    def encode(self, texts):
        self.texts.extend(texts)
        seeds = [int.from_bytes(hashlib.sha256(t.encode()).digest()[:8], "big") for t in texts]
        vectors = np.array([np.random.default_rng(s).normal(size=3) for s in seeds]).reshape(-1, 3)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class Tokenizer:
    name_or_path = "letters"

    def __call__(self, texts, **_):
        return {"input_ids": [list(t) for t in texts]}


def example(i: int, response: str, **changes) -> Example:
    prompt = [{"role": "user", "content": f"Question {i}?"}]
    return Example(id=f"e{i}", prompt=prompt, answer=f"plain answer number {i}", response=response, **changes)


def outcome(made: Example | None, i: int = 99) -> Outcome:
    if made is None:
        return Outcome(f"e{i}", "dropped", "server_error", None)
    return Outcome(made.id, "fell_back" if made.fell_back else "changed", "ok", made)


@pytest.fixture
def store(tmp_path):
    """Six changed rows, two that fell back, one dropped, one of the test split."""
    store = Store(tmp_path / "refinery.duckdb")
    run_id = store.start_run("test", "", "", {})
    store.start_step("fp", run_id, "close", "semantic_filter", 1, {}, [], {})
    made = [example(i, f"Well, the answer is number {i} indeed, {'so ' * i}yes.") for i in range(6)]
    made += [example(i, "").fall_back() for i in (6, 7)]
    made += [example(8, "of the test split", split="test")]
    store.add_outcomes("fp", [*enumerate(map(outcome, made)), (9, outcome(None))])
    store.finish_step("fp")
    return store


def by_name(rows):
    return {row["name"]: row for row in rows}


def test_both_subsets_without_an_encoder(store):
    rows = by_name(run(store, "fp"))
    assert {row["family"] for row in rows.values()} == {"length", "ngram"}
    assert rows["identical"]["value"] == 2 / 8 and rows["identical"]["detail"]["subset"] == "all"
    refined = rows["identical" + REFINED_ONLY]
    assert refined["value"] == 0 and refined["n"] == 6 and refined["detail"]["subset"] == "refined"
    assert rows["words_raw_mean"]["value"] == 4 and rows["words_raw_mean"]["n"] == 8
    assert rows["words_refined_mean" + REFINED_ONLY]["value"] == np.mean([8 + i for i in range(6)])


def test_with_an_encoder_and_a_tokenizer(store):
    encoder = Remembering(Hashed())
    rows = by_name(run(store, "fp", encoder=encoder, tokenizer=Tokenizer()))
    answers = [e.answer for e in store.examples("fp")][:8]
    responses = [e.response for e in store.examples("fp")][:8]
    cosines = np.sum(Hashed().encode(answers) * Hashed().encode(responses), axis=1)
    assert rows["cosine_mean"]["value"] == pytest.approx(cosines.mean(), abs=1e-6)
    assert rows["cosine_mean" + REFINED_ONLY]["value"] == pytest.approx(cosines[:6].mean(), abs=1e-6)
    assert rows["tokens_raw_mean"]["value"] == len("plain answer number 0")
    texts = encoder._encoder.texts
    assert sorted(texts) == sorted({*answers, *responses})  # each text once, both subsets


def test_what_is_stored_is_not_computed_again(store, monkeypatch):
    encoder = Hashed()
    first = run(store, "fp", encoder=encoder, tokenizer=Tokenizer())
    monkeypatch.setattr(diagnostics, "_both_subsets", None)
    encoder.texts.clear()
    assert run(store, "fp", encoder=encoder, tokenizer=Tokenizer()) == first
    assert run(store, "fp") == first and not encoder.texts


def test_another_encoder_or_changed_rows_are_measured_again(store):
    first = by_name(run(store, "fp", encoder=Remembering(Hashed())))
    assert first["cosine_mean"]["detail"]["by"]["encoder"] == "hashed"
    second = by_name(run(store, "fp", encoder=Remembering(Hashed("other"))))
    assert second["cosine_mean"]["detail"]["by"]["encoder"] == "other"
    assert second["rouge_l"] == first["rouge_l"]
    store.add_outcomes("fp", [(9, outcome(example(9, "plain answer number 9")))])  # asked again, now answered
    third = by_name(run(store, "fp"))
    assert third["identical"]["value"] == 3 / 9 and set(third) == set(second)


def test_a_step_that_kept_no_row_and_one_that_all_fell_back(store):
    run_id = store.start_run("test", "", "", {})
    for name, outcomes in {"none": [outcome(None)], "back": [outcome(example(1, "").fall_back())]}.items():
        store.start_step(name, run_id, name, "rewrite", 1, {}, [], {})
        store.add_outcomes(name, list(enumerate(outcomes)))
    assert {row["value"] for row in run(store, "none", encoder=Remembering(Hashed()))} == {None}
    back = by_name(run(store, "back", encoder=Remembering(Hashed())))
    assert back["identical"]["value"] == 1 and back["identical" + REFINED_ONLY]["value"] is None


def test_unknown_step(store):
    with pytest.raises(UserError, match=r"^the store .* holds no step nothing$"):
        run(store, "nothing")
