"""lm-eval's result dictionaries as `Score` and `Sample` rows, so that its layout is known in one place.

What one looks up there: `results[task]["acc,none"]` is a metric and the filter that made it, `samples[task]` holds one
row for each item and filter, and a row's own metric values stand beside it under the metric's name.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals import stats
from refinery.records import Sample, Score
from refinery.store import Store


def rows(
    found: Mapping[str, Any], checkpoint: str, benchmark: str, fingerprint: str, settings: Mapping[str, Any]
) -> tuple[list[Score], list[Sample]]:
    """Every metric of a benchmark, with the items behind it.

    A benchmark of several tasks (mmlu) is one list of items. Prompt, target and response stand with the primary metric
    alone; the other metrics' samples are on the same items and hold just values. A metric that is no mean of numbers
    over items (a perplexity, an F1) has lm-eval's value, NaN for an interval, and no samples.
    """
    collected: dict[str, list[tuple[str, Mapping[str, Any], Any]]] = {}
    for task, samples in found["samples"].items():
        task_part = f"{task}/" if len(found["samples"]) > 1 else ""
        for item, sample in zip(_item_ids(samples), samples, strict=True):
            own = task_part + _cluster(sample)
            for metric in sample["metrics"]:
                collected.setdefault(label(metric, sample["filter"]), []).append((own + item, sample, sample[metric]))
    scores, kept = [], []
    for metric, each in collected.items():
        score, plain = _score(found, metric, [value for _, _, value in each])
        known = {**settings, "chance": _chance(metric, each)}
        scores.append(
            Score(checkpoint, benchmark, metric, *score, len(each), fingerprint, _rises(found, metric), known)
        )
        primary = metric == settings["primary_metric"]
        for item, sample, value in each if plain else []:
            texts = (_prompt(sample), _target(sample), _response(sample)) if primary else ("", "", "")
            kept.append(Sample(checkpoint, benchmark, metric, item, float(value), *texts, fingerprint))
    return scores, kept


def label(metric: str, filtered_by: str) -> str:
    """The metric's name in the store: lm-eval's, with the filter where it has one."""
    return metric if filtered_by == "none" else f"{metric},{filtered_by}"


def _item_ids(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The prompt's hash, which joins an item across checkpoints; with the item's number where prompts are equal."""
    times = Counter((sample["filter"], sample["prompt_hash"]) for sample in samples)
    ids = []
    for sample in samples:
        several = times[sample["filter"], sample["prompt_hash"]] > 1
        ids.append(sample["prompt_hash"][:24] + (f"-{sample['doc_id']}" if several else ""))
    return ids


def _cluster(sample: Mapping[str, Any]) -> str:
    """Items of a benchmark whose rows have a column `cluster` (the document they ask about) are named after it."""
    doc = sample.get("doc")
    cluster = doc.get("cluster") if isinstance(doc, Mapping) else None
    return "" if cluster is None else str(cluster).replace("/", "_") + "/"


def _chance(metric: str, each: Sequence[tuple[str, Mapping[str, Any], Any]]) -> float | None:
    """The score of guessing: one over the number of choices, 0 for text that is written, None where it is neither."""
    samples = [sample for _, sample, _ in each]
    if not any(_ranked(sample) for sample in samples):
        return 0.0
    right_or_wrong = all(isinstance(value, (int, float, np.bool_)) and value in (0, 1) for _, _, value in each)
    if metric not in ("acc", "acc_norm") or not right_or_wrong or not all(map(_ranked, samples)):
        return None
    return math.fsum(1 / len(sample["arguments"]) for sample in samples) / len(samples)


def _score(found: Mapping[str, Any], metric: str, values: Sequence[Any]) -> tuple[tuple[float, float, float], bool]:
    """((value, low, high), is it the mean of one number an item?)"""
    cell = metric if "," in metric else f"{metric},none"
    reported = [float(cells[cell]) for cells in found["results"].values() if isinstance(cells.get(cell), (int, float))]
    if not all(isinstance(value, (int, float, np.bool_, np.number)) for value in values):
        return (reported[0] if len(reported) == 1 else math.nan, math.nan, math.nan), False
    numbers = [float(value) for value in values]
    mean = math.fsum(numbers) / len(numbers)
    if len(reported) == 1 and not math.isclose(mean, reported[0], abs_tol=1e-9):
        return (reported[0], math.nan, math.nan), False
    if set(numbers) <= {0.0, 1.0}:
        return (mean, *stats.wilson(sum(numbers), len(numbers))), True
    interval = stats.t_mean(numbers)
    return (mean, interval.low, interval.high), True


def _rises(found: Mapping[str, Any], metric: str) -> bool:
    name = metric.partition(",")[0]
    return all(directions.get(name, True) is not False for directions in found["higher_is_better"].values())


def _prompt(sample: Mapping[str, Any]) -> str:
    return str(sample["arguments"][0][0])


def _target(sample: Mapping[str, Any]) -> str:
    target = sample["target"]
    if _ranked(sample) and isinstance(target, int) and 0 <= target < len(sample["arguments"]):
        return str(sample["arguments"][target][1])
    return str(target)


def _response(sample: Mapping[str, Any]) -> str:
    """The text that was made, or the choice that was likeliest."""
    if _ranked(sample):
        likelihoods = [answer[0] for answer in sample["filtered_resps"]]
        return str(sample["arguments"][likelihoods.index(max(likelihoods))][1])
    return str(sample["resps"][0][0])


def _ranked(sample: Mapping[str, Any]) -> bool:
    return len(sample["arguments"]) > 1 and isinstance(sample["filtered_resps"][0], (tuple, list))


class Writer:
    """Writes to the store what has come together in SECONDS, because opening it costs as much as a small benchmark."""

    SECONDS = 2.0

    def __init__(self, store: Store):
        self._store, self._last = store, time.monotonic()
        self._scores: list[Score] = []
        self._samples: list[Sample] = []
        self._notes: list[Path] = []

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, scores: Sequence[Score], samples: Sequence[Sample], notes: Path) -> None:
        """`notes` are no longer needed once the rows are stored."""
        self._scores += scores
        self._samples += samples
        self._notes.append(notes)
        if time.monotonic() - self._last > self.SECONDS:
            self._flush()

    def _flush(self) -> None:
        self._store.add_samples(self._samples)
        self._store.add_scores(self._scores)  # last: where the scores stand, the samples do too
        for notes in self._notes:
            notes.unlink(missing_ok=True)
        self._scores, self._samples, self._notes, self._last = [], [], [], time.monotonic()
