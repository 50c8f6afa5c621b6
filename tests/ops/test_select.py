import asyncio
import itertools
import math

import numpy as np
import pytest

from refinery.encoder import Encoder
from refinery.errors import RowError
from refinery.ops import select


def at(degrees):
    return (math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


VECTORS = {"It is Paris.": at(0), "a": at(50), "b": at(10), "c": at(-20), "d": at(52)}


def pick(run, row, ctx, *texts, **params):
    return run(select, row(response=texts[0], candidates=texts), ctx, **params)


def test_the_closest(fake, row, run):
    outcome = pick(run, row, fake(vectors=VECTORS), "a", "b", "c", by="similarity", keep=2)
    assert (outcome.action, outcome.reason, outcome.example.response) == ("changed", "ok", "b")
    assert outcome.example.candidates == ("b", "c")
    expected = [round(math.cos(math.radians(d)), 6) for d in (50, 10, 20)]
    assert outcome.scores == {"by": "similarity", "scores": expected, "chosen": [1, 2]}


def test_the_closest_by_the_real_encoder(fake, row, run):
    encoder = Encoder()

    class Real(fake):
        async def embed(self, name, texts):
            return await asyncio.to_thread(encoder.encode, texts)

    texts = ("Bread is made of flour.", "France's capital city is Paris.", "Paris has many cafés.")
    outcome = run(select, row(answer="The capital of France is Paris.", response=texts[0], candidates=texts), Real())
    vectors = encoder.encode(["The capital of France is Paris.", *texts])
    assert outcome.scores["scores"] == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-5)
    assert outcome.example.response == texts[1]


def test_the_likeliest_given_the_question_alone(fake, row, run):
    means = {"a": -2.0, "b": -0.5, "c": -1.0}
    ctx = fake(likelihoods=lambda model, messages, text: means[text])
    outcome = pick(run, row, ctx, "a", "b", "c", by="likelihood", model="self")
    assert (outcome.example.response, outcome.example.candidates) == ("b", ("b",))
    assert outcome.scores["scores"] == [-2.0, -0.5, -1.0]
    assert {(model, messages[0]["content"]) for model, messages, _ in ctx.scored} == {("self", "Capital of France?")}
    assert select.scored_by(select.Params(by="likelihood", model="self")) == ["self"]


def test_a_candidate_that_cannot_be_scored_comes_last(fake, row, run):
    def mean(model, messages, text):
        return RowError("prompt_too_long") if text == "a" else math.nan if text == "b" else -3.0

    outcome = pick(run, row, fake(likelihoods=mean), "a", "b", "c", by="likelihood", model="self", keep=3)
    assert outcome.example.candidates == ("c", "a", "b")
    assert outcome.scores["scores"] == [None, None, -3.0]
    assert outcome.scores["unknown"] == {"0": "prompt_too_long", "1": "empty_candidate"}
    with pytest.raises(RowError, match="no_score"):
        pick(run, row, fake(likelihoods=mean), "a", "b", by="likelihood", model="self")
    with pytest.raises(RowError, match="timeout"):
        late = fake(likelihoods=lambda *_: RowError("timeout", transient=True))
        pick(run, row, late, "a", "b", by="likelihood", model="self")


def test_the_best_judged(fake, row, run):
    grades = {"a": {"j": "0.2", "k": "0.4"}, "b": {"j": "0.9", "k": "hm"}, "c": {"j": "?", "k": "?"}}
    ctx = fake(lambda model, messages, _: grades[messages[0]["content"]][model])
    judges = [{"model": "j", "prompt": "{{ candidate }}"}, {"model": "k", "prompt": "{{ candidate }}"}]
    outcome = pick(run, row, ctx, "a", "b", "c", by="judge", judges=judges, keep=3)
    assert outcome.example.candidates == ("b", "a", "c")
    assert outcome.scores["scores"] == [pytest.approx(0.3), 0.9, None]
    assert outcome.scores["unknown"] == {"2": "unparsable"}


def test_the_most_different(fake, row, run):
    """Farthest-point choice, against the definition on all subsets of numpy vectors."""
    outcome = pick(run, row, fake(vectors=VECTORS), "a", "b", "c", "d", by="diversity", keep=3)
    assert outcome.example.candidates == ("a", "c", "b")
    vectors = np.array([VECTORS[t] for t in "abcd"])
    distance = 1 - vectors @ vectors.T
    assert outcome.scores["scores"] == [
        None,
        pytest.approx(distance[1, 2], abs=1e-5),
        pytest.approx(distance[2, 0], abs=1e-5),
        None,
    ]
    spread = {
        s: min(distance[i, j] for i, j in itertools.combinations(s, 2)) for s in itertools.combinations(range(4), 3)
    }
    assert max(spread, key=spread.get) in [(0, 1, 2), (1, 2, 3)]
    assert outcome.scores["chosen"] == [0, 2, 1]


@pytest.mark.parametrize(
    ("prefer", "order"), [("shortest", ("x", "x y z", "x y z u v")), ("longest", ("x y z u v", "x y z", "x")),
                          ("nearest", ("x y z", "x y z u v", "x"))])  # fmt: skip
def test_by_length(fake, row, run, prefer, order):
    texts = ("x y z u v", "x", "x y z")
    outcome = pick(run, row, fake(), *texts, by="length", prefer=prefer, keep=3)
    assert outcome.example.candidates == order


def test_of_equals_the_earlier_wins_and_keep_may_be_more_than_there_are(fake, row, run):
    outcome = pick(run, row, fake(), "x y", "u v", by="length", keep=9)
    assert (outcome.action, outcome.example.candidates) == ("kept", ("x y", "u v"))


def test_a_row_without_candidates_stays(fake, row, run):
    outcome = run(select, row(response="b"), fake(vectors=VECTORS))
    assert (outcome.action, outcome.example.response, outcome.example.candidates) == ("kept", "b", ())


def test_nothing_to_compare_with(fake, row, run):
    with pytest.raises(RowError, match="empty_reference"):
        run(select, row(answer=" ", response="a"), fake(vectors=VECTORS))


def test_requests_and_notes():
    assert select.requests(select.Params()) == 0
    assert select.requests(select.Params(by="judge", judges=[{"model": "a"}, {"model": "b"}])) == 2
    assert "for each candidate" in select.notes(select.Params(by="likelihood", model="m"))[0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"by": "likelihood"}, 'by: likelihood needs "model"'),
        ({"by": "judge"}, 'by: judge needs "judges"'),
        ({"model": "self"}, '"model" goes with by: likelihood, and this is by: similarity'),
        ({"by": "judge", "judges": []}, "at least 1 item"),
        ({"by": "length", "encoder": "x/y"}, '"encoder" goes with by: similarity or diversity'),
        ({"by": "diversity", "prefer": "longest"}, '"prefer" goes with by: length'),
    ],
)
def test_parameters_that_do_not_go_together(params, message):
    with pytest.raises(ValueError, match=message):
        select.Params(**params)
