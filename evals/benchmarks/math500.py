"""MATH-500 (Hendrycks et al. 2021, MIT; Lightman et al. 2023): competition problems. lm-eval's `hendrycks_math500`.

n 500, no shots, chat template, greedy. `math` counts: the last \\boxed{...} of the answer, or its last expression, is
equal to the reference as mathematics (math-verify); lm-eval's own `exact_match` stands beside it and asks for the same
text between dollar signs, which chat models seldom give. Any file in the format of MATH does. Local files, folder math:
*test* with the columns problem, solution (level, type where there are any).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Changed, Scored, Task, builtin
from refinery.checks import agrees
from refinery.spec_models import EvaluateSpec

DATA = "math"


def names() -> Sequence[str]:
    return ("math500",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"test": "*test*"})
    tests = [{"problem": row["problem"], "solution": row["solution"]} for row in rows.get("test", [])]
    return builtin(
        "hendrycks_math/hendrycks_math500.yaml",
        name,
        settings,
        {"test": tests} if tests else {},
        chat=True,
        primary="math",
        process_results=Changed(Both),
        metric_list=Changed(lambda metrics: [*metrics, {**metrics[0], "metric": "math"}]),
    )


class Both:
    """lm-eval's own `process_results` and ours."""

    def __init__(self, theirs: Any):
        self.theirs, self.ours = theirs, Scored(same)

    def __call__(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
        return self.theirs(doc, results) | self.ours(doc, results)


def same(doc: Mapping[str, Any], text: str) -> dict[str, float]:
    return {"math": float(agrees("math", text, f"\\boxed{{{doc['answer']}}}"))}
