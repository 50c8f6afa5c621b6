"""MedMCQA (Pal et al. 2022, MIT): questions of Indian medical entrance exams, four options. lm-eval's task `medmcqa`.

n 4,183 (validation; the test split's answers are not public), no shots, no chat template, `acc` by likelihood of the
letter. (SDFT's medical domain is another: written answers to HuatuoGPT-o1's questions, graded by a model.) Local files,
folder medmcqa: *dev* as released, where `cop` counts from 1, or *val* as on the hub, where it counts from 0.
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import Rows, root, splits
from evals.benchmarks._tasks import Task, builtin
from refinery.errors import UserError
from refinery.spec_models import EvaluateSpec

DATA = "medmcqa"
COLUMNS = ("id", "question", "opa", "opb", "opc", "opd", "cop")
RANKED = ("medmcqa",)


def names() -> Sequence[str]:
    return ("medmcqa",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    place = root(settings, DATA)
    released = place is not None and place.is_dir() and any(place.rglob("*dev*"))
    rows = splits(settings, DATA, {"validation": "*dev*" if released else "*val*"})
    local = {"validation": from_zero(rows["validation"])} if rows else {}
    return builtin("medmcqa/medmcqa.yaml", name, settings, local, chat=False, primary="acc")


def from_zero(rows: Rows) -> Rows:
    """The right option's number from 0, in whichever way the file counts. UserError where it does not show."""
    found = {row["cop"] for row in rows}
    if not found <= {0, 1, 2, 3, 4} or (0 in found) == (4 in found):
        raise UserError("medmcqa: cop must run from 1 to 4 or from 0 to 3, and over all of them to show which")
    first = 0 if 0 in found else 1
    return [{column: row[column] for column in COLUMNS} | {"cop": row["cop"] - first} for row in rows]
