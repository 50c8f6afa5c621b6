"""From a distillation method's parameters to rows and to the trainer. Every such method's file takes `prepare` and
`build` from here; torch is imported when training begins."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from refinery import templates
from refinery.errors import UserError
from refinery.records import Example
from trainers import data
from trainers.distill_params import BalancedParams, DistillParams
from trainers.job import Run, TrainJob


def prepare(job: TrainJob, tokenizer: Any, some: Sequence[Example] | None = None) -> data.Prepared:
    """Rows with the teacher's prompt, of all examples or of `some`. They need a response only where something is made
    of it."""
    params: Any = job.params
    shown = shuffled(job.examples, job.seed) if params.teacher_shuffle else None
    found = data.prepare(
        job.examples if some is None else some,
        tokenizer,
        max_length=params.max_length,
        teacher_prompt=params.teacher_prompt,
        shown=shown,
        answered=needs_responses(params),
    )
    return _fitting(found, job) if params.teacher_prompt else found


def _fitting(prepared: data.Prepared, job: TrainJob) -> data.Prepared:
    """Without the rows whose teacher prompt leaves no room for their own answer, or for a whole rollout where that is
    shorter. UserError where none is left."""
    from transformers import AutoConfig

    from refinery.models.weights import resolve

    options = {"revision": job.revision, "trust_remote_code": job.trust_remote_code}
    config = AutoConfig.from_pretrained(resolve(job.origin or job.model), **options)
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    if context is None:
        return prepared
    wanted: int = job.params.max_completion_length  # type: ignore[attr-defined]
    rows = [r for r in prepared.rows if len(r.teacher_prompt) + min(wanted, len(r.answer)) <= context]
    if not rows:
        raise UserError(
            f"{job.name}: the context of {context} tokens leaves no row's answer room after its teacher prompt; "
            "shorten teacher_prompt"
        )
    long = Counter(teacher_too_long=len(prepared.rows) - len(rows))
    return replace(prepared, rows=rows, dropped=prepared.dropped + long)


def needs_responses(params: DistillParams) -> bool:
    """Something is learnt from the data's responses, or the teacher is shown them."""
    shown = params.teacher_prompt is not None and "response" in templates.variables(params.teacher_prompt)
    return params.SUPERVISED or params.rollout_source == "stored" or params.on_policy < 1 or shown


def shuffled(examples: Sequence[Example], seed: int) -> dict[str, dict[str, Any]]:
    """For each example's id the fields of another, with its own question and id: what a teacher's template is rendered
    from as a placebo. Nobody keeps their own, and nobody gets an equal response while there is another."""
    if len(examples) < 2:
        raise UserError("teacher_shuffle: needs two rows at least")
    places = list(range(len(examples)))
    random.Random(f"{seed}/shuffle").shuffle(places)
    found = {}
    for number, place in enumerate(places):
        own = examples[place]
        others = (examples[places[(number + step) % len(places)]] for step in range(1, len(places)))
        first = examples[places[(number + 1) % len(places)]]
        other = next((e for e in others if (e.response, e.answer) != (own.response, own.answer)), first)
        found[own.id] = {**other.fields(), "question": own.question, "id": own.id}
    return found


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


