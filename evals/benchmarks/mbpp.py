"""MBPP (Austin et al. 2021, CC-BY-4.0): write a Python function for a sentence and three tests. lm-eval's task `mbpp`.

n 500 (task_id 11 to 510), three fixed examples in the prompt, no chat template, greedy, `pass_at_1`. What the model
writes runs in evals/sandbox.py, and only under `evaluate.run_code`. lm-eval leaves `test_setup_code` out, so that item
367 is out of reach and 499 the most. Local files, folder mbpp: mbpp* as released.
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Task, builtin
from refinery.spec_models import EvaluateSpec

DATA = "mbpp"
RUNS_CODE = True
COLUMNS = ("task_id", "text", "code", "test_list", "test_setup_code", "challenge_test_list")


def names() -> Sequence[str]:
    return ("mbpp",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"test": "*mbpp*"})
    tests = [{column: row[column] for column in COLUMNS} for row in rows.get("test", []) if 11 <= row["task_id"] <= 510]
    return builtin("mbpp/mbpp.yaml", name, settings, {"test": tests} if tests else {}, chat=False)
