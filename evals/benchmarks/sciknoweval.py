"""SciKnowEval, chemistry, level 3, multiple choice (Feng et al. 2024): reasoning, then a letter in an answer tag.

n 210 (the test split of lasgroup/SDPO, `datasets/sciknoweval/chemistry/test.json`, Apache-2.0; SDFT draws its own 20%
of the same questions), no shots, chat with the file's own system prompt, greedy; allow 2,048 tokens. `acc` counts: the
tag holds the right letter alone. `acc_any_form` takes the letter in any clear form, `in_form` is the share of answers
that have the tag. Local files, folder sciknoweval_mcq: *chemistry*test* with the columns system, prompt, answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Task, item, needs_data, written
from evals.scorers.choices import settled, tagged
from refinery.spec_models import EvaluateSpec

DATA = "sciknoweval_mcq"
LOCAL_ONLY = True


def names() -> Sequence[str]:
    return ("sciknoweval_chemistry",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"test": "*chemistry*test*"})
    if not rows:
        raise needs_data(name, DATA, "chemistry/test.json of lasgroup/SDPO, datasets/sciknoweval")
    items = [item(messages(row), row["answer"]) for row in rows["test"]]
    rules = {"version": 2}  # of how the letter is read
    return written(name, items, score, ("acc", "acc_any_form", "in_form"), settings, parses=parses, metadata=rules)


def messages(row: Mapping[str, Any]) -> list[dict[str, str]]:
    system = [{"role": "system", "content": row["system"].strip()}] if row.get("system") else []
    return [*system, {"role": "user", "content": row["prompt"]}]


def parses(_: Mapping[str, Any], text: str) -> bool:
    return tagged(text) is not None


def score(doc: Mapping[str, Any], text: str) -> dict[str, float]:
    letter = tagged(text)
    return {
        "acc": float(letter == doc["reference"]),
        "acc_any_form": float(settled(text) == doc["reference"]),
        "in_form": float(letter is not None),
    }