def build(run: Run, sft_steps: int = 0, second_rate: float = 1.0) -> Any:
    """The trainer of one run. With `sft_steps`, so many steps on answers come first, and the others begin a learning
    rate schedule of their own, `second_rate` times as high."""
    from datasets import Dataset
    from trl import DistillationConfig

    from trainers.before import split
    from trainers.distill import ConditionedDistillation
    from trainers.layout import can_share
    from trainers.teachers import check_head

    params: Any = run.job.params
    first = run.prepared.rows[0]
    check_head(run.model, first.prompt + first.answer)
    limit = rollout_limit(run, params.max_completion_length)
    config = DistillationConfig(
        **run.arguments,
        **_engine(run, limit),
        temperature=params.rollout_temperature,
        top_p=params.rollout_top_p,
        top_k=params.rollout_top_k,
        max_completion_length=limit,
    )
    settings, teacher = _settings(run, sft_steps), _teacher(run)
    run.notes |= {"rollout_limit": limit, "top_k": settings.how.top_k, "teacher": NAMES[teacher.kind]}
    if params.rollout_engine != "transformers":
        run.notes["rollout_engine"] = params.rollout_engine
    rows = [
        {"place": place, "prompt": r.prompt, "answer": r.answer, "teacher_prompt": r.teacher_prompt or r.prompt}
        for place, r in enumerate(run.prepared.rows)
    ]
    trainer = ConditionedDistillation(
        settings=settings,
        balancer=_balancer(params),
        teacher=teacher,
        second_rate=second_rate,
        model=run.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=run.tokenizer,
        peft_config=run.adapter,
    )
    trainer.places = run.places
    student = trainer.accelerator.unwrap_model(trainer.model)
    trainer.shares = not split(trainer.accelerator) and can_share(student, first.prompt, first.answer)
    if run.prepared.ending.token_id not in trainer.eos_token_ids:
        trainer.eos_token_ids.append(run.prepared.ending.token_id)
        trainer.generation_config.eos_token_id = trainer.eos_token_ids
    return trainer


NAMES = {"copy": "frozen copy", "adapter": "adapter off", "ema": "moving average", "live": "live"}


def _engine(run: Run, limit: int) -> dict[str, Any]:
    """What DistillationConfig is told of vLLM. UserError where that cannot work here."""
    import importlib.util

    import torch

    params: Any = run.job.params
    if params.rollout_engine == "transformers":
        return {}
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f'rollout_engine: {params.rollout_engine} needs vLLM here: pip install "refinery[train,vllm]"')
    if not torch.cuda.is_available():
        raise UserError(f"rollout_engine: {params.rollout_engine} needs a GPU")
    one = params.vllm
    return {
        "use_vllm": True,
        "vllm_mode": "server" if params.rollout_engine == "vllm_server" else "colocate",
        "vllm_gpu_memory_utilization": one.gpu_memory,
        "vllm_tensor_parallel_size": one.tensor_parallel,
        "vllm_enable_sleep_mode": one.sleep,
        "vllm_max_model_length": max(len(row.prompt) for row in run.prepared.rows) + limit,
        "vllm_server_base_url": one.base_url,
        "vllm_group_port": one.group_port,
        "vllm_server_timeout": one.timeout,
    }


def _settings(run: Run, sft_steps: int) -> Any:
    from trainers.distill import Settings
    from trainers.divergences import Divergence

    params: Any = run.job.params
    top_k = params.top_k and min(params.top_k, run.model.config.get_text_config().vocab_size)
    how = Divergence(
        kind=params.divergence,
        beta=params.beta,
        top_k=params.top_k if params.support == "random" else top_k,
        support=params.support,
        tail=params.tail,
        temperature=params.temperature,
        estimator=params.estimator,
        token_clip=params.token_clip,
    )
    return Settings(
        how=how,
        supervised=params.SUPERVISED,
        sft_steps=sft_steps,
        source=params.rollout_source,
        on_policy=params.on_policy,
        rollouts=params.rollouts,
        rollout_temperature=params.rollout_temperature,
        skip_tokens=params.skip_tokens,
        by_tokens=params.reduction == "tokens",
        importance_cap=params.importance_cap,
        gradients_every=getattr(params, "gradients_every", None),
    )


def _balancer(params: DistillParams) -> Any:
    from trainers.balance import Balancer

    if not isinstance(params, BalancedParams):
        return Balancer(fixed=1.0)
    named = isinstance(params.balance, str)
    fixed: Any = None if named else params.balance
    balancer = Balancer(params.balance_decay, fixed, params.lambda_min, params.lambda_max)
    balancer.kind = params.balance if named else "ema"  # type: ignore[assignment]
    return balancer


def _teacher(run: Run) -> Any:
    from trainers.teachers import Teacher, frozen_copy

    params: Any = run.job.params
    if params.teacher != "frozen":
        return Teacher(params.teacher, alpha=params.teacher_ema)
    if run.adapter is not None:
        return Teacher("adapter")
    return Teacher("copy", frozen_copy(run))
