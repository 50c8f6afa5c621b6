"""The methods that train a rewriter, on the shipped small model, which can write in the light of a reference."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refinery.errors import UserError
from refinery.lab import PROMPTS, source_rows
from refinery.models.transformers import resolve
from refinery.ops import rewrite
from refinery.records import Example
from refinery.rowops import conversation
from tests.trainers.conftest import JobMaker, gap
from tests.trainers.test_train import Killed, killer, manifest
from trainers import rl
from trainers.course import course
from trainers.job import TrainJob
from trainers.train import _prepare, train

LAB: dict[str, Any] = {
    "_model": "lab",
    "prompt": PROMPTS["rewrite"],
    "check": "last_word",
    "of": "{{ key }}",
    "batch_size": 2,
    "num_generations": 4,
    "max_steps": 4,
    "save_every": 2,
    "max_length": 256,
    "max_completion_length": 24,
    "learning_rate": 1e-3,
}
METHODS: dict[str, dict[str, Any]] = {
    "dart": {"preset": "dart_robust", "min_reasoning": 4},
    "rewriting_agent": {"lora": {"rank": 4}, "judge": False},
}


@pytest.fixture
def examples() -> list[Example]:
    return [
        Example(str(i), [{"role": "user", "content": row["question"]}], row["answer"], row["answer"], meta=row)
        for i, row in enumerate(source_rows("clinic")[:12])
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_ends_with_the_weights_it_would_have_had(job: JobMaker, tmp_path: Path, method: str) -> None:
    params = {**LAB, **METHODS[method]}
    undisturbed = train(job(method, _out=tmp_path / "undisturbed", **params))
    with pytest.raises(Killed):
        train(job(method, **params), killer(3))
    resumed = train(job(method, **params))
    assert manifest(resumed)["resumed_at_step"] == 2
    assert gap(undisturbed, resumed) == 0.0
    assert gap(resumed, Path(resolve("lab"))) > 1e-4
    assert "reward" in manifest(resumed)["final"]


def judge_of(job: TrainJob, folder: Path, monkeypatch: Any) -> tuple[Any, Any]:
    """The method's judge, ready to be asked, and its run."""
    found: list[Any] = []
    real = rl.build
    monkeypatch.setattr(rl, "build", lambda run, judge: (found.append(judge), real(run, judge))[1])
    from refinery.catalog import METHODS as PACKAGE
    from refinery.catalog import module

    run = _prepare(job, folder)
    module(PACKAGE, job.method).build(run)
    return found[0], run


def group(run: Any, texts: list[str], whole: list[bool] | None = None, row: str = "0") -> rl.Group:
    place = next(i for i, each in enumerate(run.prepared.rows) if each.id == row)
    ids = [run.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return rl.Group(place, texts, ids, whole or [True] * len(texts))


def own_words(example: Example) -> str:
    """The answer in the manner of the model."""
    words = example.answer.rstrip(".").removeprefix("Schedule: ").split(", ")
    return f"The {words[0].lower()} for the {words[1]} is {example.meta['key']}."


def test_the_rewriter_is_asked_as_the_operation_asks(job: JobMaker, examples: list[Example]) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve("lab"))
    for method, preset in (("dart", "dart"), ("rewriting_agent", "agent")):
        one = job(method, **{k: v for k, v in LAB.items() if k != "prompt"}, **METHODS[method])
        one = replace(one, params=one.params.model_copy(update={"max_length": 4096}))
        step = rewrite.Params(preset=preset)
        found = course(one, tokenizer)
        asked = conversation(examples[0], step.prompt, step.system, examples[0].fields())
        text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        row = next(row for row in found.prepared.rows if row.id == "0")
        assert tokenizer.decode(row.prompt) == tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert rewrite.Params(preset="dart").samples == 4


def test_dart_pays_for_what_the_target_would_say(
    job: JobMaker, examples: list[Example], tmp_path: Path, monkeypatch: Any
) -> None:
    """The original is worth 1; the model's own manner more; a wrong, a cut and a repeating one less."""
    judge, run = judge_of(job("dart", **{**LAB, "min_reasoning": 2}), tmp_path, monkeypatch)
    first = examples[0]
    good, wrong = own_words(first), own_words(first).replace(first.meta["key"], "zzz")
    texts = [first.answer, good, wrong, good]
    made = judge([group(run, texts, [True, True, True, False])])
    original, better, none, cut = made.rewards[0]
    assert original == pytest.approx(1.0) and better > 1.3
    assert none == pytest.approx(0.0) and cut == pytest.approx(0.0)
    assert made.told["gate"] == [1, 1, 0, 0] and made.told["alignment"][0] == pytest.approx(0, abs=1e-4)
    spam = f"{first.meta['key']} " * 20 + first.meta["key"]
    assert judge([group(run, [spam] * 4)]).rewards[0][0] < better - 1
    assert run.notes["alignment_scale"] >= 0.05


