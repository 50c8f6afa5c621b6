"""The lab: a small made-up world on which the whole suite runs on a laptop in minutes.

Its figures show that the mechanics work and how effects order themselves, never what a large
model would score. How it is made, and how its difficulty was set, stands in README.md beside this
file. Everything here needs the standard library alone; only `train_base` and `accept` need torch.
"""

from __future__ import annotations

from pathlib import Path

from refinery.lab.benchmarks import SKILLS, items
from refinery.lab.domains import CALIBRATION, DOMAINS, source_rows
from refinery.lab.prompts import PROMPTS
from refinery.lab.scoring import score

LAB_VERSION = 1
"""Changes whenever a row, an item, a prompt or a weight does."""

BASE = Path(__file__).parent / "base"
"""The shipped base model, an ordinary Hugging Face checkpoint folder."""

MODELS = {"lab": BASE, "lab-small": BASE.with_name("small"), "lab-large": BASE.with_name("large")}
"""The base and its two sisters of other sizes, by the names that a spec gives them."""

__all__ = [
    "BASE",
    "CALIBRATION",
    "DOMAINS",
    "LAB_VERSION",
    "MODELS",
    "PROMPTS",
    "SKILLS",
    "items",
    "score",
    "source_rows",
]
