import pytest

from refinery.errors import RowError
from refinery.models.base import Reply
from refinery.ops import generate

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "sure": {"type": "number", "maximum": 1}},
          "required": ["city"], "additionalProperties": False}  # fmt: skip


def test_the_question_alone_is_asked_and_no_reference(fake, row, run):
    ctx = fake(lambda model, messages, sample: f"Draw {sample}")
    outcome = run(generate, row(), ctx, samples=3)
    assert [r["messages"] for r in ctx.requests] == [[{"role": "user", "content": "Capital of France?"}]] * 3
    assert (outcome.action, outcome.example.response) == ("changed", "Draw 0")
    assert outcome.example.candidates == ("Draw 0", "Draw 1", "Draw 2")
    assert outcome.scores == {"valid": 3, "refused": {}}
    assert generate.requests(generate.Params(samples=3)) == len(ctx.requests)


def test_nothing_is_banned_where_nothing_is_shown(fake, row, run):
    assert run(generate, row(), fake(lambda *_: "Give me your answer.")).reason == "ok"


def test_a_prompt_and_a_system_of_ones_own(fake, row, run):
    ctx = fake(lambda *_: "x")
    run(generate, row(meta={"tone": "dry"}), ctx, prompt="Hint for {{ question }}", system="Be {{ tone }}.")
    assert [turn["content"] for turn in ctx.requests[0]["messages"]] == ["Be dry.", "Hint for Capital of France?"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (" ", "empty_response"),
        (Reply("Par", "length", 1, 1), "cut_off"),
        ("Paris", "bad_json"),
        ('Sure: {"city": "Paris"}', "bad_json"),
        ('{"city": "Paris",}', "bad_json"),
        ('{"city": "Paris", "city": "Lyon"}', "bad_json"),
        ('{"city": "Paris", "sure": NaN}', "bad_json"),
        ('{"town": "Paris"}', "schema_mismatch"),
        ('{"city": 3}', "schema_mismatch"),
        ('{"city": "Paris", "sure": 2}', "schema_mismatch"),
        ('["Paris"]', "schema_mismatch"),
        (RowError("prompt_too_long"), "prompt_too_long"),
    ],
)
def test_reasons(fake, row, run, reply, reason):
    with pytest.raises(RowError) as error:
        run(generate, row(), fake(lambda *_: reply), json_schema=SCHEMA)
    assert error.value.reason == reason


def test_structured_answers_are_sent_with_their_schema_and_parsed(fake, row, run):
    texts = ['```json\n{"city": "Paris"}\n```', "Paris", '{"city": "Lyon", "sure": 0.2}']
    ctx = fake(lambda model, messages, sample: texts[sample])
    outcome = run(generate, row(), ctx, json_schema=SCHEMA, samples=3)
    assert ctx.requests[0]["schema"] == SCHEMA
    assert outcome.example.candidates == ('{"city": "Paris"}', '{"city": "Lyon", "sure": 0.2}')
    assert outcome.scores == {"valid": 2, "refused": {"bad_json": 1}}


def test_into_a_column_that_later_templates_see(fake, row, run):
    example = row(response="Lutetia", candidates=("Lutetia",), meta={"tone": "dry"})
    outcome = run(generate, example, fake(lambda *_: "Think of the Seine."), into="meta.hint")
    assert (outcome.action, outcome.example.response) == ("kept", "Lutetia")
    assert outcome.detail == "meta.hint: Think of the Seine."
    assert outcome.scores == {"valid": 1, "refused": {}, "into": "meta.hint"}
    assert outcome.example.candidates == ("Lutetia",)
    assert outcome.example.meta == {"tone": "dry", "hint": "Think of the Seine."}
    assert example.meta == {"tone": "dry"}
    ctx = fake(lambda *_: "Paris")
    run(generate, outcome.example, ctx, prompt="{{ hint }} {{ question }}")
    assert ctx.requests[0]["messages"][0]["content"] == "Think of the Seine. Capital of France?"
    assert generate.columns(generate.Params(into="meta.hint")) == ["hint"]
    assert generate.columns(generate.Params()) == []


def test_into_a_column_as_data(fake, row, run):
    answers = fake(lambda model, messages, sample: ['{"city": "Paris"}', "?", '{"city": "Lyon"}'][sample])
    one = run(generate, row(), answers, into="meta.plan", json_schema=SCHEMA)
    assert one.example.meta["plan"] == {"city": "Paris"}
    several = run(generate, row(), answers, into="meta.plan", json_schema=SCHEMA, samples=3)
    assert several.example.meta["plan"] == [{"city": "Paris"}, {"city": "Lyon"}]


def test_a_transient_sample_is_the_rows(fake, row, run):
    late = RowError("timeout", transient=True)
    with pytest.raises(RowError) as error:
        run(generate, row(), fake(lambda model, messages, sample: late if sample else "Paris."), samples=2)
    assert error.value.transient


@pytest.mark.parametrize("into", ["answer", "meta", "meta.", "meta.a b", "meta.answer", "plan"])
def test_places_that_are_none(into):
    with pytest.raises(ValueError, match="into"):
        generate.Params(into=into)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "text"}, "the schema is wrong at /type"),
        ({"$ref": "http://127.0.0.1:9/s.json"}, "only what is inside it"),
    ],
)
def test_schemas_that_are_none(schema, message):
    with pytest.raises(ValueError, match=message):
        generate.Params(json_schema=schema)


def test_later_templates_may_name_the_column(tmp_path):
    from refinery.problems import SpecErrors
    from refinery.spec import load_spec

    text = """
source: {lab: clinic}
graph:
  hinted: {op: generate, from: source, into: meta.hint, prompt: "Hint for {{ question }}"}
  told: {op: generate, from: hinted, prompt: "{{ hint }} {{ question }}"}
  early: {op: generate, from: source, prompt: "{{ hint }}"}
"""
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(SpecErrors) as error:
        load_spec(path)
    (problem,) = error.value.problems
    assert "early" in str(problem) and '"hint"' in str(problem)
