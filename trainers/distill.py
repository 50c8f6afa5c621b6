"""Distillation along rollouts from a teacher that may see more than the student: TRL's trainer, subclassed once.

    L = (1/A) Σ_answers Σ_t -log p(y_t | x, y_<t)  +  λ · L_KL
    L_KL = (T²/R) Σ_rollouts w · (1/L) Σ_t D( q(· | c, z_<t), p(· | x, z_<t) )

x the student's prompt, c the teacher's, z a rollout of L tokens after the skipped ones, A answer tokens and R rollouts
in the optimiser step, w a rollout's capped importance weight (1 for our own), D of trainers/divergences.py, λ of
trainers/balance.py. `reduction: tokens` divides by all rollout tokens of the step instead of by L and R. Without
supervision the first term is absent and λ is 1. No gradient flows through the sampling of z, but with the estimator
rao_blackwell (after Amini et al., arXiv 2504.10637), which adds what the sampling of earlier tokens does to later ones:

    (1/L) Σ_t log p(z_t) · sg( Σ_{s>t} D_s )          in the gradient alone; L counts as given

TRL generates rollouts for every prompt of an optimiser step (trainers/rollouts.py), buffers them and runs forward and
backward passes micro batch by micro batch. `_generate_and_score_completions` adds the teacher's hidden states and,
where a step has several micro batches, takes λ before the first; `_compute_loss` is the loss.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from refinery.errors import UserError
from trainers.balance import Balancer
from trainers.before import refuse_split
from trainers.gradients import compared
from trainers.loop import Loop
from trainers.losses import cross_entropy, distillation, gradient_at, reward_to_go, sample_means
from trainers.phases import two_phases
from trainers.reprompt import Reprompt
from trainers.rollouts import Batch, Rollouts, Settings, like
from trainers.teachers import Teacher, causal_model, check_head, frozen_copy, head_of, last_layer, teaching

__all__ = ["ConditionedDistillation", "Settings", "causal_model", "check_head", "frozen_copy", "head_of", "teaching"]


@dataclass(frozen=True)
class Sums:
    """Sums over a batch, to be divided by the optimiser step's totals."""

    sft: Tensor
    """Cross-entropy, over answer tokens."""
    kl: Tensor
    """T² times the divergence, over rollouts (their means) or over their tokens."""
    coverage: Tensor
    student_coverage: Tensor
    """P and R, likewise."""
    entropy: Tensor
    """Of the student's next word, likewise."""

    def stack(self) -> Tensor:
        return torch.stack([self.sft, self.kl, self.coverage, self.student_coverage, self.entropy]).detach()


