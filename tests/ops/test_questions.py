import asyncio
import json
from collections import Counter

import pytest

from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.ops import questions
from tests.ops.tables import Rows, Seeded, apply, example


class Answering(Seeded):
    """Replies by a function of the prompt; every request is kept."""

    def __init__(self, reply):
        super().__init__()
        self.reply, self.requests = reply, []

    async def ask(self, model, messages, *, schema=None, **sampling):
        self.requests.append({"model": model, "prompt": messages[0]["content"], "schema": schema, **sampling})
        await asyncio.sleep(0)
        reply = self.reply(messages[0]["content"])
        if isinstance(reply, RowError):
            raise reply
        return reply if isinstance(reply, Reply) else Reply(reply, "stop", 5, 5)

    async def map(self, function, items):
        async def one(item):
            try:
                return await function(item)
            except RowError as error:
                return error

        return await asyncio.gather(*(one(item) for item in items))


def as_json(*pairs):
    return json.dumps({"pairs": [{"question": q, "answer": a} for q, a in pairs]})


ARTICLE = example("art", meta={"text": "Copper conducts. Glass does not.", "shelf": 3})
TWO = as_json(("What conducts?", "Copper conducts."), ("Does glass conduct?", "No, glass does not."))


def test_pairs_become_rows_behind_their_article():
    ctx = Answering(lambda prompt: TWO if "one fact" in prompt else as_json(("Which is safer to touch?", "Glass.")))
    outcomes = apply(questions, Rows("articles", [ARTICLE]), ctx=ctx, n=2)
    article, *made = outcomes
    assert (article.action, article.reason) == ("dropped", "expanded")
    assert article.scores["kinds"] == {
        "direct": {"form": "json", "pairs": 2, "repeated": 0, "empty": 0},
        "indirect": {"form": "json", "pairs": 1, "repeated": 0, "empty": 0},
    }
    first = made[0].example
    assert (first.question, first.answer, first.response) == ("What conducts?", "Copper conducts.", "Copper conducts.")
    assert (first.parents, first.split) == (("art",), "train")
    assert [row.example.meta["kind"] for row in made] == ["direct", "direct", "indirect"]
    assert first.meta["shelf"] == 3
    assert {r["schema"] is questions.SCHEMA for r in ctx.requests} == {True}
    assert all("Copper conducts. Glass does not." in r["prompt"] and "Write 2 questions" in r["prompt"]
               for r in ctx.requests)  # fmt: skip


def test_the_same_replies_give_the_same_rows():
    ids = [[o.example_id for o in apply(questions, Rows("a", [ARTICLE]), ctx=Answering(lambda _: TWO))] for _ in "ab"]
    assert ids[0] == ids[1]


def test_articles_can_stay_and_a_row_without_text_gives_its_answer():
    row = example("plain", "A title", "The body of it.")
    ctx = Answering(lambda _: TWO)
    outcomes = apply(questions, Rows("a", [row]), ctx=ctx, keep_articles=True, kinds=["direct"])
    assert [(o.action, o.reason) for o in outcomes] == [("kept", "expanded"), ("created", "ok"), ("created", "ok")]
    assert "The body of it." in ctx.requests[0]["prompt"]


def test_a_reply_that_is_no_json_is_asked_for_in_lines():
    def reply(prompt):
        return "Q: What conducts?\nA: Copper." if "two lines" in prompt else "Sure! Here are the pairs: {"

    ctx = Answering(reply)
    outcomes = apply(questions, Rows("a", [ARTICLE]), ctx=ctx, kinds=["direct"])
    assert outcomes[0].scores["kinds"]["direct"]["form"] == "lines"
    assert outcomes[1].example.question == "What conducts?"
    assert [r["schema"] is None for r in ctx.requests] == [False, True]
    ctx = Answering(reply)
    apply(questions, Rows("a", [ARTICLE]), ctx=ctx, kinds=["direct"], form="lines")
    assert len(ctx.requests) == 1


def test_near_equal_and_empty_questions_of_one_article_go():
    pairs = [("What does copper conduct?", "Heat."), ("what does copper conduct", "Electricity."), (" ", "x"),
             ("Is glass clear?", "")]  # fmt: skip
    outcomes = apply(questions, Rows("a", [ARTICLE]), ctx=Answering(lambda _: as_json(*pairs)), kinds=["direct"], n=5)
    assert outcomes[0].scores["kinds"]["direct"] == {"form": "json", "pairs": 1, "repeated": 1, "empty": 2}
    assert [o.example.answer for o in outcomes[1:]] == ["Heat."]
    other = example("other", meta={"text": "The same, elsewhere."})
    both = apply(questions, Rows("a", [ARTICLE, other]), ctx=Answering(lambda _: TWO), kinds=["direct"])
    assert Counter(o.action for o in both) == {"dropped": 2, "created": 4}


def test_more_pairs_than_asked_for_are_left_out():
    many = as_json(*((f"Number {i} of what?", "x") for i in range(9)))
    outcomes = apply(questions, Rows("a", [ARTICLE]), ctx=Answering(lambda _: many), kinds=["direct"], max_overlap=1)
    assert Counter(o.action for o in outcomes) == {"dropped": 1, "created": 3}


