"""Every benchmark accepts its own reference answers and none that is mangled: on made-up files always, on the real ones
where REFINERY_TEST_DATA names a folder that has them."""

import functools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evals import harness, sandbox, subjects
from evals.benchmarks import _files, math500, mbpp, openfunctions, sciknoweval, toolalpaca
from evals.scorers.choices import tagged
from refinery.checks import agrees
from refinery.spec_models import EvaluateSpec, SelectSpec
from refinery.store import Store
from tests.evals.benchmark_files import make
from tests.tiny import tiny_model

pytest.importorskip("datasets")
REAL = os.environ.get("REFINERY_TEST_DATA")


@pytest.fixture(
    scope="module",
    params=[
        "made up",
        pytest.param(
            "real", marks=[pytest.mark.slow, pytest.mark.skipif(not REAL, reason="REFINERY_TEST_DATA is not set")]
        ),
    ],
)
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(str(REAL)) if request.param == "real" else make(tmp_path_factory.mktemp("data"))


def items(module: Any, name: str, data: Path) -> list[dict[str, Any]]:
    task = module.task(name, settings=EvaluateSpec(data=str(data)), select=SelectSpec(), judge=None)
    return list(task["custom_dataset"]()["test"])


def check(
    rows: list[Any], score: Callable[[Mapping[str, Any], str], dict[str, float]], gold: Callable[[Any], str],
    mangled: Callable[[Any], str], record: Callable[[str, object], None],
) -> None:  # fmt: skip
    wrong = [row for row in rows if next(iter(score(row, gold(row)).values())) != 1]
    let_through = [row for row in rows if next(iter(score(row, mangled(row)).values())) != 0]
    record("n", len(rows))
    assert rows and not wrong and not let_through, (len(rows), wrong[:2], let_through[:2])


@pytest.mark.parametrize("name", ["toolalpaca_simulated", "toolalpaca_real"])
def test_toolalpaca(name: str, data: Path, record_property: Any) -> None:
    rows = items(toolalpaca, name, data)
    broken = lambda row: re.sub(r"Action: (\w+)", r"Action: \1_x", row["reference"], count=1)  # noqa: E731
    check(rows, toolalpaca.score, lambda row: row["reference"], broken, record_property)
    for row in rows:
        thought = f"Thought: I should do this.\n{row['reference']}\n"
        assert toolalpaca.score(row, thought)["acc"] == 1, row
        assert toolalpaca.score(row, row["reference"].rpartition("Action:")[0])["acc"] == 0, row


def test_openfunctions(data: Path, record_property: Any) -> None:
    rows = items(openfunctions, "openfunctions", data)
    broken = lambda row: re.sub(r"\(", "_x(", row["reference"], count=1)  # noqa: E731
    check(rows, toolalpaca.score, lambda row: row["reference"], broken, record_property)


def test_sciknoweval(data: Path, record_property: Any) -> None:
    rows = items(sciknoweval, "sciknoweval_chemistry", data)
    other = {"A": "B", "B": "C", "C": "D", "D": "A"}
    form = "<reasoning>\nIt is so.\n</reasoning>\n<answer>\n{}\n</answer>"
    check(
        rows, sciknoweval.score, lambda row: form.format(row["reference"]),
        lambda row: form.format(other[row["reference"]]), record_property,
    )  # fmt: skip
    assert all(tagged(form.format(f"{row['reference']}: it")) is None for row in rows)


def test_math(data: Path, record_property: Any) -> None:
    if not (data / "math").is_dir():
        pytest.skip("no MATH among the files")
    rows = [
        row | {"answer": row["solution"].split("\\boxed{")[1].split("}$")[0]} for row in items(math500, "math500", data)
    ]
    check(rows, math500.same, lambda row: row["solution"], lambda row: "It is $\\boxed{17.25}$.", record_property)


def test_gsm8k(data: Path, record_property: Any) -> None:
    """lm-eval's rules decide the benchmark's score; these are the ones that gates and validation use."""
    rows = _files.splits(EvaluateSpec(data=str(data)), "gsm8k", {"test": "*test*"})["test"]
    key = lambda row: row["answer"].rpartition("#### ")[2]  # noqa: E731
    check(
        rows, lambda row, text: {"acc": float(agrees("number", text, key(row)))}, lambda row: row["answer"],
        lambda row: row["answer"] + "1", record_property,
    )  # fmt: skip