class ConditionedDistillation(Loop, Rollouts):
    """Every method that distils along rollouts, by its settings."""

    def __init__(
        self, *, settings: Settings, balancer: Balancer, teacher: Teacher, second_rate: float = 1.0, **options: Any
    ):
        super().__init__(settings=settings, teacher=teacher, **options)
        self.balancer, self.second_rate = balancer, second_rate
        self.repeats = self.args.gradient_accumulation_steps
        self._lambda = 1.0 if balancer.fixed is None else balancer.fixed
        self._seen: list[Tensor] = []
        self.reprompt: Reprompt | None = None
        """Makes the teacher's prompts once the rollouts are there (trainers/reprompt.py)."""
        if teacher.kind == "ema" and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise UserError("teacher: ema is kept whole in each process: train without FSDP and DeepSpeed")
        if settings.gradients_every:
            refuse_split(self.accelerator, "gradients that are compared")
        teacher.follow(self.accelerator.unwrap_model(self.model))
        self.add_callback(_Follow(self))

    # ---- checkpoints

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "balancer": self.balancer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.balancer = Balancer(**state["balancer"])

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            self.teacher.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.teacher.load(Path(checkpoint))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        first = self.settings.sft_steps
        if not first:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            one: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = two_phases(one, self.args, first, num_training_steps, self.second_rate)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- rollouts

    @property
    def _supervising(self) -> bool:
        sft_steps = self.settings.sft_steps
        return self.settings.supervised and (not sft_steps or self.state.global_step < sft_steps)

    @property
    def _distilling(self) -> bool:
        return self.state.global_step >= self.settings.sft_steps

    def _generate_and_score_completions(self, inputs: list[Batch]) -> Batch:
        with self.timed("generation"):
            rollouts = self._rollouts(inputs) if self._distilling else [[] for _ in inputs]
        spoken = sum(len(z) for zs in rollouts for z in zs)
        likely = dict(zip((id(z) for zs in rollouts for z in zs), self._sampler or (), strict=False))
        shown = [[row["teacher_prompt"]] * len(zs) for row, zs in zip(inputs, rollouts, strict=True)]
        if self.reprompt is not None and self._distilling:
            rollouts, shown, shares = self.reprompt([row["place"] for row in inputs], rollouts)
            for name, value in shares.items():
                self._metrics["train"][name].append(value)
        flat, prompts = [z for row in rollouts for z in row], [p for row in shown for p in row]
        with self.timed("teacher"):
            states = self._teacher_states(prompts, flat)
        batch: Batch = {
            "place": torch.arange(len(inputs)),  # TRL takes the number of rows from the first value
            "prompt": [row["prompt"] for row in inputs],
            "answer": [row["answer"] if self._supervising else [] for row in inputs],
            "rollout": rollouts,
            "teacher": like(rollouts, states),
        }
        if self._sampler is not None:
            batch["sampler"] = [[likely[id(z)] for z in zs] for zs in rollouts]  # reprompt has left some out
        units = sum(len(self._kept(z)) for z in flat) if self.settings.by_tokens else len(flat)
        heard = sum(map(len, prompts)) + sum(map(len, flat))
        counts = [sum(map(len, batch["answer"])), units, spoken, heard, self._read(batch)]
        totals = self.accelerator.reduce(torch.tensor(counts, device=self.accelerator.device), "sum")
        self._count(*totals[2:].tolist())
        totals = totals.clamp(min=1)
        batch |= {"answer_tokens": totals[0], "units": totals[1]}
        if self._compares:
            for name, value in compared(self, batch).items():
                self._metrics["train"][name].append(value)
        if self._foresees:
            self._weigh(*self._forecast(batch), batch)
        return batch

    def _read(self, batch: Batch) -> int:
        """Tokens of the student's forward pass: each prompt with its answer, and with each of its rollouts."""
        rows = zip(batch["prompt"], batch["answer"], batch["rollout"], strict=True)
        return sum((len(p) + len(y)) * bool(y) + sum(len(p) + len(z) for z in zs) for p, y, zs in rows)

    def _count(self, spoken: int, heard: int, read: int) -> None:
        found = {"student_tokens": read}
        if self._distilling:
            found |= {"teacher_tokens": heard} | ({"rollout_tokens": spoken} if self._spoke else {})
        for name, value in found.items():
            self._metrics["train"][name].append(float(value))

    @property
    def _compares(self) -> bool:
        every = self.settings.gradients_every
        both = self._supervising and self._distilling
        return both and every is not None and (self.state.global_step + 1) % every == 0

    def _kept(self, rollout: list[int]) -> list[int]:
        return rollout[self.settings.skip_tokens :]

    # ---- the step's weight of the divergence

    @property
    def _weighs(self) -> bool:
        """λ is taken from this step's losses."""
        return self._supervising and self._distilling and self.balancer.fixed is None

    @property
    def _foresees(self) -> bool:
        """λ needs a pass of its own: the step has several forward passes, or it is the gradients that are compared."""
        split = self.args.gradient_accumulation_steps * self.accelerator.num_processes > 1
        return self._weighs and (split or self.balancer.kind == "gradient")

    def _micro_batches(self, rows: int, each: int = 1) -> list[slice]:
        size = self.args.per_device_train_batch_size * each
        return [slice(start, start + size) for start in range(0, rows, size)]

    def _forecast(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """This process's sums over the whole step, and where λ compares gradients those of both terms, (2, weights)."""
        student = self.accelerator.unwrap_model(self.model_wrapped)
        parts, gradients = [], []
        for rows in self._micro_batches(len(batch["prompt"])):
            micro = {key: value[rows] for key, value in batch.items() if isinstance(value, list)}
            if self.balancer.kind == "gradient":
                sums = self._sums(student, micro)
                gradients.append(torch.stack([gradient_at(term, last_layer(student)) for term in (sums.sft, sums.kl)]))
            else:
                with torch.no_grad():
                    call = (self.model_wrapped, student, self._sums, student, micro)
                    sums = self._forward_redirection(*call)
            parts.append(sums.stack())
        return torch.stack(parts).sum(0), torch.stack(gradients).sum(0) if gradients else None

    def _weigh(self, sums: Tensor, gradients: Tensor | None, batch: Batch) -> None:
        """λ from the step's mean losses or their gradients, and the step's metrics."""
        sums = self.accelerator.reduce(sums, "sum")
        totals = torch.stack([batch["answer_tokens"], batch["units"]])
        quantities = losses = sums[:2] / totals
        if gradients is not None:
            quantities = (self.accelerator.reduce(gradients, "sum") / totals[:, None]).norm(dim=-1)
        self._lambda = self.balancer.update(*quantities.tolist(), nats=float(losses[1]))
        self._record(sums, batch)

    def _record(self, sums: Tensor, batch: Batch) -> None:
        """Metrics of the step from its sums over all processes."""
        tokens, units = batch["answer_tokens"], batch["units"]
        sft, kl, coverage, student_coverage, entropy = (sums / torch.stack([tokens, *[units] * 4])).tolist()
        metrics = {}
        if self._supervising:
            metrics["sft_loss"] = sft
        if self._distilling:
            metrics |= {"kl_loss": kl, "coverage": coverage, "rollout_entropy": entropy}
            metrics |= {"teacher_tail": 1 - coverage, "student_tail": 1 - student_coverage}
        if self._supervising and self._distilling:
            metrics["lambda"] = self._lambda
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._metrics["train"].pop("entropy", None)  # TRL's, of what `_compute_loss` does not give it
        if self._seen and len(self._seen) == self.args.gradient_accumulation_steps:
            step: Any = self._buffered_inputs
            self._record(self.accelerator.reduce(torch.stack(self._seen).sum(0), "sum"), step[-1])
            self._seen = []
        return loss

    # ---- the loss

    def _compute_loss(self, unwrapped_student: Any, inputs: Batch, num_items_in_batch: Any) -> tuple[Tensor, ...]:
        sums = self._sums(unwrapped_student, inputs)
        if not self._weighs:
            self._seen.append(sums.stack())
        elif not self._foresees:
            self._weigh(sums.stack(), None, inputs)
        weight = self._lambda if self._supervising else 1.0
        loss = sums.sft / inputs["answer_tokens"] + weight * sums.kl / inputs["units"]
        nothing = torch.zeros((), device=loss.device)  # in the place of TRL's entropy; ours is among the sums
        return loss * self.accelerator.num_processes, nothing, nothing  # their gradients are averaged, not summed

    def _sums(self, student: Any, batch: Batch) -> Sums:
        """Both losses of a batch by one forward pass of the student: its prompts with the answers, and with the
        rollouts. The skipped tokens of a rollout count to its prompt."""
        asked = [(p, z) for p, zs in zip(batch["prompt"], batch["rollout"], strict=True) for z in zs]
        answered = [(p, y) for p, y in zip(batch["prompt"], batch["answer"], strict=True) if y]
        skip = self.settings.skip_tokens
        prompts = [p for p, _ in [*answered, *asked]]
        skips = [0] * len(answered) + [skip] * len(asked)
        rollouts = [z[skip:] for _, z in asked]
        if not prompts:  # of all attempts none can be learnt from
            return Sums(*[sum(p.flatten()[0] * 0.0 for p in student.parameters() if p.requires_grad)] * 5)
        states = self._states(student, prompts, [z for _, z in [*answered, *asked]], skips)
        targets = torch.tensor([token for _, answer in answered for token in answer], device=states.device).long()
        along_answers, along_rollouts = states.split([len(targets), len(states) - len(targets)])
        nothing = states.sum() * 0.0 if not len(states) else states.new_zeros(()).float()
        sft = kl = coverage = student_coverage = entropy = nothing
        with self.accelerator.autocast():
            if answered:
                alike = torch.ones(len(targets), device=states.device)
                sft = cross_entropy(along_answers, head_of(student), targets, alike).sum()
            if asked:
                kl, coverage, student_coverage, entropy = self._along(student, along_rollouts, rollouts, batch)
        return Sums(sft, kl, coverage, student_coverage, entropy)

    def _along(self, student: Any, states: Tensor, rollouts: list[list[int]], batch: Batch) -> tuple[Tensor, ...]:
        """The divergence, both coverages and the entropy, summed as `reduction` says."""
        how, head = self.settings.how, head_of(student)
        tokens = torch.tensor([token for z in rollouts for token in z], device=states.device).long()
        teacher = torch.cat([part for row in batch["teacher"] for part in row]).to(states.device)
        lengths = [len(z) for z in rollouts]
        shares = self._shares(lengths, states.device)
        scales = how.temperature**2 * shares
        if self.settings.importance_cap is not None and "sampler" in batch:
            scales = scales * self._importance(states, head, tokens, lengths, batch)
        found = distillation(states, head, teacher, self.teacher.head(student), how, tokens, scales)
        value, masses = found.value, (found.coverage, found.student_coverage, found.entropy)
        kl = (scales * value).sum()
        if how.estimator == "rao_blackwell":
            later = scales * reward_to_go(value.detach(), lengths)
            through = -(later * cross_entropy(states, head, tokens, later, self.settings.rollout_temperature)).sum()
            kl = kl + through - through.detach()
        return (kl, *((shares * mass).sum() for mass in masses if mass is not None))

    def _shares(self, lengths: list[int], device: torch.device) -> Tensor:
        """(N,) what each token counts in the sum over rollouts: 1 where all tokens are alike, else 1/L of its row."""
        sizes = torch.tensor(lengths, device=device)
        counts = torch.ones_like(sizes) if self.settings.by_tokens else sizes
        return counts.clamp(min=1).reciprocal().repeat_interleave(sizes)

    @torch.no_grad()
    def _importance(self, states: Tensor, head: Any, tokens: Tensor, lengths: list[int], batch: Batch) -> Tensor:
        """(N,) each rollout's mean of min(student / sampler, cap), at all of its tokens."""
        skip = self.settings.skip_tokens
        sampler = torch.tensor([v for row in batch["sampler"] for z in row for v in z[skip:]], device=states.device)
        likely = -cross_entropy(states, head, tokens, temperature=self.settings.rollout_temperature)
        ratio = (likely - sampler).exp()
        means = sample_means(ratio.clamp(max=self.settings.importance_cap), lengths)
        return means.repeat_interleave(torch.tensor(lengths, device=states.device))

    @torch.no_grad()
    def _teacher_states(self, prompts: list[list[int]], rollouts: list[list[int]]) -> list[Tensor]:
        """Each rollout's (tokens, H) hidden states of the teacher. States and not logits: they are what fits."""
        wrapped = self.model_wrapped if self.teacher_model is None else self.teacher_model
        skip = self.settings.skip_tokens
        found: list[Tensor] = []
        with self.teacher.active(self.accelerator.unwrap_model(self.model_wrapped)) as model:
            for rows in self._micro_batches(len(prompts), each=self.settings.rollouts):
                spoken = rollouts[rows]
                given = (prompts[rows], spoken, [skip] * len(spoken))
                states = self._forward_redirection(wrapped, model, self._states, model, *given)
                found += states.split([len(z[skip:]) for z in spoken])
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # so that the time is the teacher's
        return found


class _Follow(TrainerCallback):
    """The teacher follows once per optimiser step; where the second phase begins the optimiser begins anew."""

    def __init__(self, trainer: ConditionedDistillation):
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.trainer.teacher.step()
        if state.global_step == self.trainer.settings.sft_steps and given.get("optimizer") is not None:
            given["optimizer"].state.clear()
