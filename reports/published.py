"""Figures that papers print, to stand beside ours: in percent, as printed, with where they are printed.

RAFT: arXiv 2606.00147, Tables 1 and 2, as given in the deep read by one of its authors (github
xiaofengShi/paper-reading-skill, examples/raft-deep-read.md). SDFT: arXiv 2601.19897, Tables 1, 2 and 5; the single
benchmarks of Table 5 as transcribed from the paper's source by a replication (github ayushnangia/Self-Distillation,
PAPER_SETUP.md); its averages are also in the paper's text. A figure that we could not read is None.
"""

from collections.abc import Mapping
from typing import NamedTuple

Figures = Mapping[str, float | None]
"""Column to figure."""


class Published(NamedTuple):
    """One printed table."""

    title: str
    cite: str
    columns: tuple[str, ...]
    rows: Mapping[tuple[str, str], Figures]
    """(group, arm) to its figures; a group is a backbone or a task."""
    note: str = ""
    places: int = 1
    """Decimals, as printed."""
    general: bool = True
    """Whether the table is about what was kept, so that the general mean of a spec of ours says something beside it."""


def _rows(
    columns: tuple[str, ...], groups: Mapping[str, Mapping[str, tuple[float | None, ...]]]
) -> dict[tuple[str, str], Figures]:
    return {
        (group, arm): dict(zip(columns, figures, strict=True))
        for group, arms in groups.items()
        for arm, figures in arms.items()
    }


_THREE = ("D-Acc", "MS-Bench", "IFEval")

RAFT_1 = Published(
    "RAFT, Table 1: means over five domains",
    "Li et al. 2026, arXiv 2606.00147, Table 1",
    _THREE,
    _rows(
        _THREE,
        {
            "SmolLM3-3B": {
                "Base": (10.6, 68.0, 31.2),
                "SFT": (12.8, 61.5, 24.9),
                "SDFT": (13.1, 60.3, 25.2),
                "On-policy": (12.7, 60.7, 26.8),
                "FAPM": (10.7, 59.2, 31.2),
                "RAFT": (17.2, 66.8, 31.4),
            },
            "Llama-3.2-3B": {
                "Base": (7.3, 46.0, 51.2),
                "SFT": (15.1, 36.8, 49.9),
                "SDFT": (14.5, 36.1, 48.8),
                "On-policy": (13.6, 40.4, 48.3),
                "FAPM": (7.3, 43.2, 51.2),
                "RAFT": (16.5, 40.1, 51.6),
            },
            "Phi-4-mini": {
                "Base": (11.6, 52.5, 55.5),
                "SFT": (17.1, 31.5, 53.4),
                "SDFT": (17.4, 33.6, 53.8),
                "On-policy": (17.4, 40.2, 53.4),
                "FAPM": (14.2, 53.6, 55.5),
                "RAFT": (21.6, 43.2, 53.9),
            },
        },
    ),
    "SDFT is the offline rewriting of 2024 here. The paper prints no intervals and names no number of seeds.",
)

RAFT_2 = Published(
    "RAFT, Table 2: data and objective (SmolLM3-3B)",
    "Li et al. 2026, arXiv 2606.00147, Table 2",
    _THREE,
    _rows(
        _THREE,
        {
            "Law & Government": {
                "Raw + SFT": (12.8, 66.5, 25.1),
                "Fused + SFT": (13.7, 69.5, 28.3),
                "RAFT": (18.0, 70.0, 30.7),
            },
            "Open Science": {
                "Raw + SFT": (8.3, 62.0, 23.5),
                "Fused + SFT": (10.0, 64.0, 27.2),
                "RAFT": (13.3, 65.0, 32.7),
            },
            "Open Culture": {
                "Raw + SFT": (13.1, 55.0, 25.3),
                "Fused + SFT": (14.8, 58.5, 25.3),
                "RAFT": (19.7, 65.0, 29.9),
            },
        },
    ),
    "The fourth cell, raw data with RAFT's objective, is not in the paper.",
)

