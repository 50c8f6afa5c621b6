import asyncio
from collections import Counter

import numpy as np
import pytest
from sklearn.cluster import KMeans

from refinery.clustering import cluster
from refinery.errors import RowError, UserError
from refinery.models.base import Reply
from refinery.ops import synthesize
from tests.ops.tables import Rows, Seeded, apply, example, examples, stay

TOPICS = ("copper wires", "old ships", "bird song", "steam engines")


class Writing(Seeded):
    """Texts by functions: `question` of (prompt, try), `answer` of a question; vectors by the words of a text."""

    def __init__(self, question=lambda prompt, number: f"Tell me about {TOPICS[number % 4]}, part {number}.",
                 answer=lambda question: f"About that: {question}"):  # fmt: skip
        super().__init__()
        self.question, self.answer, self.prompts, self.asked = question, answer, [], []

    async def user_slot(self, model):
        return f"<{model}><user>"

    async def complete(self, model, text, *, sample, stop=(), **sampling):
        self.prompts.append({"text": text, "sample": sample, "model": model, "stop": stop, **sampling})
        return self._reply(self.question(text, sample))

    async def ask(self, model, messages, **sampling):
        self.asked.append({"model": model, "question": messages[-1]["content"], **sampling})
        await asyncio.sleep(0)
        return self._reply(self.answer(messages[-1]["content"]))

    def _reply(self, reply):
        if isinstance(reply, RowError):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(reply, "stop", 5, 5)

    async def embed(self, encoder, texts):
        vectors = np.zeros((len(texts), 256), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace(",", "").replace(".", "").split():
                vectors[row, sum(ord(c) * 31**i for i, c in enumerate(word)) % 256] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    async def map(self, function, items):
        async def one(item):
            try:
                return await function(item)
            except RowError as error:
                return error

        return await asyncio.gather(*(one(item) for item in items))


def made(outcomes):
    return [outcome for outcome in outcomes if outcome.action == "created"]


def test_magpie_completes_the_slot_and_answers_what_came():
    ctx = Writing()
    outcomes = apply(synthesize, Rows("raw", examples(3)), ctx=ctx, n=8, answer_model="latest", min_cosine=None)
    rows = made(outcomes)
    assert [(o.action, o.reason) for o in outcomes[:3]] == [("dropped", "demonstration")] * 3
    assert [row.example.question for row in rows] == [f"Tell me about {TOPICS[i % 4]}, part {i}." for i in range(8)]
    assert all(row.example.response == row.example.answer == f"About that: {row.example.question}" for row in rows)
    assert {row.example.meta["synthesized"] for row in rows} == {"magpie"}
    assert {row.example.parents for row in rows} == {()}
    assert {(p["text"], p["model"]) for p in ctx.prompts} == {("<self><user>", "self")}
    assert {a["model"] for a in ctx.asked} == {"latest"}
    assert (rows[0].scores["tries"], rows[0].scores["refused"]) == (8, {})


def test_what_is_refused_is_counted_and_made_up_for():
    def question(prompt, number):
        odd = ["", "Two words", "Question r1?", Reply("Cut off in the", "length", 1, 1), RowError("prompt_too_long"),
               "Tell me about owls, please.", "tell me  about OWLS, please."]  # fmt: skip
        return odd[number] if number < len(odd) else f"Please explain the number {number}."

    rows = [example("r1", "Question r1?")]
    outcomes = apply(
        synthesize, Rows("raw", rows), ctx=Writing(question), n=3, min_cosine=None, min_words=2, max_tries=20
    )
    rows = made(outcomes)
    assert [row.example.question for row in rows][:2] == ["Two words", "Tell me about owls, please."]
    assert rows[0].scores["refused"] == {
        "empty_response": 1, "repeated": 2, "cut_off": 1, "prompt_too_long": 1
    }  # fmt: skip
    assert rows[0].scores["tries"] == 8


def test_a_question_near_an_earlier_one_or_a_row_is_refused():
    def question(prompt, number):
        return ["How do copper wires work at all then?", "How do copper wires work at all, then, then?",
                "Who sails those old ships?", "Why do birds sing so early?"][number % 4]  # fmt: skip

    rows = [example("r", "Who sails those old old ships?")]
    outcomes = apply(synthesize, Rows("raw", rows), ctx=Writing(question), n=3, max_tries=4, min_cosine=0.8)
    found = made(outcomes)
    assert [row.example.question for row in found] == [question("", 0), question("", 3)]
    assert found[0].scores["refused"] == {"near_duplicate": 2}
    assert all(row.scores["cosine"] < 0.8 for row in found)


def test_fewer_rows_come_out_where_the_tries_end_and_none_is_a_mistake():
    ctx = Writing(lambda prompt, number: f"The number {number} says what?" if number < 5 else "")
    outcomes = apply(synthesize, Rows("raw", examples(1)), ctx=ctx, n=10, min_cosine=None)
    assert len(made(outcomes)) == 5
    assert made(outcomes)[0].scores["tries"] == 40
    with pytest.raises(UserError, match=r"none of 40 tries gave a usable row \(empty_response 40\)"):
        apply(synthesize, Rows("raw", examples(1)), ctx=Writing(lambda *_: ""), n=10, min_cosine=None)


def test_answers_that_cannot_be_used_are_made_up_for():
    def answer(question):
        return Reply("It is", "length", 1, 1) if "part 0" in question else "" if "part 1." in question else "Good."

    outcomes = apply(synthesize, Rows("raw", examples(1)), ctx=Writing(answer=answer), n=4, min_cosine=None)
    assert len(made(outcomes)) == 4
    assert made(outcomes)[0].scores["refused"] == {"cut_off": 1, "empty_response": 1}


def test_a_transient_failure_makes_the_first_row_ask_again():
    busy = RowError("server_error", transient=True)
    ctx = Writing(lambda prompt, number: busy if number == 2 else f"What is the number {number}?")
    outcomes = apply(synthesize, Rows("raw", examples(2)), ctx=ctx, n=4, min_cosine=None)
    assert [(o.reason, o.transient) for o in outcomes[:2]] == [("server_error", True), ("demonstration", False)]
    ctx = Writing(answer=lambda question: busy if "part 1" in question else "Yes.")
    outcomes = apply(synthesize, Rows("raw", examples(2)), ctx=ctx, n=4, min_cosine=None, keep_rows=True)
    assert [(o.action, o.transient) for o in outcomes[:2]] == [("dropped", True), ("kept", False)]


def test_rows_can_stay():
    outcomes = apply(synthesize, Rows("raw", examples(3)), ctx=Writing(), n=2, min_cosine=None, keep_rows=True)
    assert stay(outcomes)[:3] == ["r0", "r1", "r2"]


def test_rehearsal_shows_rows_in_changing_pairs_and_orders():
    ctx = Writing()
    rows = examples(6)
    outcomes = apply(synthesize, Rows("raw", rows), ctx=ctx, kind="rehearsal", n=10, answer_model="latest")
    shown = [tuple(i for i in sorted(range(6), key=lambda i: p["text"].find(f"Question r{i}?"))
                   if f"Input: Question r{i}?\nOutput: Answer r{i}." in p["text"]) for p in ctx.prompts]  # fmt: skip
    assert {len(each) for each in shown} == {2}
    assert len(set(shown)) > 10
    assert all(p["text"].endswith("\nInput:") and "\nInput:" in p["stop"] for p in ctx.prompts)
    found = made(outcomes)
    assert len(found) == 10
    assert all(set(row.example.parents) <= {r.id for r in rows} and len(row.example.parents) == 2 for row in found)
    by_try = {p["sample"]: each for p, each in zip(ctx.prompts, shown, strict=True)}
    assert all(row.example.parents == tuple(f"r{i}" for i in by_try[row.scores["try"]]) for row in found)
    assert len(ctx.asked) == 10  # only those picked of 20


def test_ten_more_rows_change_few_prompts():
    prompts = []
    for rows in (examples(1000), examples(1000) + examples(10, "new")):
        ctx = Writing()
        apply(synthesize, Rows("raw", rows), ctx=ctx, kind="rehearsal", n=20, pool=5)
        prompts.append([p["text"] for p in ctx.prompts])
    assert sum(a != b for a, b in zip(*prompts, strict=True)) <= 10


def blobs(sizes, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(sizes), 16)) * 4
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[labels] + rng.standard_normal((len(labels), 16)) * 0.3).astype(np.float32), labels


