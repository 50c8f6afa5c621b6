import pytest

from refinery.errors import RowError
from refinery.ops import self_first

PROMPTS = {
    "prompt": "own {{ question }}",
    "guided_prompt": "guided {{ answer }}",
    "paraphrase_prompt": "say {{ answer }}",
}


def staged(own="Lyon", guided="Lyon", paraphrase="Lyon", grade="0"):
    """Texts by stage, each one text or a list by sample; grades by text from a model called judge."""
    texts = {"own": own, "guided": guided, "say": paraphrase}

    def answer(model, messages, sample):
        if model == "judge":
            return grade(messages[0]["content"]) if callable(grade) else grade
        found = texts[messages[0]["content"].split()[0]]
        return found[sample] if isinstance(found, list) else found

    return answer


@pytest.mark.parametrize(
    ("preset", "answers", "stage", "response", "asked"),
    [
        ("s3ft", {"own": "Paris"}, "self", "Paris", 1),
        ("s3ft", {"paraphrase": "Why, Paris"}, "paraphrase", "Why, Paris", 2),
        ("s3ft", {"guided": "Paris"}, None, "It is Paris.", 2),
        ("mind_the_gap", {"own": ["Lyon", "Nice", "Oh, Paris", "Paris"]}, "self", "Oh, Paris", 4),
        ("mind_the_gap", {"guided": ["Lyon", "Nice", "Metz", "Yes, Paris"]}, "guided", "Yes, Paris", 8),
        ("mind_the_gap", {"paraphrase": "Paris"}, None, "It is Paris.", 8),
        ("selective_self_rehearsal", {"own": "Paris"}, "self", "Paris", 1),
        ("selective_self_rehearsal", {"guided": "Paris", "paraphrase": "Paris"}, None, "It is Paris.", 1),
    ],
)
def test_presets_try_their_stages_in_order(fake, row, run, preset, answers, stage, response, asked):
    ctx = fake(staged(**answers))
    outcome = run(self_first, row(), ctx, preset=preset, **PROMPTS)
    assert (outcome.reason, outcome.example.response) == (stage or "none_accepted", response)
    assert outcome.action == ("fell_back" if stage is None else "changed")
    assert outcome.scores["stage"] == stage
    assert len(ctx.requests) == asked <= self_first.requests(self_first.Params(preset=preset))
    reached = [entry["stage"] for entry in outcome.scores["stages"]]
    assert reached == list(self_first.PRESETS[preset]["stages"])[: len(reached)]


def test_the_bound_is_met_where_nothing_is_accepted(fake, row, run):
    """With a judge every text costs two requests."""
    params = {"stages": ["self", "guided", "paraphrase"], "samples": 2, "judge": {"model": "judge"}}
    ctx = fake(staged())
    assert run(self_first, row(), ctx, **params, **PROMPTS).reason == "none_accepted"
    assert len(ctx.requests) == self_first.requests(self_first.Params(**params)) == 12


def test_only_the_later_stages_see_the_reference(fake, row, run):
    ctx = fake(lambda *_: "Lyon")
    run(self_first, row(), ctx, stages=["self", "guided", "paraphrase"])
    own, guided, paraphrase = (request["messages"][0]["content"] for request in ctx.requests)
    assert own == "Capital of France?"
    assert "It is Paris." in guided and "It is Paris." in paraphrase and guided != paraphrase


def test_scores_say_what_happened_in_every_stage(fake, row, run):
    ctx = fake(staged(own=["Lyon", ""], guided=["The known answer is Paris", "Hence Paris"]))
    outcome = run(self_first, row(), ctx, preset="mind_the_gap", samples=2, **PROMPTS)
    assert outcome.scores == {
        "stage": "guided",
        "winner": 1,
        "stages": [
            {"stage": "self", "accepted": [False, None], "unknown": {"1": "empty_response"}},
            {"stage": "guided", "accepted": [None, True], "unknown": {"0": "banned_phrase"}},
        ],
    }
    assert outcome.example.candidates == ("Hence Paris",)


def test_phrases_are_free_where_nothing_was_shown(fake, row, run):
    outcome = run(self_first, row(), fake(staged(own="Your answer is Paris")), **PROMPTS)
    assert outcome.reason == "self"


def test_a_judge_accepts_instead_of_the_check(fake, row, run):
    grade = lambda prompt: "0.9" if "Lyon" in prompt else "hm" if "Nice" in prompt else "0.2"  # noqa: E731
    ctx = fake(staged(own=["Paris", "Nice", "Lyon"], grade=grade))
    outcome = run(self_first, row(), ctx, samples=3, judge={"model": "judge"}, min_score=0.9, **PROMPTS)
    assert (outcome.reason, outcome.example.response) == ("self", "Lyon")
    (entry,) = outcome.scores["stages"]
    assert entry == {
        "stage": "self", "accepted": [False, None, True], "grades": [0.2, None, 0.9], "unknown": {"1": "unparsable"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("answers", "params", "action", "reason"),
    [
        ({}, {}, "fell_back", "none_accepted"),
        ({}, {"fallback": "drop"}, "dropped", "none_accepted"),
        ({"own": " ", "paraphrase": " "}, {}, "fell_back", "empty_response"),
        ({"own": " ", "paraphrase": " "}, {"on_error": "drop"}, "dropped", "empty_response"),
        ({"grade": "good"}, {"judge": {"model": "judge"}}, "fell_back", "no_judge_score"),
        ({"grade": RowError("prompt_too_long")}, {"judge": {"model": "judge"}}, "fell_back", "prompt_too_long"),
    ],
)
def test_reasons(fake, row, run, answers, params, action, reason):
    outcome = run(self_first, row(), fake(staged(**answers)), **params, **PROMPTS)
    assert (outcome.action, outcome.reason) == (action, reason)


@pytest.mark.parametrize("where", ["own", "grade"])
def test_a_transient_failure_is_the_rows(fake, row, run, where):
    busy = RowError("server_error", transient=True)
    with pytest.raises(RowError) as error:
        run(self_first, row(), fake(staged(**{where: busy})), judge={"model": "judge"}, **PROMPTS)
    assert error.value.transient


def test_mistakes_and_notes(fake, row, run):
    with pytest.raises(ValueError, match="twice"):
        self_first.Params(stages=["self", "self"])
    with pytest.raises(RowError, match="unreadable_reference"):
        run(self_first, row(), fake(), check="number")
    notes = self_first.notes(self_first.Params(preset="mind_the_gap", judge={"model": "self"}))
    assert notes[0] == "tries self, then guided, then the reference" and "judges its own" in notes[1]
