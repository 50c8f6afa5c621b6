"""How a checkpoint answered a benchmark, beside what it scored: points lost by broken form are not lost knowledge.

Of choices that are ranked by likelihood, with the likelihoods' softmax as the chance of each:

    ece          expected calibration error of the choice that was taken, 15 bins
    brier        Brier score over all choices, 0 to 2
    confidence   mean chance of the choice that was taken

Of answers in words, the share

    read         in which the benchmark's rule found an answer at all, right or wrong, where the rule can tell
    cut          that stopped at the limit of their length, where that is known
    empty        without a word
    refused      that open as a refusal

They are scores of `answers/<benchmark>` under the fingerprint of the benchmark's own.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evals import stats
from refinery.records import Score

PREFIX = "answers"
NOT_FOUND = "[invalid]"
"""What lm-eval's filters put where they find no answer."""
REFUSES = re.compile(
    r"^\W*(i'?m sorry|i am sorry|sorry|i can(no|')t|i cannot|i'?m unable|i am unable|i won'?t|as an ai)\b", re.I
)

WasCut = Callable[[Sequence[Any], str], bool | None]
"""(a request's arguments, its answer) to whether the answer was cut at its limit; None where that is not known."""


def told(found: Mapping[str, Any], tasks: Mapping[str, Any], was_cut: WasCut, like: Score, primary: str) -> list[Score]:
    """The scores of `answers/...` of one benchmark. `found` is lm-eval's result, `like` the benchmark's own score and
    `primary` its metric, with the filter where it has one."""
    samples = [(tasks[name], sample) for name, rows in found["samples"].items() for sample in _once(rows, primary)]
    measured = [*_of_choices([sample for _, sample in samples]), *_of_words(samples, was_cut)]
    settings = {**like.settings, "primary_metric": ""}
    name = f"{PREFIX}/{like.benchmark}"
    return [
        Score(like.checkpoint, name, metric, *mean, n, like.fingerprint, metric in ("read", "confidence"), settings)
        for metric, mean, n in measured
    ]


def _once(rows: Sequence[Mapping[str, Any]], primary: str) -> Iterator[Mapping[str, Any]]:
    """Each item once: lm-eval has a row for every filter."""
    wanted = primary.partition(",")[2] or "none"
    return (row for row in rows if row["filter"] == wanted)


# ---- choices


def _of_choices(samples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, tuple[float, float, float], int]]:
    known = [sample for sample in samples if _one_right(sample)]
    if not known or len(known) < len(samples):
        return
    chances = [stats.softmax([answer[0] for answer in sample["filtered_resps"]]) for sample in known]
    gold = [int(sample["target"]) for sample in known]
    sure = [float(each.max()) for each in chances]
    right = [float(each.argmax() == wanted) for each, wanted in zip(chances, gold, strict=True)]
    yield "ece", stats.ece(sure, right), len(known)
    for metric, mean in (("brier", stats.brier(chances, gold)), ("confidence", stats.t_mean(sure))):
        yield metric, (mean.value, mean.low, mean.high), len(known)


def _one_right(sample: Mapping[str, Any]) -> bool:
    """Whether it is a choice by likelihood of which exactly one is right and which was scored as such."""
    answers, target = sample["filtered_resps"], str(sample["target"])
    ranked = len(answers) == len(sample["arguments"]) > 1 and all(isinstance(a, (tuple, list)) for a in answers)
    return ranked and "acc" in sample["metrics"] and target.isdigit() and int(target) < len(answers)


# ---- words


def _of_words(
    samples: Sequence[tuple[Any, Mapping[str, Any]]], was_cut: WasCut
) -> Iterator[tuple[str, tuple[float, float, float], int]]:
    """Every answer counts, where several were sampled for an item."""
    written = [(task, sample) for task, sample in samples if task.OUTPUT_TYPE == "generate_until"]
    shares: dict[str, list[bool | None]] = {"read": [], "cut": [], "empty": [], "refused": []}
    for task, sample in written:
        for number, text in enumerate(sample["resps"][0]):
            shares["read"].append(_read(task, sample, number, str(text)))
            shares["cut"].append(was_cut(sample["arguments"][0], text))
            shares["empty"].append(not str(text).strip())
            shares["refused"].append(bool(REFUSES.match(str(text))))
    for metric, values in shares.items():
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            yield metric, (sum(known) / len(known), *stats.wilson(sum(known), len(known))), len(known)


def _read(task: Any, sample: Mapping[str, Any], number: int, text: str) -> bool | None:
    """Whether the rule found an answer: by the benchmark's own word, or by lm-eval's filter."""
    parses = getattr(task, "parses", None)
    if parses is not None:
        return bool(parses(sample["doc"], text))
    filtered = sample["filtered_resps"]
    if sample["filter"] == "none" or len(filtered) <= number:
        return None
    return bool(filtered[number] != NOT_FOUND)