def test_clusters_are_those_of_scikit_learn():
    vectors, _ = blobs([60, 30, 10, 20])
    found, distances = cluster(vectors, 4, 0)
    other = KMeans(4, n_init=5, random_state=0).fit(vectors)
    pairs = Counter(zip(found.tolist(), other.labels_.tolist(), strict=True))
    assert sorted(pairs.values()) == [10, 20, 30, 60]
    np.testing.assert_allclose(distances, other.transform(vectors).min(axis=1), rtol=1e-3, atol=1e-4)


def test_each_cluster_gives_in_proportion_those_nearest_its_centre():
    vectors, labels = blobs([60, 30, 10])
    questions = [synthesize._Question(f"q{i}", i, (), vector, None) for i, vector in enumerate(vectors)]
    params = synthesize.Params(n=20, kind="rehearsal", clusters=3)
    order = synthesize._pick(questions, params, 0)
    first = [question.attempt for question, _ in order[:20]]
    assert Counter(labels[first].tolist()) == {0: 12, 1: 6, 2: 2}
    for label in range(3):
        inside = np.flatnonzero(labels == label)
        centre = vectors[inside].mean(axis=0)
        nearest = inside[np.argsort(np.linalg.norm(vectors[inside] - centre, axis=1))]
        assert set(nearest[: sum(labels[first] == label)].tolist()) == {i for i in first if labels[i] == label}
    assert sorted(question.attempt for question, _ in order) == list(range(100))


def test_requests_and_mistakes():
    assert synthesize.requests_in_all(synthesize.Params(n=10)) == 80
    assert "at most 40 times" in synthesize.notes(synthesize.Params(n=10))[0]
    with pytest.raises(UserError, match="needs rows to show"):
        apply(synthesize, Rows("raw", []), ctx=Writing(), kind="rehearsal", n=1)
    with pytest.raises(UserError, match="min_cosine cannot be null"):
        apply(synthesize, Rows("raw", examples(2)), ctx=Writing(), kind="rehearsal", n=1, min_cosine=None)
