"""TruthfulQA, multiple choice (Lin et al. 2021, Apache-2.0): is a true answer likelier than common mistakes? lm-eval's
tasks `truthfulqa_mc1` (is the one best answer likeliest; in `general`, since SDFT's base scores 47.9 so) and
`truthfulqa_mc2` (the share of probability that all true answers have).

n 817 (version 1, which the hub has; the revision of 2025 has 790), six fixed questions and answers in the prompt, no
chat template, `acc`. Local files, folder truthfulqa: *mc_task* as released (an answer to 0 or 1), or *validation* with
the hub's lists of choices and labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evals.benchmarks._files import root, splits
from evals.benchmarks._tasks import Task, builtin
from refinery.errors import UserError
from refinery.spec_models import EvaluateSpec

DATA = "truthfulqa"
TARGETS = ("mc1_targets", "mc2_targets")
RANKED = ("truthfulqa_mc1", "truthfulqa_mc2")


def names() -> Sequence[str]:
    return ("truthfulqa_mc1", "truthfulqa_mc2")


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    place = root(settings, DATA)
    released = place is not None and place.is_dir() and any(place.rglob("*mc_task*"))
    rows = splits(settings, DATA, {"validation": "*mc_task*" if released else "*validation*"})
    lists = {
        split: [{"question": row["question"]} | {key: _lists(row, key) for key in TARGETS} for row in some]
        for split, some in rows.items()
    }
    return builtin(f"truthfulqa/{name}.yaml", name, settings, lists, chat=False, primary="acc")


def _lists(row: Mapping[str, Any], key: str) -> dict[str, list]:
    """Choices and labels; lm-eval takes the first of mc1 to be the true one."""
    given = row[key]
    if not isinstance(given.get("choices"), list):
        given = {"choices": list(given), "labels": list(given.values())}
    if not given["labels"] or given["labels"][0] != 1:
        raise UserError(f"truthfulqa: the first answer under {key} is not a true one: {row['question']}")
    return {"choices": list(given["choices"]), "labels": list(given["labels"])}
