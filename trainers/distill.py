"""On-policy distillation from a teacher that is shown the answer: TRL's DistillationTrainer, subclassed once.

TRL generates a rollout for every prompt of an optimiser step, buffers them and runs forward and backward passes micro
batch by micro batch. Three of its methods are overridden (tests/trainers/test_trl_contract.py holds their shapes):

- `_tokenize_prompts`: prompts are token ids already.
- `_generate_and_score_completions`: adds the teacher's hidden states along the rollouts and, where the step has more
  than one micro batch, takes the step's λ before any of them is trained on.
- `_compute_loss`: cross-entropy on the answer plus λ times the divergence along the rollout.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import DistillationConfig, DistillationTrainer

from refinery.errors import UserError
from trainers.balance import Balancer
from trainers.job import Run
from trainers.loop import Loop
from trainers.losses import Head, Tail, cross_entropy, distillation, sample_means

Batch = dict[str, Any]
"""Lists with one entry per row: prompt, answer and rollout (token ids), teacher ((tokens, H) states); and two numbers
of the whole optimiser step, answer_tokens and rows."""


@dataclass(frozen=True)
class Settings:
    """What the divergence is."""

    top_k: int
    temperature: float
    tail: Tail


@dataclass(frozen=True)
class Sums:
    """Sums over a batch's rows, to be divided by the optimiser step's totals."""

    sft: Tensor
    """Cross-entropy, summed over answer tokens."""
    kl: Tensor
    """T² times each row's mean divergence, summed over rows."""
    coverage: Tensor
    student_coverage: Tensor
    """Each row's mean P and R, summed over rows."""

    def stack(self) -> Tensor:
        return torch.stack([self.sft, self.kl, self.coverage, self.student_coverage]).detach()