RAFT_HEADLINE = {"D-Acc": 23.2, "MS-Bench": 18.2, "IFEval": 10.2}
"""The abstract's "relative improvements"; they are means over backbones of (RAFT - SFT) / SFT."""

_KNOWLEDGE = ("Strict", "Lenient", "OOD")

SDFT_1 = Published(
    "SDFT, Table 1: knowledge acquisition",
    "Shenfeld et al. 2026, arXiv 2601.19897, Table 1",
    _KNOWLEDGE,
    _rows(
        _KNOWLEDGE,
        {
            "Qwen2.5-7B-Instruct": {
                "Base": (0, 0, 0),
                "Oracle RAG": (91, 100, 100),
                "CPT": (9, 37, 7),
                "SFT": (80, 95, 80),
                "SDFT": (89, 100, 98),
            }
        },
    ),
    places=0,
    general=False,
)

_REASONING = ("Accuracy", "Tokens")

SDFT_2 = Published(
    "SDFT, Table 2: a reasoning model trained without traces",
    "Shenfeld et al. 2026, arXiv 2601.19897, Table 2",
    _REASONING,
    _rows(
        _REASONING,
        {"Olmo-3-7B-Think, medical": {"Base": (31.2, 4612), "SFT": (23.5, 3273), "SDFT": (43.7, 4180)}},
    ),
    general=False,
)

_PRIOR = ("HellaSwag", "HumanEval", "IFEval", "MMLU", "TruthfulQA", "Winogrande")
_SKILLS = ("New task", *_PRIOR, "Prior mean")
_BASE = (62.0, 65.8, 74.3, 71.7, 47.9, 71.1, 65.5)

SDFT_5 = Published(
    "SDFT, Table 5: new task and every prior benchmark (Qwen2.5-7B-Instruct)",
    "Shenfeld et al. 2026, arXiv 2601.19897, Table 5",
    _SKILLS,
    _rows(
        _SKILLS,
        {
            "Tool use": {
                "Base": (42.9, *_BASE),
                "SFT": (63.2, 57.3, 50.0, 49.8, 70.2, 37.5, 73.1, 56.0),
                "SFT + re-invoke": (63.1, 61.7, 68.9, 59.1, 71.5, 49.1, 71.6, 63.7),
                "DFT": (64.2, 59.7, 61.4, 60.2, 71.6, 40.2, 71.5, 60.8),
                "SDFT": (70.6, 61.6, 68.3, 71.9, 71.5, 47.3, 71.7, 65.4),
            },
            "Science": {
                "Base": (32.1, *_BASE),
                "SFT": (66.2, 55.0, 54.8, 35.3, 64.6, 36.8, 73.7, 53.4),
                "SFT + re-invoke": (66.0, None, None, None, None, None, None, 60.2),
                "DFT": (54.8, 57.6, 67.0, 60.4, 69.4, 38.8, 68.2, 60.2),
                "SDFT": (70.2, 60.9, 68.9, 66.8, 70.7, 46.5, 73.1, 64.5),
            },
            "Medical": {
                "Base": (30.1, *_BASE),
                "SFT": (35.5, 59.5, 62.1, 56.6, 70.5, 39.8, 72.9, 60.2),
                "SFT + re-invoke": (35.6, None, None, None, None, None, None, 62.6),
                "DFT": (36.2, 61.9, 64.6, 74.6, 71.6, 40.1, 71.3, 64.0),
                "SDFT": (40.2, 61.4, 67.7, 72.3, 71.5, 47.3, 71.9, 65.4),
            },
        },
    ),
    "The paper evaluates without a chat template but for IFEval; three seeds.",
)

PAPERS: dict[str, tuple[Published, ...]] = {"raft": (RAFT_1, RAFT_2), "sdft": (SDFT_1, SDFT_2, SDFT_5)}
