"""lm-eval's own tasks and groups, by lm-eval's names: all 13,000 of them, with lm-eval's own shots, metrics and data
from the hub, and the model's chat template where it has one."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def names() -> Sequence[str]:
    return ()


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
