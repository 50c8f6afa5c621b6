"""Gorilla OpenFunctions v1 (Patil et al. 2023, Apache-2.0): one call with keyword arguments for a described function.

n 112 (the test split of sail-sg/sdft, as SDFT of 2024 uses it), no shots, chat, greedy. `acc` counts: the call equal in
structure; `acc_similar` takes empty arguments as left out, `functions` looks at the name alone. Local files, folder
openfunctions: *test* with the columns instruction, output.
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Task, item, needs_data, written
from evals.benchmarks.toolalpaca import score
from evals.scorers.tools import parses
from refinery.spec_models import EvaluateSpec

DATA = "openfunctions"
LOCAL_ONLY = True


def names() -> Sequence[str]:
    return ("openfunctions",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"test": "*test*"})
    if not rows:
        raise needs_data(name, DATA, "data/openfunction/openfunction_test.json of sail-sg/sdft")
    items = [item([{"role": "user", "content": row["instruction"]}], row["output"]) for row in rows["test"]]
    rules = {"version": 2}  # of how calls are read
    return written(name, items, score, ("acc", "acc_similar", "functions"), settings, parses=parses, metadata=rules)
