"""How far a checkpoint has moved from its base, beside what it scores: on the very prompts and answers of the
benchmarks that both answered in words.

    forward_kl   KL(base || checkpoint) along the base's answers: what forgetting goes with (arXiv 2509.04259)
    reverse_kl   KL(checkpoint || base) along the checkpoint's own answers
    base_nll     -log p(base's answer | prompt) under the checkpoint
    entropy      of the checkpoint's next word along its own answers
    words, empty, refused   length of its own answers in words, the share without one, the share that opens as a refusal

The first four are nats a token, all words of the vocabulary counted: a mean over each answer's tokens, then over
answers. The answers are those that were scored (greedy, unless the benchmark samples), so a divergence is that of the
distributions along them and no estimate of a divergence of whole sequences. `weights` is |θ - θ0| / |θ0|, whole and for
each layer. Where one of the two has more words at the end of its vocabulary, all of this is over those that both have.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from evals import stats
from evals.answers import REFUSES
from refinery.errors import UserError
from refinery.records import Sample, Score, digest
from refinery.store import Store

if TYPE_CHECKING:
    import torch

VERSION = 1
PREFIX = "movement"
"""Scores of `movement/domain` and `movement/general` are of those benchmarks' prompts, `movement/weights` of θ."""
MOST_TOKENS = 512
"""Of an answer: what comes after is left out."""
CHUNK = 256
"""Positions at a time: their float32 copies of the logits are what takes memory."""


class Asked(NamedTuple):
    """One item that base and checkpoint both answered in words."""

    item: str
    prompt: str
    base: str
    own: str


@dataclass(slots=True)
class Movement:
    """Measures checkpoints against one base, whose weights are loaded once, when the first is measured."""

    store: Store
    base: str
    """Its fingerprint in the store."""
    open_model: Callable[[str], tuple[Any, Any]]
    """A checkpoint's fingerprint to (model in evaluation mode, tokenizer)."""
    benchmarks: Mapping[str, Sequence[str]]
    """"domain" and "general" to their names."""
    prompts: int
    """Items of each kind, at most, chosen by the digest of their ids, evenly over benchmarks."""
    about: Mapping[str, Any]
    """What else must be equal for two measurements to be comparable (dtype, device)."""
    _base: tuple[Any, Any] | None = None

    def measure(self, checkpoint: str) -> list[Score]:
        """From the store where it stands there. Nothing where no benchmark has written answers. UserError where it
        is no version of the base."""
        asked = {kind: self._asked(checkpoint, names) for kind, names in self.benchmarks.items()}
        asked = {kind: some for kind, some in asked.items() if some}
        if not asked:
            return []
        settings = {"version": VERSION, "base": self.base, "prompts": self.prompts, **self.about}
        found = {kind: {**settings, "items": digest([a.item for a in some])} for kind, some in asked.items()}
        found["weights"] = settings
        standing = self.store.scores(checkpoint=checkpoint)
        known = [s for s in standing if s.fingerprint in {digest(each) for each in found.values()}]
        if {s.benchmark for s in known} == {f"{PREFIX}/{kind}" for kind in found}:
            newest = {s.benchmark: s.fingerprint for s in standing}
            if any(newest[s.benchmark] != s.fingerprint for s in known):
                self.store.add_scores(known)  # of several measurements the one asked for last counts
            return known
        return self._measured(checkpoint, asked, found)

    def _measured(
        self, checkpoint: str, asked: Mapping[str, Sequence[Asked]], found: Mapping[str, dict[str, Any]]
    ) -> list[Score]:
        if self._base is None:
            self._base = self.open_model(self.base)
        before, tokenizer = self._base
        model, own_tokenizer = self.open_model(checkpoint)
        common = vocabulary(model, own_tokenizer, before, tokenizer)
        scores: list[Score] = []
        samples: list[Sample] = []
        for kind, some in asked.items():
            name, fingerprint = f"{PREFIX}/{kind}", digest(found[kind])
            rows = [_moved(before, model, tokenizer, each, common) | _said(each.own) for each in some]
            for metric in dict.fromkeys(key for row in rows for key in row):
                own = [(each.item, row[metric]) for each, row in zip(some, rows, strict=True) if metric in row]
                value = stats.t_mean([number for _, number in own])
                interval = (value.value, value.low, value.high, len(own))
                scores.append(Score(checkpoint, name, metric, *interval, fingerprint, False, found[kind]))
                samples += [Sample(checkpoint, name, metric, i, v, "", "", "", fingerprint) for i, v in own]
        whole, layers, size = distance(model.state_dict(), before.state_dict(), common)
        weights = found["weights"]
        told = {**weights, "layers": layers}
        name = f"{PREFIX}/weights"
        nan = float("nan")
        scores.append(Score(checkpoint, name, "relative_distance", whole, nan, nan, size, digest(weights), False, told))
        self.store.add_samples(samples)
        self.store.add_scores(scores)
        return scores

    def _asked(self, checkpoint: str, names: Sequence[str]) -> list[Asked]:
        sql = """SELECT b.benchmark || '/' || b.item AS item, b.benchmark, b.prompt, b.response AS base,
                        c.response AS own
                 FROM samples b JOIN samples c USING (benchmark, metric, item, fingerprint)
                 JOIN scores s ON s.checkpoint = b.checkpoint AND s.benchmark = b.benchmark AND s.metric = b.metric
                  AND s.fingerprint = b.fingerprint
                 WHERE b.checkpoint = ? AND c.checkpoint = ? AND list_contains(?::VARCHAR[], b.benchmark)
                   AND b.prompt <> '' AND b.response <> '' AND s.settings->>'max_tokens' IS NOT NULL
                 QUALIFY row_number() OVER (PARTITION BY b.benchmark, b.item ORDER BY s.rowid DESC) = 1
                     AND row_number() OVER (PARTITION BY b.benchmark ORDER BY md5(b.item)) <= ?"""
        rows = self.store.query(sql, [self.base, checkpoint, list(names), self.prompts])
        return [Asked(r["item"], r["prompt"], r["base"], r["own"]) for r in evenly(rows, self.prompts)]