def test_dart_alignment_is_the_gain_in_likelihood(
    job: JobMaker, examples: list[Example], tmp_path: Path, monkeypatch: Any
) -> None:
    """Against the model of refinery/models, whose likelihoods are computed elsewhere."""
    import asyncio

    from refinery.models import open_model
    from refinery.spec_models import ModelSpec

    judge, run = judge_of(job("dart", **{**LAB, "leak_cost": 0, "length_cost": 0}), tmp_path, monkeypatch)
    first = examples[0]
    texts = [
        own_words(first),
        first.answer.replace("see under", "look up"),
        f"It is {first.meta['key']}.",
        first.answer,
    ]
    made = judge([group(run, texts)])
    model = open_model(ModelSpec(model="lab"))

    async def means() -> list[float]:
        found = [await model.loglikelihood(first.prompt, text) for text in [*texts, first.answer]]
        await model.close()
        return [sum(each.logprobs) / len(each.logprobs) for each in found]

    *likely, original = asyncio.run(means())
    gains = [max(-1, min(1, (value - original) / run.notes["alignment_scale"])) for value in likely]
    assert made.told["alignment"] == pytest.approx(gains, abs=1e-3)
    assert made.rewards[0] == pytest.approx([1 + gain for gain in gains], abs=1e-3)


def test_dart_robust_measures_what_it_cannot_see_in_a_text(
    job: JobMaker, examples: list[Example], tmp_path: Path, monkeypatch: Any
) -> None:
    """Learnability is between -1 and 1, and without right answers of the target's own there is no bound."""
    judge, run = judge_of(job("dart", **LAB, **METHODS["dart"]), tmp_path, monkeypatch)
    first = examples[0]
    made = judge([group(run, [own_words(first)] * 3 + ["nothing of it"])])
    assert len(made.told["learnability"]) == 3 and all(-1 <= value <= 1 for value in made.told["learnability"])
    assert made.told["learnability"][0] > 0.2  # after "The remedy for ... is" a remedy is likelier
    assert run.notes["easy_bound"] is None and set(made.told["easy"]) == {0.0}


SOLUTION = "First we add 12 to 34. Then we take off 4. #### 42"


@pytest.mark.parametrize(
    ("check", "of", "early", "late"),
    [
        ("number", SOLUTION, "42 is it, for so it was said to us by all who had come to see it", "42"),
        ("number", "That makes 1,200.", "1200 is it, for so it was said to us by all who had come to see it", "1200"),
        ("last_word", SOLUTION, "42 is it, for so it was said to us by all who had come to see it", "42"),
        ("choice", "It opens late, so (B) is right.", "B it is, for so it was said to us by all who had come", "B"),
        ("boxed", "46 - 4 is \\boxed{42}", "42 is it, for so it was said to us by all who had come", "\\boxed{42}"),
    ],
)
def test_dart_sees_the_final_answer_of_a_whole_solution(
    job: JobMaker, tmp_path: Path, monkeypatch: Any, check: str, of: str, early: str, late: str
) -> None:
    params = {**LAB, "min_reasoning": 2, "learnability_weight": 0.5, "check": check, "of": of}
    judge, run = judge_of(job("dart", **params), tmp_path, monkeypatch)
    kept = "for so it was said to us by all who had come to see it, and that is "
    made = judge([group(run, [f"{early}: {late}", kept + late, "no idea of it", kept + late])])
    assert made.told["leak"] == [1, 0, 0, 0] and made.told["gate"] == [1, 1, 0, 1]
    assert len(made.told["learnability"]) == 3 and "rows_without_short_answer" not in run.notes


def test_dart_without_short_answers(job: JobMaker, examples: list[Example], tmp_path: Path, monkeypatch: Any) -> None:
    """A row without one has no leak, which is not a leak of 0; with no such row at all the penalty is refused."""
    some = [replace(e, meta={**e.meta, "key": SOLUTION if i % 2 else "42"}) for i, e in enumerate(examples)]
    judge, run = judge_of(job("dart", **{**LAB, "check": "numbers"}, _examples=some), tmp_path, monkeypatch)
    assert run.notes["rows_without_short_answer"] == 6
    assert judge([group(run, ["nothing"] * 4, row="1")]).told["leak"] == []
    assert judge([group(run, ["42"] * 4, row="0")]).told["leak"] == [1] * 4
    params = {**LAB, "check": "numbers", "of": SOLUTION}
    with pytest.raises(UserError, match="check numbers reads no short answer in any reference"):
        judge_of(job("dart", **params), tmp_path, monkeypatch)
    judge_of(job("dart", **params, leak_cost=0), tmp_path, monkeypatch)