def verdicts(jobs: list[tuple[str, str]]) -> list[bool]:
    return [verdict.passed for verdict in sandbox.run_all(jobs, sandbox.Limits(seconds=20))]


@pytest.mark.skipif(bool(sandbox.unavailable()), reason="no sandbox can be made here")
def test_humaneval(data: Path, record_property: Any) -> None:
    rows = _files.splits(EvaluateSpec(data=str(data)), "humaneval", {"test": "*[Hh]uman*[Ee]val*"})["test"]
    tests = [f"{row['test']}\ncheck({row['entry_point']})" for row in rows]
    record_property("n", len(rows))
    right = verdicts([(row["prompt"] + row["canonical_solution"], test) for row, test in zip(rows, tests, strict=True)])
    assert [row["task_id"] for row, passed in zip(rows, right, strict=True) if not passed] == []
    empty = verdicts([(row["prompt"] + "    return None\n", test) for row, test in zip(rows, tests, strict=True)])
    assert [row["task_id"] for row, passed in zip(rows, empty, strict=True) if passed] == []


@pytest.mark.skipif(bool(sandbox.unavailable()), reason="no sandbox can be made here")
def test_mbpp(data: Path, record_property: Any) -> None:
    task = mbpp.task("mbpp", settings=EvaluateSpec(data=str(data)))
    rows = list(task["custom_dataset"]()["test"])
    record_property("n", len(rows))
    right = verdicts([(row["code"], "\n".join(row["test_list"])) for row in rows])
    left = [row for row, passed in zip(rows, right, strict=True) if not passed]
    assert [row["task_id"] for row in left if not row["test_setup_code"]] == []  # the others' names lm-eval leaves out
    again = verdicts([(row["code"], "\n".join([row["test_setup_code"], *row["test_list"]])) for row in left])
    assert all(again)
    record_property("out of reach", [row["task_id"] for row in left])
    empty = verdicts([("", "\n".join(row["test_list"])) for row in rows])
    assert not any(empty)


# Ranked choices: a model that likes the right choice best scores 1, one that likes the wrong ones 0


def last(text: str, before: str) -> str:
    return text.rpartition(before)[2]


def hellaswag_right(rows: list[dict[str, Any]]) -> Callable[[str, str], bool]:
    if "query" in rows[0]:
        right = {(row["query"], row["choices"][row["gold"]]) for row in rows}
        return lambda prompt, text: (prompt, text.removeprefix(" ")) in right
    by_thing = {row["activity_label"]: row["endings"][int(row["label"])] for row in rows}
    plain = {thing: ending.replace(" [title]", ". ").replace("  ", " ") for thing, ending in by_thing.items()}
    return lambda prompt, text: plain[prompt.partition(":")[0]] == text.removeprefix(" ")


def winogrande_right(rows: list[dict[str, Any]]) -> Callable[[str, str], bool]:
    right = set()
    for row in rows:
        start, _, end = row["sentence"].partition("_")
        right.add((start + row[f"option{row['answer']}"], end.strip()))
    return lambda prompt, text: (prompt, text.strip()) in right


def truthful_right(rows: list[dict[str, Any]]) -> Callable[[str, str], bool]:
    right = {(row["question"], each) for row in rows for each, true in row["mc1_targets"].items() if true}
    return lambda prompt, text: (last(prompt, "Q: ").removesuffix("\nA:"), text.removeprefix(" ")) in right


def truthful_all(rows: list[dict[str, Any]]) -> Callable[[str, str], bool]:
    right = {(row["question"], each) for row in rows for each, true in row["mc2_targets"].items() if true}
    return lambda prompt, text: (last(prompt, "Q: ").removesuffix("\nA:"), text.removeprefix(" ")) in right


def arc_right(rows: list[dict[str, Any]]) -> Callable[[str, str], bool]:
    right = set()
    for row in rows:
        if "query" in row:
            right.add((row["query"], row["choices"][row["gold"]]))
        else:
            place = row["choices"]["label"].index(row["answerKey"])
            right.add((f"Question: {row['question']}\nAnswer:", row["choices"]["text"][place]))
    return lambda prompt, text: (prompt, text.removeprefix(" ")) in right


