"""HellaSwag (Zellers et al. 2019, MIT): which of four endings goes on from a text. lm-eval's task `hellaswag`.

n 10,042 (validation), no shots, no chat template; `acc` counts (as in SDFT, whose base scores 62.0 so), `acc_norm`
stands beside it. Local files, folder hellaswag: *val* with the release's columns (ctx_a, ctx_b, activity_label,
endings, label), or as lm-eval prepares them (query, choices, gold).
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import Rows, splits
from evals.benchmarks._tasks import Task, builtin
from refinery.spec_models import EvaluateSpec

DATA = "hellaswag"
RANKED = ("hellaswag",)


def names() -> Sequence[str]:
    return ("hellaswag",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"validation": "*val*", "train": "*train*"}, optional=("train",))
    prepared = bool(rows) and "query" in rows["validation"][0]
    if prepared:
        rows = {split: _labelled(some) for split, some in rows.items()}
    found = builtin("hellaswag/hellaswag.yaml", name, settings, rows, chat=False, primary="acc")
    return found | {"process_docs": None} if prepared else found


def _labelled(rows: Rows) -> Rows:
    return [{"query": row["query"], "choices": row["choices"], "label": str(row["gold"])} for row in rows]