def evenly(rows: Iterable[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """At most `count` of them, as equally many of each benchmark as there are; within one by the digest of the id."""
    ranked: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["item"].encode()).digest()):
        ranked.setdefault(row["benchmark"], []).append(row)
    places = [(place, name, row) for name, some in ranked.items() for place, row in enumerate(some)]
    chosen = sorted(places, key=lambda each: each[:2])[:count]
    return sorted((row for _, _, row in chosen), key=lambda row: str(row["item"]))


def _said(text: str) -> dict[str, float]:
    empty, refused = not text.strip(), bool(REFUSES.match(text))
    return {"words": float(len(text.split())), "empty": float(empty), "refused": float(refused)}


# ---- along an answer


def _moved(before: Any, now: Any, tokenizer: Any, asked: Asked, common: int | None) -> dict[str, float]:
    """The measures of one item that are known: none along an answer without a token."""
    found: dict[str, float] = {}
    if along := along_answer(before, now, tokenizer, asked.prompt, asked.base, common):
        found |= {"forward_kl": along["before_now"], "base_nll": along["nll_now"]}
    if along := along_answer(before, now, tokenizer, asked.prompt, asked.own, common):
        found |= {"reverse_kl": along["now_before"], "entropy": along["entropy_now"]}
    return found


def vocabulary(now: Any, own_tokenizer: Any, before: Any, tokenizer: Any) -> int | None:
    """Of how many words, the first ones, both models know; None: of all. UserError where more differs than what stands
    at the end: a tokenizer with other words before, or a base whose own words do not all fit."""
    rows = [model.get_input_embeddings().weight.shape[0] for model in (now, before)]
    if rows[0] == rows[1]:
        return None
    common = min(rows)
    ours, theirs = own_tokenizer.get_vocab(), tokenizer.get_vocab()
    kept = {word: number for word, number in ours.items() if number < common}
    if max(theirs.values()) >= common or any(kept.get(word) != number for word, number in theirs.items()):
        raise UserError(f"its vocabulary of {rows[0]} is not the base's of {rows[1]} with words added at the end")
    return common


def along_answer(
    before: Any, now: Any, tokenizer: Any, prompt: str, answer: str, common: int | None = None
) -> dict[str, float]:
    """Means over the answer's tokens, nats: before_now KL(before || now), now_before KL(now || before), nll_now and
    entropy_now; over the first `common` words. Empty where the answer has no token or the context no room for one."""
    import torch

    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    tail = tokenizer(answer, add_special_tokens=False)["input_ids"][:MOST_TOKENS]
    context = getattr(now.config.get_text_config(), "max_position_embeddings", None) or len(head) + len(tail)
    head = head[max(0, len(head) + len(tail) - context) :]
    if not tail or not head:
        return {}
    sums = {"before_now": 0.0, "now_before": 0.0, "nll_now": 0.0, "entropy_now": 0.0}
    with torch.no_grad():
        logits = [_logits(model, head, tail) for model in (before, now)]
        for start in range(0, len(tail), CHUNK):
            rows = slice(start, start + CHUNK)
            p, q = (torch.log_softmax(each[rows, :common].float(), -1) for each in logits)
            targets = torch.tensor(tail[rows], device=q.device)[:, None]
            sums["before_now"] += float((p.exp() * (p - q)).sum())
            sums["now_before"] += float((q.exp() * (q - p)).sum())
            sums["entropy_now"] -= float((q.exp() * q).sum())
            sums["nll_now"] -= float(q.gather(-1, targets).sum())
    return {name: total / len(tail) for name, total in sums.items()}


def _logits(model: Any, head: Sequence[int], tail: Sequence[int]) -> "torch.Tensor":
    """(len(tail), V) that predict the tokens of `tail`."""
    import torch

    ids = torch.tensor([[*head, *tail]], device=model.device)
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=len(tail) + 1).logits[0, :-1]
    return logits


# ---- weights


def distance(
    now: Mapping[str, Any], before: Mapping[str, Any], common: int | None = None
) -> tuple[float, dict[str, float], int]:
    """(whole, by layer, number of weights): |now - before| / |before|, Euclidean, in float64; a layer is what stands up
    to the first number in a weight's name, or its name. Of weights with a row a word, those of the first `common`.
    UserError where they are not weights of one shape."""
    squares: dict[str, np.ndarray] = {}
    size = 0
    for name, old, new in _pairs(now, before, common):
        old, new = old.double(), new.double().to(old.device)
        both = np.array([float(((new - old) ** 2).sum()), float((old**2).sum())])
        squares[_layer(name)] = squares.get(_layer(name), np.zeros(2)) + both
        size += old.numel()
    moved, length = np.sum(list(squares.values()), axis=0)
    layers = {name: float(np.sqrt(a / b)) if b else 0.0 for name, (a, b) in squares.items()}
    return float(np.sqrt(moved / length)), layers, size


def _pairs(now: Mapping[str, Any], before: Mapping[str, Any], common: int | None) -> Iterator[tuple[str, Any, Any]]:
    for name, old in before.items():
        new = now.get(name)
        if new is not None and new.shape != old.shape and common == min(len(new), len(old)):
            new, old = new[:common], old[:common]
        if new is None or new.shape != old.shape:
            raise UserError(f"the checkpoint is no version of the base: {name} has another shape or is not there")
        yield name, old, new


def _layer(name: str) -> str:
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found.group() if found else name