def test_failures_are_the_articles():
    rows = [ARTICLE, example("busy", meta={"text": "BUSY"}), example("long", meta={"text": "LONG"}),
            example("odd", meta={"text": "ODD"}), example("empty", answer=" ", meta={"text": ""})]  # fmt: skip

    def reply(prompt):
        if "BUSY" in prompt:
            return RowError("server_error", transient=True)
        return RowError("prompt_too_long") if "LONG" in prompt else "What?" if "ODD" in prompt else TWO

    outcomes = apply(questions, Rows("a", rows), ctx=Answering(reply), kinds=["direct"])
    found = {o.example_id: (o.action, o.reason, o.transient) for o in outcomes if o.action != "created"}
    assert found == {
        "art": ("dropped", "expanded", False),
        "busy": ("dropped", "server_error", True),
        "long": ("dropped", "prompt_too_long", False),
        "odd": ("dropped", "unreadable_reply", False),
        "empty": ("dropped", "empty_article", False),
    }
    kept = apply(questions, Rows("a", rows), ctx=Answering(reply), kinds=["direct"], keep_articles=True)
    kinds = {o.example_id: (o.action, o.transient) for o in kept if o.action != "created"}
    assert kinds["long"] == ("kept", False)
    assert kinds["busy"] == ("dropped", True)


def test_one_kind_may_fail_and_a_transient_failure_gives_no_half_article():
    def reply(prompt):
        return TWO if "one fact" in prompt else RowError("prompt_too_long")

    outcomes = apply(questions, Rows("a", [ARTICLE]), ctx=Answering(reply))
    assert outcomes[0].scores["kinds"]["indirect"] == {"failed": "prompt_too_long"}
    assert len(outcomes) == 3
    busy = Answering(lambda p: TWO if "one fact" in p else RowError("timeout", transient=True))
    assert [(o.reason, o.transient) for o in apply(questions, Rows("a", [ARTICLE]), ctx=busy)] == [("timeout", True)]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Q: One?\nA: Yes.\n\nQ: Two?\nA: No,\nnot at all.", [("One?", "Yes."), ("Two?", "No,\nnot at all.")]),
        ("1. Q: One?\n   A: Yes.\n2. Q: Two?\n   A: No.", [("One?", "Yes."), ("Two?", "No.")]),
        ("**Question 1:** One?\n**Answer 1:** Yes.", [("One?", "Yes.")]),
        ("Here you are:\nQ1: One?\nA1: It has a Q: in it.", [("One?", "It has a Q: in it.")]),
        ("Q: One?\nQ: Two?\nA: No.\nA: Again no.", [("Two?", "No.")]),
        ("Q: سؤال؟\nA: جواب {{ x }} \"quoted\"", [("سؤال؟", 'جواب {{ x }} "quoted"')]),
        ("No pairs here, and Answers: none", None),
        ("", None),
    ],
)  # fmt: skip
def test_lines(text, pairs):
    assert questions.from_lines(Reply(text, "stop", 1, 1)) == pairs


def test_a_reply_that_was_cut_off_loses_its_last_pair():
    text = "Q: One?\nA: Yes.\nQ: Two?\nA: It is b"
    assert questions.from_lines(Reply(text, "length", 1, 1)) == [("One?", "Yes.")]
    assert questions.from_lines(Reply("Q: One?\nA: Yes.\nQ: Tw", "length", 1, 1)) == [("One?", "Yes.")]
    assert questions.from_lines(Reply("Q: One?\nA: Ye", "length", 1, 1)) is None


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (as_json(("a", "b")), [("a", "b")]),
        ('```json\n[{"question": "a", "answer": "b"}]\n```', [("a", "b")]),
        ('{"pairs": [{"question": "a", "answer": "b"},]}', None),
        ('{"pairs": [{"question": "a"}]}', None),
        ('{"pairs": [{"question": "a", "answer": 3}]}', None),
        ('{"pairs": {"question": "a", "answer": "b"}}', None),
        ('"pairs"', None),
        ("{}", None),
    ],
)
def test_json_is_read_strictly(text, pairs):
    assert questions.from_json(text) == pairs


def test_requests():
    assert questions.requests(questions.Params()) == 4
    assert questions.requests(questions.Params(kinds=["direct"], form="lines")) == 1


def test_a_pair_that_comes_twice_is_one_row_even_where_everything_may_overlap():
    pair = ("Who is it?", "Anna")
    (article, first, second) = apply(
        questions,
        Rows("texts", [example("a", answer="Anna is here. Anna is there.")]),
        ctx=Answering(lambda _: as_json(pair, pair, ("Who is it?", "Anna of course"))),
        kinds=["direct"],
        max_overlap=1,
    )
    assert [row.example.answer for row in (first, second)] == ["Anna", "Anna of course"]
    assert article.scores["kinds"]["direct"]["repeated"] == 1
