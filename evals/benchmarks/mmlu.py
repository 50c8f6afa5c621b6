"""MMLU (Hendrycks et al. 2021, MIT): questions of 57 subjects with four options. lm-eval's group `mmlu`.

n 14,042 (test) over 57 subjects, no shots (`evaluate.shots: {mmlu: 5}` takes the first five of dev, as the paper did),
no chat template, `acc` over all questions (as in SDFT, whose base scores 71.7 so). Subjects are clusters of items.
Local files, folder mmlu: *test* and *dev* with the columns question, subject, choices, answer (0 to 3).
"""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evals.benchmarks._files import Rows, splits
from evals.benchmarks._tasks import Task, builtin
from refinery.errors import UserError
from refinery.spec_models import EvaluateSpec

DATA = "mmlu"
FOLDER = "mmlu/default"
RANKED = ("mmlu",)


def names() -> Sequence[str]:
    return ("mmlu",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> list[Task]:
    """One for each subject, on local files for each that they hold."""
    rows = splits(settings, DATA, {"test": "*test*", "dev": "*dev*"})
    known = _subjects()
    found = list(dict.fromkeys(row["subject"] for row in rows["test"])) if rows else known
    if strange := [subject for subject in found if subject not in known]:
        raise UserError(f"mmlu: there is no subject {strange[0]!r}")
    shots = EvaluateSpec(shots={f"mmlu_{each}": settings.shots["mmlu"] for each in found if "mmlu" in settings.shots})
    return [
        builtin(
            f"{FOLDER}/mmlu_{subject}.yaml", f"mmlu_{subject}", shots, _of(rows, subject), chat=False, primary="acc"
        )
        for subject in sorted(found)
    ]


def _subjects() -> list[str]:
    """Those that the installed lm-eval has files for."""
    spec = importlib.util.find_spec("lm_eval")
    places: Iterable[str] = (spec and spec.submodule_search_locations) or ()
    files = [file for place in places for file in (Path(place) / "tasks" / FOLDER).glob("mmlu_*.yaml")]
    return sorted(file.stem.removeprefix("mmlu_") for file in files)


def _of(rows: dict[str, Rows], subject: str) -> dict[str, Rows]:
    return {split: [row for row in some if row["subject"] == subject] for split, some in rows.items()}
