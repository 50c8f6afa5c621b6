"""Winogrande (Sakaguchi et al. 2019, CC-BY): which of two names fits a sentence. lm-eval's task `winogrande`.

n 1,267 (validation, xl), no shots, no chat template, `acc` (as in SDFT, whose base scores 71.1 so). Local files, folder
winogrande: *val* with the columns sentence, option1, option2, answer.
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Task, builtin
from refinery.spec_models import EvaluateSpec

DATA = "winogrande"
COLUMNS = ("sentence", "option1", "option2", "answer")
RANKED = ("winogrande",)


def names() -> Sequence[str]:
    return ("winogrande",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    wanted = {"validation": "*val*"} | ({"train": "*train*"} if settings.shots.get(name) else {})
    rows = splits(settings, DATA, wanted)
    rows = {split: [{column: row[column] for column in COLUMNS} for row in some] for split, some in rows.items()}
    return builtin("winogrande/default.yaml", name, settings, rows, chat=False, primary="acc")
