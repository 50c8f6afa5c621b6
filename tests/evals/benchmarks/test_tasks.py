"""Benchmarks that lm-eval has not got, and what a spec may ask of all of them: own files, judges, several answers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evals import harness, offline, subjects
from evals.benchmarks import dialogue, ifeval, knowledge
from evals.scorers.passk import pass_at_k
from refinery import catalog
from refinery.errors import UserError
from refinery.spec_models import EvaluateSpec, OwnBenchmark
from refinery.store import Store
from tests.evals.benchmark_files import GOLD, IFEVAL, make
from tests.tiny import tiny_model

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.duckdb")


class Oracle:
    """Answers with `write(prompt, how many times it was asked this before)`, likes `likely(prompt, continuation)`."""

    tokenizer_name = "oracle"

    def __init__(self) -> None:
        self.write: Callable[[str, int], str] = lambda prompt, times: ""
        self.likely: Callable[[str, str], float] = lambda prompt, text: 0.0
        self.seen: list[str] = []
        self.options: list[dict[str, Any]] = []


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Any:
    from lm_eval.api.model import LM

    class Model(Oracle, LM):
        def __init__(self) -> None:
            LM.__init__(self)
            Oracle.__init__(self)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            answers = []
            for request in requests:
                answers.append(self.write(request.args[0], self.seen.count(request.args[0])))
                self.seen.append(request.args[0])
                self.options.append(request.args[1])
            return answers

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            self.seen += [request.args[0] for request in requests]
            return [(self.likely(*request.args), False) for request in requests]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            raise NotImplementedError

        def apply_chat_template(self, chat: list[dict], add_generation_prompt: bool = True) -> str:
            return "".join(f"<{turn['role']}>{turn['content']}" for turn in chat)

    model = Model()
    monkeypatch.setattr(subjects.Weights, "lm", property(lambda self: model))
    monkeypatch.setattr(subjects.Weights, "context", 4096)
    return model


def run(store: Store, *names: str, settings: EvaluateSpec, **more: Any) -> dict[str, dict[str, float]]:
    """Benchmark to metric to value."""
    found: dict[str, dict[str, float]] = {}
    for score in harness.evaluate("ckpt", str(tiny_model()), names, settings, store=store, **more):
        found.setdefault(score.benchmark, {})[score.metric] = score.value
    return found


class Judge:
    """Replies as it is told; knows what it was asked."""

    identity = "judge"

    def __init__(self, reply: Callable[[str], str | None]):
        self.reply, self.asked = reply, []  # type: ignore[var-annotated]

    def __call__(self, asked: Sequence[Sequence[dict[str, str]]]) -> list[str | None]:
        self.asked += [messages[-1]["content"] for messages in asked]
        return [self.reply(messages[-1]["content"]) for messages in asked]


# Own scorers through the harness


def test_science_asks_with_its_system_prompt_and_wants_the_form(data: Path, store: Store, oracle: Any) -> None:
    answers = {i: "ABCD"[i % 4] for i in range(8)}
    number = lambda prompt: int(prompt.split("flask ")[1].split("?")[0])  # noqa: E731
    oracle.write = lambda prompt, _: (
        f"<answer>{answers[number(prompt)]}</answer>" if number(prompt) < 4 else f"It is {answers[number(prompt)]}."
    )
    found = run(store, "sciknoweval_chemistry", settings=EvaluateSpec(data=str(data)))
    assert found["sciknoweval_chemistry"] == {"acc": 0.5, "acc_any_form": 1.0, "in_form": 0.5}
    assert oracle.seen[0].startswith("<system>Give your reasons in <reasoning>, then the letter")


def test_tool_calls(data: Path, store: Store, oracle: Any) -> None:
    oracle.write = lambda prompt, _: (
        'Action: move\nAction Input: {"to": {"shelf": [1, 2], "room": 3}, "thing": "lamp"}'
        if "room 3" in prompt
        else 'find(thing="kettle")\nfind(thing="lamp")'
        if "kettle?" in prompt
        else "shelf.put(thing='lamp', row=0, labels=['a'])"
    )
    found = run(store, "toolalpaca_simulated", "openfunctions", settings=EvaluateSpec(data=str(data)))
    assert found["toolalpaca_simulated"] == {"acc": 0.5, "acc_similar": 1.0, "functions": 1.0}
    assert found["openfunctions"]["acc"] == pytest.approx(1 / 6) and found["openfunctions"]["functions"] == 1
    assert not any("Good morning" in prompt for prompt in oracle.seen)  # no call is its reference
    assert all(s.item.startswith("Stores/") for s in store.samples(benchmark="toolalpaca_simulated"))  # a cluster each


@pytest.mark.parametrize("prompt", range(len(IFEVAL)))
def test_ifeval_accepts_what_follows(prompt: int, data: Path, store: Store, oracle: Any) -> None:
    answers = {text: answer for text, _, _, answer in IFEVAL}
    wrong = IFEVAL[prompt][0]
    oracle.write = lambda asked, _: "" if wrong in asked else next(a for text, a in answers.items() if text in asked)
    found = run(store, "ifeval", settings=EvaluateSpec(data=str(data)))["ifeval"]
    assert found["prompt_level_strict_acc"] == 1 - 1 / len(IFEVAL)
    assert all(seen.startswith("<user>") for seen in oracle.seen)


def test_ifeval_says_how_it_counts_sentences(data: Path) -> None:
    task = ifeval.task("ifeval", settings=EvaluateSpec(data=str(data)))
    assert task["metadata"]["sentences"] == offline.sentences() in ("punkt", "rule")


def test_nothing_is_downloaded_or_said(data: Path, store: Store, oracle: Any, capfd: Any, monkeypatch: Any) -> None:
    import nltk

    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("downloads"))
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("connects"))
    run(store, "ifeval", "humaneval", "hellaswag", settings=EvaluateSpec(data=str(data), run_code=True))
    assert capfd.readouterr() == ("", "")


# Several answers


def test_pass_at_k_of_humaneval(data: Path, store: Store, oracle: Any) -> None:
    """Of eight programs for each problem, those with an even number are right for `double`, and none for others."""
    oracle.write = lambda prompt, times: "    return 2 * n\n" if "def double" in prompt and times % 2 == 0 else "    x"
    settings = EvaluateSpec(data=str(data), run_code=True, samples={"humaneval": 8})
    found = run(store, "humaneval", settings=settings)["humaneval"]
    for k in (1, 2, 4, 8):
        assert found[f"pass@{k},create_test"] == pytest.approx(pass_at_k(8, 4, k) / 4)
    assert oracle.options[0]["temperature"] == 1.0 and oracle.options[0]["do_sample"] and oracle.options[0]["until"]


def test_pass_at_k_of_written_answers(data: Path, store: Store, oracle: Any) -> None:
    right = lambda prompt: "ABCD"[int(prompt.split("flask ")[1].split("?")[0]) % 4]  # noqa: E731
    oracle.write = lambda prompt, times: f"<answer>{right(prompt) if times < 3 else 'E'}</answer>"
    settings = EvaluateSpec(data=str(data), samples={"sciknoweval_chemistry": 8})
    found = run(store, "sciknoweval_chemistry", settings=settings)["sciknoweval_chemistry"]
    assert found["acc"] == pytest.approx(3 / 8) == found["pass@1"]
    assert found["pass@4"] == pytest.approx(pass_at_k(8, 3, 4)) and found["pass@8"] == 1.0


# Judges


def test_knowledge_is_graded_strictly_and_leniently(data: Path, store: Store, oracle: Any) -> None:
    grades = {"Four metres.": "correct", "In 2031.": "partly_correct", "No, the bridge": "incorrect"}
    people = {"4 m": "correct", "Some metres.": "partly_correct", "Nine metres.": "correct"}

    def reply(asked: str) -> str:
        known = {**people, **{f"Reference answer:\n{key}": grade for key, grade in grades.items()}}
        return json.dumps({"grade": next(grade for text, grade in known.items() if text in asked)})

    judge = Judge(reply)
    oracle.write = lambda prompt, _: "I think so."
    names = ("knowledge_direct", "knowledge_indirect", "knowledge_oracle")
    found = run(store, *names, settings=EvaluateSpec(data=str(data)), judge=judge)
    assert found["knowledge_direct"] == {"strict": 0.5, "lenient": 1.0, "ungraded": 0.0}
    assert found["knowledge_indirect"] == {"strict": 0.0, "lenient": 0.0, "ungraded": 0.0}
    assert found["knowledge_oracle"]["strict"] == pytest.approx(1 / 3)
    assert sum("Northmoor flood of 2031 rose" in prompt for prompt in oracle.seen) == 3  # the oracle's prompts alone
    assert not any("Northmoor flood of 2031 rose" in asked for asked in judge.asked)
    settings = store.scores(checkpoint="ckpt")[0].settings
    assert settings["judge_agreement"]["n"] == len(GOLD)
    assert settings["judge_agreement"]["accuracy"] == pytest.approx(2 / 3)


def test_what_a_judge_does_not_say_is_unknown(data: Path, store: Store, oracle: Any) -> None:
    judge = Judge(lambda asked: '{"grade": "correct"}' if "Four metres" in asked else None if "2031" in asked else "?")
    scores = harness.evaluate(
        "ckpt", str(tiny_model()), ["knowledge_direct"], EvaluateSpec(data=str(data)), store=store, judge=judge
    )
    by_metric = {score.metric: score for score in scores}
    assert (by_metric["strict"].value, by_metric["strict"].n) == (1.0, 1)
    assert (by_metric["ungraded"].value, by_metric["ungraded"].n) == (0.5, 2)
    assert not by_metric["ungraded"].higher_is_better
    kept = {metric: [s.value for s in store.samples() if s.metric == metric] for metric in ("strict", "ungraded")}
    assert (kept["strict"], sorted(kept["ungraded"])) == ([1.0], [0.0, 1.0]), "what tells no grade from no question"


def test_another_judge_is_another_fingerprint(data: Path, store: Store, oracle: Any) -> None:
    one, two = Judge(lambda _: "correct"), Judge(lambda _: "correct")
    two.identity = "another"
    prints = set()
    for judge in (one, two, one):
        (score, *_) = harness.evaluate(
            "ckpt", str(tiny_model()), ["knowledge_direct"], EvaluateSpec(data=str(data)), store=store, judge=judge
        )
        prints.add(score.fingerprint)
    assert len(prints) == 2


def test_dialogue_is_frozen_whatever_order_the_file_has(data: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": str(i)}, {"role": "assistant", "content": f"a{i}"}]}
        for i in range(20)
    ]
    chosen = dialogue.frozen(rows, 5)
    assert chosen == dialogue.frozen([*reversed(rows), rows[0]], 5) and len(chosen) == 5
    assert {chat[0]["content"] for chat in chosen} != {str(i) for i in range(5)}


def test_dialogue_by_likelihood_and_by_judge(data: Path, store: Store, oracle: Any) -> None:
    import math

    oracle.likely = lambda prompt, text: -math.log(2) * 3 * len(text)
    oracle.write = lambda prompt, _: "It is in the hall."
    judge = Judge(lambda asked: '{"correctness": 5, "completeness": 3, "clarity": 4}' if "lamp" in asked else "fine")
    found = run(store, "dialogue_likelihood", "dialogue_judged", settings=EvaluateSpec(data=str(data)), judge=judge)
    assert found["dialogue_likelihood"] == {"bits_per_byte": pytest.approx(3.0)}
    assert found["dialogue_judged"] == {"grade": 0.75, "ungraded": pytest.approx(5 / 6)}
    assert len(judge.asked) == 6  # the one that ends with a question is left out


# Own files


def own(tmp_path: Path, rows: list[dict[str, Any]], **options: Any) -> EvaluateSpec:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return EvaluateSpec(own={"mine": OwnBenchmark(path=str(path), **options)})


def test_an_own_file_with_a_rule(tmp_path: Path, store: Store, oracle: Any) -> None:
    rows = [{"q": f"What is {n} and {n}?", "a": str(2 * n), "sheet": n // 2} for n in range(4)]
    options = {"system": "Be brief.", "check": "number", "max_tokens": 9, "cluster": "sheet"}
    settings = own(tmp_path, rows, prompt="{{ q }}", answer="{{ a }}", **options)
    oracle.write = lambda prompt, _: "It makes 4." if "2 and 2" in prompt else "It makes 0, or 1."
    assert run(store, "mine", settings=settings) == {"mine": {"acc": 0.25}}
    assert oracle.seen[0] == "<system>Be brief.<user>What is 0 and 0?"
    assert oracle.options[0]["max_gen_toks"] == 9
    assert {score.settings["task_version"] for score in store.scores()} == {"2"}  # of how numbers are read
    assert sorted(s.item.split("/")[0] for s in store.samples(benchmark="mine")) == ["0", "0", "1", "1"]


@pytest.mark.parametrize("answers", [["lamp", "oil"], ["B", "A"], [1, 0]])
def test_an_own_file_with_choices(answers: list[Any], tmp_path: Path, store: Store, oracle: Any) -> None:
    rows = [{"q": "Which gives light?", "o": ["salt", "lamp", "bread"], "a": answers[0]},
            {"q": "Which burns?", "o": ["oil", "stone"], "a": answers[1]}]  # fmt: skip
    settings = own(tmp_path, rows, prompt="{{ q }} Answer:", choices="o", answer="{{ a }}")
    oracle.likely = lambda prompt, text: 0.0 if text in (" lamp", " stone") else -5.0
    assert run(store, "mine", settings=settings)["mine"]["acc"] == 0.5
    assert oracle.seen[0] == "Which gives light? Answer:"


def test_choices_from_templates_in_the_chat_template(tmp_path: Path, store: Store, oracle: Any) -> None:
    rows = [{"q": "Which?", "x": "lamp", "y": "stone", "a": "A"}]
    settings = own(
        tmp_path, rows, prompt="{{ q }}", choices=["{{ x }}", "{{ y }}"], answer="{{ a }}", chat_template=True
    )
    oracle.likely = lambda prompt, text: 0.0 if text == "lamp" else -5.0
    assert run(store, "mine", settings=settings)["mine"]["acc"] == 1.0
    assert oracle.seen[0] == "<user>Which?"


def test_an_answer_that_is_no_choice_is_the_users_to_fix(tmp_path: Path, store: Store) -> None:
    settings = own(tmp_path, [{"q": "?", "o": ["x", "y"], "a": "C"}], prompt="{{ q }}", choices="o", answer="{{ a }}")
    with pytest.raises(UserError, match="answer of row 1, 'C', is none of its choices"):
        run(store, "mine", settings=settings)


def test_an_own_file_with_a_judge(tmp_path: Path, store: Store, oracle: Any) -> None:
    settings = own(tmp_path, [{"question": "Why?", "answer": "So."}], check="judge")
    judge = Judge(lambda asked: "partly_correct")
    assert run(store, "mine", settings=settings, judge=judge)["mine"] == {
        "strict": 0.0,
        "lenient": 1.0,
        "ungraded": 0.0,
    }
    with pytest.raises(UserError, match=r"evaluate\.judge"):
        harness.evaluate("other", str(tiny_model()), ["mine"], settings, store=store)


# Data and settings


def test_what_is_not_there_is_not_fetched(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UserError, match=r"evaluate\.data: there is no .*hellaswag"):
        run(store, "hellaswag", settings=EvaluateSpec(data=str(tmp_path)))
    with pytest.raises(UserError, match="reads local files"):
        run(store, "toolalpaca_real", settings=EvaluateSpec())
    (tmp_path / "gsm8k").mkdir()
    with pytest.raises(UserError, match=r"no \*test\*"):
        run(store, "gsm8k", settings=EvaluateSpec(data=str(tmp_path)))
    for name in ("a_test.jsonl", "b_test.jsonl", "train.jsonl"):
        (tmp_path / "gsm8k" / name).write_text('{"question": "?", "answer": "#### 1"}\n')
    with pytest.raises(UserError, match=r"several files for the test split of gsm8k \(a_test.jsonl, b_test.jsonl\)"):
        run(store, "gsm8k", settings=EvaluateSpec(data=str(tmp_path)))


def test_shots_never_come_from_the_items_that_are_asked(data: Path, tmp_path: Path, store: Store, oracle: Any) -> None:
    for name in ("hellaswag", "winogrande", "arc_easy"):
        with pytest.raises(UserError, match=r"train"):
            run(store, name, settings=EvaluateSpec(data=str(data), shots={name: 2}))
    folder = tmp_path / "winogrande"
    folder.mkdir()
    (folder / "val.jsonl").write_bytes((data / "winogrande" / "validation_xl.jsonl").read_bytes())
    row = {"sentence": "A shot of the _ is here.", "option1": "train", "option2": "test", "answer": "1"}
    (folder / "train.jsonl").write_text(3 * (json.dumps(row) + "\n"))
    run(store, "winogrande", settings=EvaluateSpec(data=str(tmp_path), shots={"winogrande": 2}))
    assert all(prompt.startswith("A shot of the train is here.\n\nA shot of") for prompt in oracle.seen)


def test_several_answers_only_where_a_rule_takes_them(data: Path, store: Store, oracle: Any) -> None:
    for name in ("hellaswag", "gsm8k", "mbpp", "math500"):
        with pytest.raises(UserError, match=f"{name} takes one answer an item"):
            run(store, name, settings=EvaluateSpec(data=str(data), samples={name: 4}, run_code=True))


def test_other_rows_of_any_split_are_another_fingerprint(data: Path, tmp_path: Path, store: Store, oracle: Any) -> None:
    import shutil

    first = harness.evaluate("c", str(tiny_model()), ["gsm8k"], EvaluateSpec(data=str(data)), store=store)[0]
    shutil.copytree(data / "gsm8k", tmp_path / "gsm8k")
    again = harness.evaluate("c", str(tiny_model()), ["gsm8k"], EvaluateSpec(data=str(tmp_path)), store=store)[0]
    assert again.fingerprint == first.fingerprint  # where they lie does not count
    with (tmp_path / "gsm8k" / "train.jsonl").open("a") as file:
        file.write('{"question": "New?", "answer": "#### 1"}\n')
    other = harness.evaluate("c", str(tiny_model()), ["gsm8k"], EvaluateSpec(data=str(tmp_path)), store=store)[0]
    assert other.fingerprint != first.fingerprint


def test_code_runs_only_where_it_may(data: Path, store: Store, oracle: Any) -> None:
    for name in ("humaneval", "mbpp"):
        with pytest.raises(UserError, match=r"evaluate\.run_code: true"):
            run(store, name, settings=EvaluateSpec(data=str(data)))


@pytest.mark.parametrize("settings", [EvaluateSpec(), EvaluateSpec(shots={"mmlu": 5})])
def test_mmlu_on_the_hub_has_all_its_subjects(settings: EvaluateSpec) -> None:
    from evals.benchmarks import mmlu

    tasks = mmlu.task("mmlu", settings=settings)
    assert len(tasks) == 57 == len({task["task"] for task in tasks})
    assert all(task.get("num_fewshot") == settings.shots.get("mmlu") for task in tasks)


def test_every_suite_is_made_of_benchmarks() -> None:
    known = catalog.benchmarks()
    for suite, names in catalog.suites().items():
        assert suite not in known and set(names) <= set(known)


def test_every_benchmark_that_needs_a_judge_says_so(data: Path) -> None:
    for file in catalog.names(catalog.BENCHMARKS):
        module = catalog.module(catalog.BENCHMARKS, file)
        for name in getattr(module, "NEEDS_JUDGE", ()):
            with pytest.raises(UserError, match=r"evaluate\.judge"):
                module.task(name, settings=EvaluateSpec(data=str(data)), judge=None)
    assert knowledge.NEEDS_JUDGE


# In a spec


def test_a_suite_stands_for_its_benchmarks(tmp_path: Path, data: Path) -> None:
    from refinery.spec import load_spec

    text = (
        f"source: {{lab: clinic}}\nevaluate: {{general: [general], domain: [tool_use], data: {data}, run_code: true}}\n"
    )
    (tmp_path / "suites.yaml").write_text(text)
    evaluate = load_spec(tmp_path / "suites.yaml").evaluate
    assert evaluate and tuple(evaluate.general) == catalog.suites()["general"]
    assert tuple(evaluate.domain) == catalog.suites()["tool_use"]
