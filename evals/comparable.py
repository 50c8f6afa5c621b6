"""Whether two scores may be compared, and what differs where they may not. Every comparison asks here.

Scores with one fingerprint were measured alike. Scores of other tools (evals/importing.py) come with settings of which
some are UNKNOWN. What decides the prompt (task, template, shots) may be unknown where both runs turn out to have asked
the same prompts with the same targets, item by item; what decides the answer or its marking may not; what moves a score
by little (precision, batch size, hardware, the tool's version) is warned of.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from refinery.records import Score

UNKNOWN = "unknown"
"""A setting that cannot be known. None is a value: no chat template, no limit."""

NO_SETTINGS = ("prompts_cut", "chance", "imported", "primary_metric")
"""Kept with a score's settings, but no cause of it; the metrics are compared by themselves."""

SEEN_IN_PROMPTS = ("task", "task_config", "chat_template", "shots", "limit", "system_prompt")
"""Settings that show in the items' prompts and targets."""

SMALL = ("harness", "dtype", "device", "batch_size", "backend")
"""Settings that move a score by little: where one of them is unknown, it is said; where they differ, it is refused."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Empty: the scores were measured alike."""

    refused: dict[str, str] = field(default_factory=dict)
    """Setting to what differs, in words."""
    warnings: dict[str, str] = field(default_factory=dict)

    def without(self, accepted: Collection[str]) -> "Verdict":
        """Refusals that somebody has said to live with become warnings."""
        kept = {key: words for key, words in self.refused.items() if key not in accepted}
        said = {key: f"{words} (accepted)" for key, words in self.refused.items() if key in accepted}
        return Verdict(kept, {**self.warnings, **said})

    @property
    def words(self) -> str:
        return ", ".join(self.refused.values())


def judge(score: Score, like: Score, same_items: bool = False) -> Verdict:
    """`score` beside `like`. `same_items`: they were seen to have asked the same prompts with the same targets."""
    if score.metric != like.metric:
        return Verdict({"metric": f"metric {score.metric!r} instead of {like.metric!r}"})
    alike = score.fingerprint == like.fingerprint
    foreign = bool(score.settings.get("imported") or like.settings.get("imported"))
    missing = UNKNOWN if foreign else None
    refused: dict[str, str] = {}
    warnings: dict[str, str] = {}
    for key in sorted({*score.settings, *like.settings} - {*NO_SETTINGS}):
        mine, other = score.settings.get(key, missing), like.settings.get(key, missing)
        if UNKNOWN not in (mine, other):
            if mine != other and not alike:
                refused[key] = "other items" if key == "items" else f"{key} {_short(mine)} instead of {_short(other)}"
        elif not (key in SEEN_IN_PROMPTS and same_items):
            sides = "both sides" if mine == other else "one side"
            (warnings if alike or key in SMALL else refused)[key] = f"{key} unknown on {sides}"
    if not alike and not foreign and not refused:
        refused["fingerprint"] = "another fingerprint"
    return Verdict(refused, warnings)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"


def grouped(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """Benchmarks and why they are not compared, in words: each reason once, after all that it holds for."""
    alike: dict[str, dict[str, None]] = {}
    for name, why in reasons:
        alike.setdefault(why, {})[name] = None
    return [f"{', '.join(names)}: {why}" for why, names in alike.items()]
