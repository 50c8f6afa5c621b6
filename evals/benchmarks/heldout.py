"""The spec's own held-out rows as a benchmark: `heldout` is its test split, `heldout_validation` the validation split.

Rows are asked as the chat they are, answered in greedy text, and judged by a rule of refinery/checks.py.
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._tasks import finds
from refinery import templates
from refinery.checks import READINGS, agrees
from refinery.errors import UserError
from refinery.records import Example
from refinery.spec_models import SelectSpec

SPLITS = {"heldout": "test", "heldout_validation": "validation"}


def names() -> Sequence[str]:
    return tuple(SPLITS)


def task(name: str, *, examples: Sequence[Example] | None, select: SelectSpec, **_: Any) -> dict[str, Any]:
    """An lm-eval task made of `examples` (those of other splits are left out). UserError where none is left.

    Validation stops at `select.limit` rows; the test split is always asked whole.
    """
    split = SPLITS[name]
    rows = [example for example in examples or [] if example.split == split]
    rows = rows[: select.limit] if split == "validation" else rows
    if not rows:
        raise UserError(f"benchmark {name}: the source has no {split} rows (source.split.{split})")
    docs = [_doc(example, select) for example in rows]
    return {
        "task": name,
        "output_type": "generate_until",
        "custom_dataset": lambda **_: {"test": _dataset(docs)},
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_target": "reference",
        "generation_kwargs": {"until": [], "do_sample": False},
        "process_results": scored,
        "parses": finds(select.check),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "num_fewshot": 0,
        "metadata": {"version": READINGS.get(select.check, 1)},
    }


def scored(doc: dict[str, Any], responses: list[str]) -> dict[str, float]:
    """lm-eval's `process_results`."""
    return {"acc": float(agrees(doc["check"], responses[0], doc["reference"]))}


def _doc(example: Example, select: SelectSpec) -> dict[str, Any]:
    reference = example.answer if select.of is None else templates.render(select.of, example.fields())
    return {"messages": example.prompt, "question": example.question, "reference": reference, "check": select.check}


def _dataset(docs: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(docs)