class ConditionedDistillation(Loop, DistillationTrainer):
    """`teacher_model` is the frozen original, or None under LoRA, where the student with its adapter off is it."""

    def __init__(self, *, settings: Settings, balancer: Balancer, **options: Any):
        super().__init__(**options)
        self.settings, self.balancer = settings, balancer
        self.repeats = self.args.gradient_accumulation_steps
        self._lambda = 0.0
        if self.teacher_model is not None:
            self.teacher_model.requires_grad_(False).eval()

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "balancer": self.balancer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.balancer = Balancer(**state["balancer"])

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return prompts, None, {}

    def _generate_and_score_completions(self, inputs: list[Batch]) -> Batch:
        made = super()._generate_and_score_completions(inputs)
        kept = made["completion_mask"].bool()
        rollouts = [ids[mask].tolist() for ids, mask in zip(made["completion_ids"], kept, strict=True)]
        batch: Batch = {
            "place": torch.arange(len(inputs)),  # TRL takes the number of rows from the first value
            "prompt": [row["prompt"] for row in inputs],
            "answer": [row["answer"] for row in inputs],
            "rollout": rollouts,
        }
        batch["teacher"] = self._teacher_states([row["teacher_prompt"] for row in inputs], rollouts)
        counts = [sum(len(row["answer"]) for row in inputs), len(inputs)]
        totals = self.accelerator.reduce(torch.tensor(counts, device=self.accelerator.device), "sum")
        batch |= {"answer_tokens": totals[0], "rows": totals[1], "num_items_in_batch": made["num_items_in_batch"]}
        if self._window_is_split:
            self._weigh(self._forecast(batch), batch)
        return batch

    @property
    def _window_is_split(self) -> bool:
        """An optimiser step has more than one forward pass, so its λ must be known before the first of them."""
        return self.args.gradient_accumulation_steps * self.accelerator.num_processes > 1

    def _micro_batches(self, rows: int) -> list[slice]:
        size = self.args.per_device_train_batch_size
        return [slice(start, start + size) for start in range(0, rows, size)]

    @torch.no_grad()
    def _forecast(self, batch: Batch) -> Tensor:
        """This process's sums over the whole step, by one forward pass without gradient."""
        student = self.accelerator.unwrap_model(self.model_wrapped)
        parts = []
        for rows in self._micro_batches(len(batch["prompt"])):
            micro = {key: value[rows] for key, value in batch.items() if isinstance(value, list)}
            call = (self.model_wrapped, student, self._sums, student, micro)
            parts.append(self._forward_redirection(*call).stack())
        return torch.stack(parts).sum(0)

    def _weigh(self, sums: Tensor, batch: Batch) -> None:
        """λ from the step's mean losses, and the step's metrics."""
        sums = self.accelerator.reduce(sums, "sum")
        tokens, rows = batch["answer_tokens"], batch["rows"]
        sft, kl, coverage, student_coverage = (sums / torch.stack([tokens, rows, rows, rows])).tolist()
        self._lambda = self.balancer.update(sft, kl)
        metrics = {"sft_loss": sft, "kl_loss": kl, "lambda": self._lambda, "coverage": coverage}
        metrics |= {"teacher_tail": 1 - coverage, "student_tail": 1 - student_coverage}
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def _compute_loss(self, unwrapped_student: Any, inputs: Batch, num_items_in_batch: Any) -> tuple[Tensor, ...]:
        sums = self._sums(unwrapped_student, inputs)
        if not self._window_is_split:
            self._weigh(sums.stack(), inputs)
        processes = self.accelerator.num_processes  # whose gradients are averaged, not summed
        loss = sums.sft / inputs["answer_tokens"] + self._lambda * sums.kl / inputs["rows"]
        nothing = torch.zeros((), device=loss.device)  # TRL logs an entropy, which is not taken here
        return loss * processes, nothing, nothing

    def _sums(self, student: Any, batch: Batch) -> Sums:
        """Both losses of a batch by one forward pass of the student: its prompts with the answers, then with the
        rollouts."""
        settings = self.settings
        prompts, answers, rollouts = batch["prompt"], batch["answer"], batch["rollout"]
        states = self._states(student, [*prompts, *prompts], [*answers, *rollouts])
        targets = torch.tensor([token for answer in answers for token in answer], device=states.device)
        along_answers, along_rollouts = states.split([len(targets), len(states) - len(targets)])
        head = head_of(student)
        with self.accelerator.autocast():
            sft = cross_entropy(along_answers, head, targets).sum()
            kl, coverage, student_coverage = distillation(
                along_rollouts,
                head,
                torch.cat(batch["teacher"]).to(states.device),
                head if self.teacher_model is None else head_of(self.accelerator.unwrap_model(self.teacher_model)),
                top_k=settings.top_k,
                temperature=settings.temperature,
                tail=settings.tail,
            )
        lengths = [len(rollout) for rollout in rollouts]
        means = [sample_means(values, lengths).sum() for values in (kl, coverage, student_coverage)]
        return Sums(sft, settings.temperature**2 * means[0], means[1], means[2])

    @torch.no_grad()
    def _teacher_states(self, prompts: list[list[int]], rollouts: list[list[int]]) -> list[Tensor]:
        """Each rollout's (tokens, H) hidden states of the teacher. States and not logits: they are what fits."""
        wrapped = self.model_wrapped if self.teacher_model is None else self.teacher_model
        model = self.accelerator.unwrap_model(wrapped)
        found: list[Tensor] = []
        with teaching(model, adapter_off=self.teacher_model is None):
            for rows in self._micro_batches(len(prompts)):
                call = (wrapped, model, self._states, model, prompts[rows], rollouts[rows])
                states = self._forward_redirection(*call)
                found += states.split([len(rollout) for rollout in rollouts[rows]])
        return found

    def _states(self, model: Any, prefixes: list[list[int]], continuations: list[list[int]]) -> Tensor:
        """(N, H) hidden states that predict the continuations' tokens, row after row. Rows are padded on the right,
        so positions count from each row's own start and need no correction, however long its prefix is."""
        rows = [prefix + continuation for prefix, continuation in zip(prefixes, continuations, strict=True)]
        width = max(map(len, rows))
        device = self.accelerator.device
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        ends = torch.tensor([len(row) for row in rows], device=device)[:, None]
        starts = torch.tensor([len(prefix) for prefix in prefixes], device=device)[:, None]
        place = torch.arange(width, device=device)[None]
        with self.accelerator.autocast():
            backbone = causal_model(model).base_model
            mask = (place < ends).long()
            states = backbone(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return states[(place >= starts - 1) & (place < ends - 1)]


@contextlib.contextmanager
def teaching(model: Any, adapter_off: bool) -> Iterator[None]:
    """The model as teacher for a while: no dropout, and no adapter where it is the student's own."""
    training = model.training
    model.eval()
    try:
        with model.disable_adapter() if adapter_off else contextlib.nullcontext():
            yield
    finally:
        model.train(training)


def causal_model(model: Any) -> Any:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def head_of(model: Any) -> Head:
    """The model's output head, with what its architecture does to the logits afterwards."""
    model = causal_model(model)
    linear, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None) or 1.0
    if divisor := getattr(config, "logits_scaling", None):
        scale = scale / divisor
    weight = linear.weight.full_tensor() if hasattr(linear.weight, "full_tensor") else linear.weight  # FSDP's shards
    return Head(weight, getattr(linear, "bias", None), float(scale), getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def check_head(model: Any, ids: list[int]) -> None:
    """UserError where `head_of` does not reproduce the model's own logits: an architecture that does more to them."""
    device = next(model.parameters()).device
    tokens = torch.tensor([ids], device=device)
    own = model(input_ids=tokens).logits[0].float()
    states = model.base_model(input_ids=tokens).last_hidden_state[0]
    head = head_of(model).frozen(states.dtype)
    gap = (head.cap(head.project(states)) - own).abs().max().item()
    if gap > 0.02 * max(1.0, own.abs().max().item()):
        raise UserError(f"{type(model).__name__}: its output head is not a plain linear one, which distillation needs")


def rollout_limit(run: Run, wanted: int) -> int:
    """Tokens of a rollout: `wanted`, or what the model's context leaves after the longest teacher prompt. UserError
    where that would not hold the longest answer."""
    rows = run.prepared.rows
    context = getattr(run.model.config.get_text_config(), "max_position_embeddings", None)
    room = wanted if context is None else context - max(max(len(r.teacher_prompt), len(r.prompt)) for r in rows)
    answer = max(len(r.answer) for r in rows)
    if room < min(wanted, answer):
        raise UserError(
            f"{run.job.name}: the context of {context} tokens leaves {room} for rollouts after the longest teacher "
            f"prompt, fewer than the longest answer's {answer}; lower max_length or shorten teacher_prompt"
        )
    return min(wanted, room)


def conditioned_distillation(run: Run) -> ConditionedDistillation:
    """The trainer of one RAFT run (trainers/methods/raft.py has the parameters)."""
    params: Any = run.job.params
    first = run.prepared.rows[0]
    check_head(run.model, first.prompt + first.answer)
    limit = rollout_limit(run, params.max_completion_length)
    fixed = None if params.balance == "ema" else params.balance
    top_k = min(params.top_k, run.model.config.get_text_config().vocab_size)
    run.notes |= {"rollout_limit": limit, "top_k": top_k, "teacher": "adapter off" if run.adapter else "frozen copy"}
    rows = [{"prompt": r.prompt, "answer": r.answer, "teacher_prompt": r.teacher_prompt} for r in run.prepared.rows]
    config = DistillationConfig(
        **run.arguments, temperature=params.rollout_temperature, top_p=1.0, top_k=0, max_completion_length=limit
    )
    trainer = ConditionedDistillation(
        settings=Settings(top_k, params.temperature, params.tail),
        balancer=Balancer(params.balance_decay, fixed, params.lambda_min, params.lambda_max),
        model=run.model,
        teacher_model=None if run.adapter else frozen_copy(run),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=run.tokenizer,
        peft_config=run.adapter,
    )
    trainer.places = run.places
    if run.prepared.ending.token_id not in trainer.eos_token_ids:
        trainer.eos_token_ids.append(run.prepared.ending.token_id)
        trainer.generation_config.eos_token_id = trainer.eos_token_ids
    return trainer


def frozen_copy(run: Run) -> Any:
    """The original weights once more; in bfloat16 where training runs in it, since they never change."""
    teacher = copy.deepcopy(run.model).requires_grad_(False).eval()
    return teacher.to(torch.bfloat16) if run.arguments["bf16"] else teacher
