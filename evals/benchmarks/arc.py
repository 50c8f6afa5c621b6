"""ARC (Clark et al. 2018, CC-BY-SA-4.0): science questions of grade school. lm-eval's `arc_challenge` and `arc_easy`.

n 1,172 and 2,376 (test), no shots, no chat template, `acc` and `acc_norm`. Local files, folder arc: *challenge*test*
and *easy*test* with the hub's columns (question, choices, answerKey), or as lm-eval prepares them (query, choices,
gold).
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Task, builtin
from refinery.spec_models import EvaluateSpec

DATA = "arc"
PATTERNS = {"arc_challenge": "*[Cc]hallenge*test*", "arc_easy": "*[Ee]asy*test*"}
PREPARED = {"doc_to_text": "query", "doc_to_choice": "choices", "doc_to_target": "gold"}
RANKED = tuple(PATTERNS)


def names() -> Sequence[str]:
    return tuple(PATTERNS)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"test": PATTERNS[name]})
    found = builtin(f"arc/{name}.yaml", name, settings, rows, chat=False, primary="acc")
    return found | PREPARED if rows and "query" in rows["test"][0] else found
