"""lm-eval's own tasks, by lm-eval's names. `names` lists those that papers on forgetting use; any other works too."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUNS_CODE = ("humaneval",)
"""Of `names`, those that run what the model writes: only under evaluate.allow_code."""


def names() -> Sequence[str]:
    return (
        "arc_challenge",
        "gsm8k",
        "hellaswag",
        "humaneval",
        "ifeval",
        "mmlu",
        "truthfulqa_mc1",
        "truthfulqa_mc2",
        "winogrande",
    )


def task(name: str, **_: Any) -> str:
    """lm-eval finds it by its name."""
    return name


def exists(name: str) -> bool:
    """Does the installed lm-eval have a task or group of this name? Reads its files without importing it (seconds)."""
    spec = importlib.util.find_spec("lm_eval")
    folder = Path(spec.origin).parent / "tasks" if spec and spec.origin else None
    if folder is None or not re.fullmatch(r"[\w.+-]+", name):
        return False
    line = re.compile(rf"""^["']?(task|group)["']?:\s*["']?{re.escape(name)}["']?\s*$""", re.MULTILINE)
    return any(line.search(file.read_text("utf-8", "replace")) for file in folder.rglob("*.yaml"))