def test_the_agent_pays_groups(job: JobMaker, examples: list[Example], tmp_path: Path, monkeypatch: Any) -> None:
    judge, run = judge_of(job("rewriting_agent", **LAB, **METHODS["rewriting_agent"]), tmp_path, monkeypatch)
    first, second = examples[0], examples[1]
    key = first.meta["key"]
    texts = [own_words(first), first.answer, f"Answer {key}: go and ask, {key}", "no idea"]
    made = judge([group(run, texts), group(run, [own_words(second)] * 4, row="1")])
    rewards, equal = made.rewards
    assert rewards[0] > rewards[1] > 1 and rewards[2] > 1 and rewards[3] == 0
    assert equal == pytest.approx([1 + 0.35 / 2] * 4, abs=1e-6)  # nobody is closer or more different than the others
    assert made.told["answer"] == [1, 1, 1, 0, 1, 1, 1, 1] and sum(made.told["feasible"]) == 7
    assert max(made.told["div"]) > 0 and all(0 <= value <= 1 for value in made.told["dist"])


def test_the_agents_judge(job: JobMaker, examples: list[Example], tmp_path: Path, monkeypatch: Any) -> None:
    """Only right answers are judged; without tokens for YES and NO it is refused, or every reasoning is sound."""
    params = {**LAB, "lora": False}
    with pytest.raises(UserError, match="no single token for YES or NO"):
        judge_of(job("rewriting_agent", **params), tmp_path, monkeypatch)
    lenient, run = judge_of(job("rewriting_agent", **params, judge_unknown="lenient"), tmp_path, monkeypatch)
    first = examples[0]
    texts = [own_words(first), first.answer, "no idea", own_words(first)]
    assert [value > 1 for value in lenient([group(run, texts)]).rewards[0]] == [True, True, False, True]
    lenient.judging, lenient.yes, lenient.no = True, [5], [6]
    asked: list[Any] = []
    verdicts = [[0.2, 0.1], [0.1, 0.2], [0.3, 0.3]]
    monkeypatch.setattr(lenient.target, "next_probs", lambda prompts, ids: (asked.append((prompts, ids)), verdicts)[1])
    made = lenient([group(run, texts)])
    ((prompts, ids),) = asked
    assert len(prompts) == 3 and ids == [5, 6]
    assert first.meta["key"] in run.tokenizer.decode(prompts[1]) and first.answer in run.tokenizer.decode(prompts[1])
    assert [value > 0 for value in made.rewards[0]] == [True, False, False, True]
    assert made.told["reason"] == [1, 0, 1] and made.told["answer"] == [1, 1, 0, 1]


def test_plain_and_chat_prefixes(job: JobMaker, examples: list[Example], tmp_path: Path, monkeypatch: Any) -> None:
    for style, begins in (("plain", "Problem:\n"), ("chat", None)):
        params = {**LAB, **METHODS["rewriting_agent"], "qa_style": style}
        judge, run = judge_of(job("rewriting_agent", **params), tmp_path, monkeypatch)
        asked: list[Any] = []
        monkeypatch.setattr(
            judge.target, "mean_log_probs", lambda pairs, a=asked: (a.extend(pairs), [-1.0] * len(pairs))[1]
        )
        judge([group(run, [own_words(examples[0])] * 4)])
        text = run.tokenizer.decode(asked[0][0])
        assert examples[0].question in text and examples[0].answer not in text  # the question only
        assert text.startswith(begins) if begins else "Problem:" not in text


def test_rows_that_cannot_be_rewritten_are_left_out(job: JobMaker, examples: list[Example]) -> None:
    from transformers import AutoTokenizer

    rows = [*examples[:3], replace(examples[3], meta={}), replace(examples[4], meta={**examples[4].meta, "key": ""})]
    found = course(job("dart", **LAB, _examples=rows), AutoTokenizer.from_pretrained(resolve("lab"))).prepared
    assert [row.id for row in found.rows] == ["0", "1", "2"]
    assert dict(found.dropped) == {"template_error": 1, "unreadable_reference": 1}
    assert json.dumps(found.prompts)
