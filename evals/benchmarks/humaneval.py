"""HumanEval (Chen et al. 2021, MIT): complete a Python function so that its tests pass. lm-eval's task `humaneval`.

n 164, no shots, no chat template, greedy, up to 1,024 tokens, `pass@1`; with `evaluate.samples: {humaneval: 128}` also
pass@k to 128, without bias, at temperature 1 and top_p 0.95. What the model writes runs in evals/sandbox.py, and only
under `evaluate.run_code`. Local files, folder humaneval: HumanEval* as released.
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Changed, Task, builtin
from evals.scorers.passk import steps
from refinery.spec_models import EvaluateSpec

DATA = "humaneval"
RUNS_CODE = True


def names() -> Sequence[str]:
    return ("humaneval",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"test": "*[Hh]uman*[Ee]val*"})
    ks = steps(settings.samples.get(name, 1))
    counted = Changed(lambda metrics: [{**metrics[0], "k": ks}])
    return builtin(
        "humaneval/humaneval.yaml",
        name,
        settings,
        rows,
        chat=False,
        primary="pass@1",
        sampled=True,
        metric_list=counted,
    )
