import pytest

from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.ops import demonstrate

DRAWS = ["It is Lyon.", " ", "So it is Paris.", "Surely Nice", "Yes: Paris"]


def by_number(*draws):
    return lambda model, messages, sample: draws[sample % len(draws)]


def test_one_after_another_until_one_is_right(fake, row, run):
    ctx = fake(by_number(*DRAWS))
    outcome = run(demonstrate, row(), ctx)
    assert (outcome.action, outcome.reason, outcome.example.response) == ("changed", "ok", "So it is Paris.")
    assert outcome.scores == {
        "tries": 3, "verdicts": [False, None, True], "refused": {"empty_response": 1}, "winner": 2, "pass_rate": 0.5,
        "check": "last_word",
    }  # fmt: skip
    assert [r["sample"] for r in ctx.requests] == [0, 1, 2]
    assert ctx.requests[0]["messages"] == [{"role": "user", "content": "Capital of France?"}]


def test_all_at_once_gives_the_whole_pass_rate(fake, row, run):
    ctx = fake(by_number(*DRAWS))
    outcome = run(demonstrate, row(), ctx, tries=5, batch=5)
    assert outcome.example.candidates == ("So it is Paris.", "Yes: Paris")
    assert (outcome.scores["tries"], outcome.scores["pass_rate"], outcome.scores["winner"]) == (5, 0.5, 2)
    assert len(ctx.requests) == demonstrate.requests(demonstrate.Params(tries=5, batch=5)) == 5


def test_the_last_batch_is_cut_to_the_tries(fake, row, run):
    ctx = fake(lambda *_: "Lyon")
    outcome = run(demonstrate, row(), ctx, tries=5, batch=3)
    assert [r["sample"] for r in ctx.requests] == [0, 1, 2, 3, 4]
    assert (outcome.action, outcome.reason, outcome.example.response) == ("fell_back", "none_right", "It is Paris.")
    assert outcome.scores["pass_rate"] == 0.0 and outcome.scores["verdicts"] == [False] * 5


def test_show_answer_shows_it_and_refuses_leaks(fake, row, run):
    ctx = fake(by_number("As the known answer says: Paris", "Because of the king, Paris"))
    outcome = run(demonstrate, row(), ctx, show_answer=True)
    assert "It is Paris." in ctx.requests[0]["messages"][0]["content"]
    assert outcome.example.response == "Because of the king, Paris"
    assert outcome.scores["refused"] == {"banned_phrase": 1}
    mine = demonstrate.Params(show_answer=True, prompt="{{ answer }}?", banned=())
    assert (mine.prompt, mine.banned) == ("{{ answer }}?", ())


@pytest.mark.parametrize(
    ("draws", "params", "action", "reason"),
    [
        (["Lyon"], {}, "fell_back", "none_right"),
        (["Lyon"], {"fallback": "drop"}, "dropped", "none_right"),
        (["", "Lyon"], {"on_error": "drop"}, "fell_back", "none_right"),
        ([Reply("Par", "length", 1, 1)], {}, "fell_back", "cut_off"),
        ([""], {"on_error": "drop"}, "dropped", "empty_response"),
        ([RowError("prompt_too_long", "9 tokens")], {}, "fell_back", "prompt_too_long"),
    ],
)
def test_reasons(fake, row, run, draws, params, action, reason):
    outcome = run(demonstrate, row(), fake(by_number(*draws)), tries=2, **params)
    assert (outcome.action, outcome.reason, outcome.scores["tries"]) == (action, reason, 2)
    unusable = all(verdict is None for verdict in outcome.scores["verdicts"])
    assert outcome.scores["pass_rate"] == (None if unusable else 0.0)


def test_a_column_holds_the_bare_answer(fake, row, run):
    example = row(answer="7 and 5 are 12, so 12.", meta={"key": 12})
    outcome = run(demonstrate, example, fake(by_number("7 + 5 = 13", "It is 12.0")), check="number", of="{{ key }}")
    assert outcome.scores["winner"] == 1
    with pytest.raises(RowError, match="unreadable_reference"):
        run(demonstrate, row(), fake(), check="number")


def test_a_transient_try_is_the_rows(fake, row, run):
    with pytest.raises(RowError) as error:
        run(demonstrate, row(), fake(by_number("Lyon", RowError("timeout", transient=True))))
    assert error.value.transient


def test_mathematics_is_compared_as_such_and_what_cannot_be_told_is_unknown(fake, row, run, monkeypatch):
    example = row(answer="$\\frac{1}{2}$")
    outcome = run(demonstrate, example, fake(by_number("$0.25$", "So $x = 0.5$")), check="math")
    assert outcome.scores["verdicts"] == [False, True]
    from refinery import rowops
    from refinery.checks import Finding

    monkeypatch.setattr(rowops, "compare", lambda *_: Finding(None, unknown="timed_out"))
    outcome = run(demonstrate, example, fake(by_number("$0.5$")), check="math", tries=2)
    assert (outcome.reason, outcome.scores["verdicts"]) == ("unknown_verdict", [None, None])
