import pytest

from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.ops import rewrite


def test_first_usable_sample_wins_and_all_usable_are_candidates(fake, row, run):
    ctx = fake(lambda model, messages, sample: ["", "  Paris it is. ", "See the reference answer.", "Paris."][sample])
    outcome = run(rewrite, row(), ctx, samples=4)
    assert (outcome.action, outcome.reason, outcome.example.response) == ("changed", "ok", "Paris it is.")
    assert outcome.example.candidates == ("Paris it is.", "Paris.")
    assert outcome.scores == {"valid": 2, "refused": {"empty_response": 1, "banned_phrase": 1}}
    assert sorted(r["sample"] for r in ctx.requests) == [0, 1, 2, 3]


def test_defaults_are_the_papers(fake, row, run):
    ctx = fake(lambda *_: "Paris.")
    run(rewrite, row(), ctx)
    (request,) = ctx.requests
    assert (request["temperature"], request["top_p"], request["max_tokens"], request["model"]) == (
        0.7,
        0.9,
        1024,
        "self",
    )
    (turn,) = request["messages"]
    assert "Capital of France?" in turn["content"] and "It is Paris." in turn["content"]


def test_same_text_is_kept(fake, row, run):
    assert run(rewrite, row(), fake(lambda *_: "It is Paris.")).action == "kept"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("  \n", "empty_response"),
        (Reply("Paris is", "length", 5, 8), "cut_off"),
        ("As the Known\n  Answer says, Paris.", "banned_phrase"),
        (RowError("prompt_too_long", "900 tokens"), "prompt_too_long"),
        (RowError("server_error", "500", transient=True), "server_error"),
    ],
)
def test_no_usable_sample_raises_the_first_failure(fake, row, run, reply, reason):
    with pytest.raises(RowError) as error:
        run(rewrite, row(), fake(lambda *_: reply), samples=2)
    assert error.value.reason == reason


def test_a_transient_sample_fails_the_row_though_others_are_usable(fake, row, run):
    """Else the row's result would depend on the server's day."""
    late = RowError("timeout", transient=True)
    with pytest.raises(RowError, match="timeout") as error:
        run(rewrite, row(), fake(lambda model, messages, sample: late if sample else "Paris."), samples=2)
    assert error.value.transient


def test_a_phrase_of_the_question_or_reference_is_no_leak(fake, row, run):
    subject = row(answer="Please sign where it says your response.")
    assert run(rewrite, subject, fake(lambda *_: "Sign at 'Your response'.")).reason == "ok"
    with pytest.raises(RowError, match="banned_phrase"):
        run(rewrite, row(), fake(lambda *_: "Sign at 'Your response'."))
    assert run(rewrite, row(), fake(lambda *_: "Bring your responses.")).reason == "ok"


def test_earlier_turns_stay_and_systems_join(fake, row, run):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Capital of France?"},
    ]
    example = row()
    example = type(example)(example.id, turns, example.answer, example.response, meta={"tone": "dry"})
    ctx = fake(lambda *_: "Paris.")
    run(rewrite, example, ctx, prompt="{{ question }} Hint: {{ answer }}", system="Tone: {{ tone }}")
    assert ctx.requests[0]["messages"] == [
        {"role": "system", "content": "Be brief.\n\nTone: dry"},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Capital of France? Hint: It is Paris."},
    ]
    assert example.prompt == turns


def test_missing_column_is_the_rows_failure(fake, row, run):
    with pytest.raises(RowError, match="template_error"):
        run(rewrite, row(), fake(lambda *_: "x"), prompt="{{ nothing }}")


def sent(fake, row, run, **params):
    """The request of one row under a preset."""
    ctx = fake(lambda *_: "Paris.")
    run(rewrite, row(), ctx, **params)
    assert len(ctx.requests) == rewrite.Params(**params).samples
    return ctx.requests[0]


@pytest.mark.parametrize("preset", [name for name in rewrite.PRESETS if name != "raft"])
def test_every_preset_shows_question_and_reference(fake, row, run, preset):
    request = sent(fake, row, run, preset=preset)
    (asked,) = [turn["content"] for turn in request["messages"] if turn["role"] == "user"]
    assert "Capital of France?" in asked and "It is Paris." in asked
    sampling = {"agent": (0.0, 1.0), "dart": (0.7, 1.0)}.get(preset, (0.7, 0.9))
    assert (request["temperature"], request["top_p"]) == sampling


def test_the_presets_are_all_in_the_parameters_type():
    choices = rewrite.Params.model_json_schema()["properties"]["preset"]["enum"]
    assert choices == list(rewrite.PRESETS)


def test_what_is_written_wins_over_the_preset(fake, row, run):
    request = sent(fake, row, run, preset="agent", temperature=0.3, prompt="{{ answer }} again")
    assert (request["temperature"], request["top_p"]) == (0.3, 1.0)
    assert request["messages"] == [{"role": "user", "content": "It is Paris. again"}]
    assert rewrite.Params(preset="sdft2024_gsm8k", prefill=None, banned=()).prefill is None


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="sdft2024_using"):
        rewrite.Params(preset="sdft")
    with pytest.raises(ValueError, match="preset"):
        rewrite.Params(preset=["agent"])


def test_first_words_are_given_and_belong_to_the_text(fake, row, run):
    ctx = fake(lambda *_: " It follows that it is Paris. \n")
    outcome = run(rewrite, row(), ctx, preset="sdft2024_gsm8k")
    system, user, turn = ctx.requests[0]["messages"]
    assert (system["role"], user["role"], turn["role"]) == ("system", "user", "assistant")
    assert outcome.example.response == f"{turn['content']} It follows that it is Paris."


def test_first_words_are_a_template(fake, row, run):
    ctx = fake(lambda *_: "is Paris.")
    outcome = run(rewrite, row(meta={"begin": "The capital "}), ctx, prefill="{{ begin }}")
    assert outcome.example.response == "The capital is Paris."


def test_first_words_alone_are_no_answer(fake, row, run):
    with pytest.raises(RowError, match="empty_response"):
        run(rewrite, row(), fake(lambda *_: "  "), preset="sdft2024_gsm8k")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("By the REFERENCE  answer, Paris.", "reference answer"),
        ("This is my response: Paris.", "my response"),
        ("Paris. Now it's your turn!", "now it's your turn"),
        ("Your turn: what is the capital?", "your turn"),
        ('  "Your turn", he said.', "your turn"),
        ("It is your turn to pay in Paris.", None),
        ("Your turning point is Paris.", None),
        ("Paris is the answer.", None),
    ],
)
def test_acceptance_of_sdft(fake, row, run, text, phrase):
    if phrase is None:
        assert run(rewrite, row(), fake(lambda *_: text), preset="sdft2024_using").example.response == text
    else:
        with pytest.raises(RowError, match=f"banned_phrase: {phrase}"):
            run(rewrite, row(), fake(lambda *_: text), preset="sdft2024_using")


def test_notes():
    assert rewrite.notes(rewrite.Params()) == []
    assert "same text" in rewrite.notes(rewrite.Params(preset="agent", samples=3))[0]
