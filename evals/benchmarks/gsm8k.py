"""GSM8K (Cobbe et al. 2021, MIT): word problems of grade school. lm-eval's task `gsm8k`.

n 1,319 (test), five shots from train, chat template with the shots as turns, greedy. The number after "####" counts
(`exact_match,strict-match`); the last number wherever it stands is beside it (`exact_match,flexible-extract`). Local
files, folder gsm8k: *train* and *test* with the columns question, answer.
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Task, builtin
from refinery.spec_models import EvaluateSpec

DATA = "gsm8k"


def names() -> Sequence[str]:
    return ("gsm8k",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"test": "*test*", "train": "*train*"})
    return builtin("gsm8k/gsm8k.yaml", name, settings, rows, chat=True)