def lettered(rows: list[dict[str, Any]], shown: Callable[[dict[str, Any]], str], number: Callable[[dict], int]) -> Any:
    right = {(shown(row), "ABCD"[number(row)]) for row in rows}
    return lambda prompt, text: (prompt, text.strip()) in right


def mmlu_shown(row: dict[str, Any]) -> str:
    options = "".join(f"{letter}. {each}\n" for letter, each in zip("ABCD", row["choices"], strict=True))
    subject = row["subject"].replace("_", " ")
    told = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return f"{told}{row['question'].strip()}\n{options}Answer:"


def medmcqa_shown(row: dict[str, Any]) -> str:
    options = "".join(f"{letter}. {row['op' + letter.lower()]}\n" for letter in "ABCD")
    return f"Question: {row['question']}\nChoices:\n{options}Answer:"


RANKED: dict[str, tuple[str, Callable[[list[dict[str, Any]]], Callable[[str, str], bool]]]] = {
    "hellaswag": ("hellaswag/*val*", hellaswag_right),
    "winogrande": ("winogrande/*val*", winogrande_right),
    "truthfulqa_mc1": ("truthfulqa/*mc_task*", truthful_right),
    "truthfulqa_mc2": ("truthfulqa/*mc_task*", truthful_all),
    "arc_challenge": ("arc/*hallenge*test*", arc_right),
    "arc_easy": ("arc/*asy*test*", arc_right),
    "mmlu": ("mmlu/*test*", lambda rows: lettered(rows, mmlu_shown, lambda row: row["answer"])),
    "medmcqa": ("medmcqa/*dev*", lambda rows: lettered(rows, medmcqa_shown, lambda row: row["cop"] - 1)),
}


@pytest.mark.parametrize("name", RANKED)
def test_the_right_choice(
    name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    pattern, known = RANKED[name]
    (path,) = data.glob(pattern)
    rows = _files.read(path)
    right = known(rows)
    for sign, wanted in ((1, 1.0), (-1, 0.0)):
        likes = functools.partial(lambda sign, prompt, text: 30.0 * sign * right(prompt, text) - 40, sign)
        scores = evaluated(name, data, tmp_path / str(sign), monkeypatch, likes)
        score = next(each for each in scores if each.metric == "acc")
        record_property("n", score.n)
        assert score.n == len(rows) and score.value == pytest.approx(wanted, abs=1e-9)


def evaluated(name: str, data: Path, folder: Path, monkeypatch: Any, likely: Callable[[str, str], float]) -> Any:
    from lm_eval.api.model import LM

    class Knowing(LM):
        tokenizer_name = "knowing"

        def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
            return [(likely(*request.args), False) for request in requests]

        def generate_until(self, requests: Any) -> list[str]:
            return ["A lamp gives light. It is ONE Thing!" for _ in requests]

        def loglikelihood_rolling(self, requests: Any) -> list[float]:
            raise NotImplementedError

        def apply_chat_template(self, chat: list[dict], add_generation_prompt: bool = True) -> str:
            return "".join(turn["content"] for turn in chat)

    model = Knowing()
    monkeypatch.setattr(subjects.Weights, "lm", property(lambda self: model))
    monkeypatch.setattr(subjects.Weights, "context", 4096)
    folder.mkdir()
    settings = EvaluateSpec(data=str(data))
    return harness.evaluate("ckpt", str(tiny_model()), [name], settings, store=Store(folder / "store.duckdb"))


def test_every_ifeval_rule_can_be_applied(data: Path, tmp_path: Path, monkeypatch: Any, record_property: Any) -> None:
    scores = evaluated("ifeval", data, tmp_path / "run", monkeypatch, lambda *_: 0.0)
    by_metric = {score.metric: score for score in scores}
    record_property("n", by_metric["prompt_level_strict_acc"].n)
    assert by_metric["prompt_level_strict_acc"].n == len(_files.read(next(data.glob("ifeval/*input_data*"))))
    assert 0 < by_metric["prompt_level_strict_acc"].value < 1
