"""Rows of earlier or general data that come along: at a fixed share (sft_replay), or when they are due (mssr)."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from refinery.errors import UserError
from refinery.records import digest
from trainers.before import evaluating
from trainers.data import Plan, Row, order, prepare, steps
from trainers.job import Run, TrainJob
from trainers.supervised import SupervisedTrainer, supervised


def replay_rows(job: TrainJob, tokenizer: Any) -> tuple[list[Row], dict[str, int]]:
    """The rows that `replay` names as token ids, and those left out, by reason."""
    found = prepare(job.extra["replay"], tokenizer, max_length=job.params.max_length)
    return found.rows, dict(found.dropped)


# ---- at a fixed share


def epoch_of(
    new: list[Row], replay: list[Row], stream: Iterator[int], ratio: float, by: Literal["row", "token"], seed: str
) -> list[int]:
    """Places in `new` + `replay` of one pass: all new rows, and the next of `stream` up to the ratio, shuffled.

    By row the share is exact to half a row; by token (of answers, which are what is trained) rows are taken while that
    brings the share nearer to the ratio.
    """
    wanted = ratio / (1 - ratio)
    if by == "row":
        taken = list(itertools.islice(stream, round(wanted * len(new))))
    else:
        left = wanted * sum(len(row.answer) for row in new)
        taken = []
        while (size := len(replay[place := next(stream)].answer)) < 2 * left:
            taken.append(place)
            left -= size
    places = [*range(len(new)), *(len(new) + place for place in taken)]
    random.Random(seed).shuffle(places)
    return places


def mixed(new: list[Row], replay: list[Row], params: Any, seed: int) -> Plan:
    """Passes of new rows with replayed ones among them. Those come in shuffled passes of their own, which run on
    from one pass of the new rows to the next, so that none is taken twice before all were taken once."""

    def stream() -> Iterator[int]:
        for turn in itertools.count():
            yield from order(len(replay), len(replay), digest_seed(seed, f"replay/{turn}"))

    source = stream()
    passes: list[list[int]] = []

    def one_more() -> list[int]:
        passes.append(epoch_of(new, replay, source, params.ratio, params.by, f"{seed}/mixed/{len(passes)}"))
        return passes[-1]

    for _ in range(math.ceil(params.epochs)):
        one_more()
    whole, part = math.floor(params.epochs), params.epochs - math.floor(params.epochs)
    samples = sum(map(len, passes[:whole])) + (part * len(passes[whole]) if part else 0)
    total = steps(1, samples, params.batch_size, params.max_steps)
    while sum(map(len, passes)) < total * params.batch_size:
        one_more()
    places = [place for one in passes for place in one][: total * params.batch_size]
    return Plan([*new, *replay], total, places)


def digest_seed(seed: int, name: str) -> int:
    return int(digest([seed, name])[:8], 16)


# ---- when they are due


@dataclass
class Memory:
    """What MSSR keeps of each replayed row, and when the next replay is due. Steps count from 1."""

    strength: list[float]
    """S_i: how many steps it takes to forget the row by a factor e."""
    seen: list[int]
    """s_i: the step at which it was trained on last; 0 before."""
    reference: list[float] = field(default_factory=list)
    """Its loss before training."""
    interval: float = 10.0
    due: float = 10.0

    def forgotten(self, step: int) -> list[float]:
        """1 - R_i with R_i = exp(-(s - s_i) / S_i)."""
        return [-math.expm1(-(step - s) / strength) for s, strength in zip(self.seen, self.strength, strict=True)]

    def draw(self, step: int, count: int, seed: int) -> list[int]:
        """`count` different rows, each with a chance in proportion to 1 - R_i."""
        noise = random.Random(f"{seed}/mssr/{step}")
        keys = [
            (math.log(1 - noise.random()) / weight if weight > 0 else -math.inf, place)
            for place, weight in enumerate(self.forgotten(step))
        ]
        return sorted(place for _, place in sorted(keys, reverse=True)[:count])

    def replayed(self, step: int, losses: dict[int, float], gain: float, growth: float) -> None:
        """S_i ← S_i (1 + g max(0, 1 - loss_i / loss_ref)), s_i ← s, and the next interval is longer."""
        for place, loss in losses.items():
            reference = self.reference[place]
            held = 1 - loss / reference if reference > 0 else 0.0
            self.strength[place] *= 1 + gain * max(0.0, held)
            self.seen[place] = step
        self.interval *= growth
        self.due += self.interval


class MssrTrainer(SupervisedTrainer):
    """At the steps when a replay is due, rows drawn from memory join the step's batch; the loss is the mean over all
    answer tokens of both."""

    memory: Memory
    replay: list[Row]
    per_event: int
    gain: float
    growth: float

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "memory": asdict(self.memory)}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.memory = Memory(**state["memory"])

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not self.memory.reference:
            every = range(len(self.replay))
            size = self.args.per_device_train_batch_size
            parts = [list(every[start : start + size]) for start in range(0, len(every), size)]
            self.memory.reference = [loss for part in parts for loss in self._losses(part)]
        step = self.state.global_step + 1
        if not batches or step < self.memory.due:
            return batches, items
        drawn = self.memory.draw(step, self.per_event, self.args.seed)
        losses = self._losses(drawn)
        self.memory.replayed(step, dict(zip(drawn, losses, strict=True)), self.gain, self.growth)
        self._metrics["train"]["replay_loss"].append(sum(losses) / len(losses))
        for number in range(len(batches)):
            if own := drawn[number :: len(batches)]:
                batches[number] = self._joined(batches[number], self._collated(own, device))
        return batches, self._get_num_items_in_batch(batches, device)

    def _collated(self, places: list[int], device: Any) -> dict[str, Tensor]:
        rows = [self.replay[place] for place in places]
        made = self.data_collator(
            [{"input_ids": r.prompt + r.answer, "labels": [-100] * len(r.prompt) + r.answer} for r in rows]
        )
        return {name: value.to(device) for name, value in made.items()}

    def _joined(self, one: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
        tokenizer: Any = self.processing_class
        fill = {"input_ids": tokenizer.pad_token_id, "labels": -100, "attention_mask": 0}
        width = max(one["input_ids"].shape[1], other["input_ids"].shape[1])

        def wide(batch: dict[str, Tensor], name: str) -> Tensor:
            value = batch[name]
            return torch.nn.functional.pad(value, (0, width - value.shape[1]), value=fill[name])

        return {name: torch.cat([wide(one, name), wide(other, name).to(one[name].device)]) for name in fill}

    @torch.no_grad()
    def _losses(self, places: list[int]) -> list[float]:
        """Each row's mean loss as the weights stand, without dropout."""
        batch = self._collated(places, self.accelerator.device)
        model: Any = self.model
        with evaluating(model), self.accelerator.autocast():
            made = model(**batch, use_cache=False, fused_lm_head=True)
        sums, counts = made.log_probs.sum(-1), made.label_mask.sum(-1)
        return (-sums / counts).tolist()


def mssr(run: Run) -> MssrTrainer:
    """The trainer of one run (trainers/methods/mssr.py has the parameters)."""
    params: Any = run.job.params
    rows, dropped = replay_rows(run.job, run.tokenizer)
    trainer = supervised(run, MssrTrainer)
    if trainer.accelerator.num_processes > 1:
        raise UserError("mssr keeps its memory in one process; train it without several")
    trainer.replay, trainer.gain, trainer.growth = rows, params.gain, params.growth
    trainer.per_event = min(params.replay_rows or params.batch_size, len(rows))
    strength = [params.strength] * len(rows)
    trainer.memory = Memory(strength, [0] * len(rows), interval=params.interval, due=params.interval)
    run.notes |= {"replay_rows": len(rows), "replay_dropped": dropped}
    return trainer
