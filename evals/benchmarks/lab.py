"""The lab's benchmarks, as lm-eval tasks: one file each in lab_tasks/. lm-eval alone gives the scores that the store
holds:

    lm_eval --include_path evals/benchmarks/lab_tasks --tasks lab_clinic,lab_facts --model hf \\
        --model_args pretrained=<checkpoint>,dtype=float32 --batch_size 64 --apply_chat_template \\
        --log_samples --output_path results

`--log_samples` keeps the items: `refinery import results` finds means alone without them, which no comparison can pair.

`lab_choice` ranks its choices by likelihood; all others are answered in greedy text and judged by `refinery.lab.score`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refinery.lab import CALIBRATION, DOMAINS, SKILLS, items, score

TASKS = Path(__file__).parent / "lab_tasks"
RANKED = ("lab_choice",)


def names() -> Sequence[str]:
    domains = [f"lab_{domain}{unseen}" for domain in (*DOMAINS, *CALIBRATION) for unseen in ("", "_unseen")]
    return (*domains, *(f"lab_{skill}" for skill in SKILLS))


def task(name: str, **_: Any) -> Path:
    """The task's file."""
    return TASKS / f"{name}.yaml"


def dataset(benchmark: str, **_: Any) -> dict[str, Any]:
    """lm-eval's `custom_dataset`: the items as the split "test"."""
    from datasets import Dataset

    return {"test": Dataset.from_list(items(benchmark))}


def scored(doc: dict[str, Any], responses: list[str]) -> dict[str, float]:
    """lm-eval's `process_results`."""
    return {"acc": score(doc, responses[0])}
