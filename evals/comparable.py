"""Whether two scores may be compared, and what differs where they may not. Every comparison asks here.

Scores with one fingerprint were measured alike. Scores of other tools (evals/importing.py) come with settings of which
some are UNKNOWN. What decides the prompt (task, template, shots) may be unknown where both runs turn out to have asked
the same prompts with the same targets, item by item; what decides the answer or its marking may not; what moves a score
by little (precision, batch size, hardware, the tool's version) is warned of.
"""

from collections.abc import Collection, Iterable, Sequence
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


def counting(own: Sequence[Score], others: Iterable[Sequence[Score]]) -> tuple[Score | None, str]:
    """Of one checkpoint's evaluations of a benchmark the one that counts, and what there is to say about it. All are
    oldest first, as the store has them.

    The newest counts that any of the `others` shares; where none shares any, the newest. What the checkpoint alone was
    asked later may be a new evaluation that has not come to the others yet, or that of another point of a matrix (whose
    task is another, and which is not spoken of).
    """
    known = [{score.fingerprint for score in scores} for scores in others]
    shared = {score.fingerprint: sum(score.fingerprint in prints for prints in known) for score in own}
    chosen = next((score for score in reversed(own) if shared[score.fingerprint]), own[-1] if own else None)
    if chosen is None:
        return None, ""
    place = own.index(chosen)
    task = chosen.settings.get("task")
    if later := [score for score in own[place + 1 :] if score.settings.get("task") == task]:
        return chosen, f"the evaluation before counts, as the newest ({judge(later[-1], chosen).words}) stands alone"
    wider = [score for score in own[:place] if shared[score.fingerprint] > shared[chosen.fingerprint]]
    if wider:
        words = judge(wider[-1], chosen).words
        return chosen, f"the newest evaluation counts; an older one ({words}) was made of more checkpoints"
    return chosen, ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}...{text[-1]}"


def alike(scores: Sequence[Score], like: Score) -> Score:
    """The score measured as `like` was, or the newest."""
    return next((score for score in scores if score.fingerprint == like.fingerprint), scores[-1])


def grouped(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """Benchmarks and why they are not compared, in words: each reason once, after all that it holds for."""
    alike: dict[str, dict[str, None]] = {}
    for name, why in reasons:
        alike.setdefault(why, {})[name] = None
    return [f"{', '.join(names)}: {why}" for why, names in alike.items()]
