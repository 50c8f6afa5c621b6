"""Training along rollouts, side by side with TRL's own trainers in one run: time, and memory at a large vocabulary.

    python -m tests.bench.train_speed speed [--passes 5] [--only NAME ...]   # the lab model, 1,024 words
    python -m tests.bench.train_speed vocabulary [--passes 3]                # 151,936 words, a process for each case
    python -m tests.bench.train_speed --table                                # the tables of results/train_speed.json

speed: every trainer sees the same 320 rows of the lab once, in batches of 16, from the same weights in float32, with at
most 64 new tokens at temperature 1, AdamW, clipping at 1, no gradient checkpointing, and logs every step. Passes are
interleaved; a figure is the median over passes of the mean over steps 2 to 20. Generation is the call that takes prompts
to new tokens, in each trainer its own; the rest of a step is what is left.

vocabulary: a random model of Qwen2.5's shape (hidden 64, 2 layers, 151,936 words, tied), 4 rows of 256 tokens. Rollouts
are not sampled but given, the same to all, so that the whole step is what is measured beside generation: seconds a
step, and the peak resident size above what stood before the first step, weights, the teacher's and Adam's included.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
OUT = Path(__file__).parent / "results" / "train_speed.json"
KNOWN = "Known: {{ response }}\n{{ question }}"
ROWS, BATCH, NEW, STEPS = 320, 16, 64, 20

OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "sdft forward": ("sdft", {"teacher_prompt": KNOWN, "divergence": "forward"}),
    "sdft reverse": ("sdft", {"teacher_prompt": KNOWN}),
    "sdft jsd": ("sdft", {"teacher_prompt": KNOWN, "divergence": "jsd"}),
    "sdft sampled": ("sdft", {"teacher_prompt": KNOWN, "estimator": "sampled"}),
    "sdft rao_blackwell": ("sdft", {"teacher_prompt": KNOWN, "estimator": "rao_blackwell"}),
    "sdft live": ("sdft", {"teacher_prompt": KNOWN, "teacher": "live"}),
    "sdft top-64": ("sdft", {"teacher_prompt": KNOWN, "divergence": "forward", "top_k": 64, "support": "student"}),
    "gkd": ("gkd", {"on_policy": 1.0}),
    "opd": ("opd", {}),
    "acopd": ("acopd", {}),
    "raft": ("raft", {}),
    "raft 4 x 4": ("raft", {"micro_batch_size": 4}),
    "sdft 4 x 4": ("sdft", {"teacher_prompt": KNOWN, "divergence": "forward", "micro_batch_size": 4}),
}
THEIRS: dict[str, dict[str, Any]] = {
    "TRL SFT": {},
    "TRL SDFT forward": {"distillation_mode": "full_logits", "distillation_alpha": 0.0},
    "TRL SDFT jsd": {"distillation_mode": "full_logits", "distillation_alpha": 0.5},
    "TRL SDFT top-64": {"distillation_mode": "topk_logits", "distillation_topk": 64, "distillation_alpha": 0.0},
    "TRL SDFT 4 x 4": {"distillation_mode": "full_logits", "distillation_alpha": 0.0, "micro": 4},
    "TRL GKD": {},
    "TRL Distillation": {},
}


def rows() -> list[dict[str, str]]:
    from refinery import lab

    return lab.source_rows("clinic")[:ROWS]


def ours(name: str, folder: Path, model: str = "lab", **given: Any) -> Any:
    """One of our trainers, ready."""
    from refinery.catalog import METHODS, module
    from refinery.records import Example
    from trainers.job import TrainJob, directory
    from trainers.train import _prepare, _trainer

    method, own = OURS[name]
    values = {"learning_rate": 1e-5, "schedule": "constant", "warmup_ratio": 0, "batch_size": BATCH, "epochs": 1}
    values |= {"max_length": 256, "max_completion_length": NEW, "weight_decay": 0.0, "lora": None, **own, **given}
    params = module(METHODS, method).Params
    examples = [
        Example(str(i), [{"role": "user", "content": r["question"]}], r["answer"], r["answer"])
        for i, r in enumerate(rows())
    ]
    job = TrainJob(
        name=method,
        method=method,
        params=params(**{key: value for key, value in values.items() if key in params.model_fields}),
        seed=0,
        model=model,
        examples=examples,
        data_fingerprint="bench",
        out=folder,
        base_identity="bench",
    )
    return _trainer(_prepare(job, directory(job)), directory(job), None)[0]


def theirs(name: str, folder: Path, model: Path) -> Any:
    """One of TRL's trainers, ready. Its SDFT cuts teacher prompts at 512 tokens, which none of ours reaches, and opens
    its teacher from the folder that the model was loaded from, so nothing of it is patched here."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer
    from trl.experimental.gkd import GKDConfig, GKDTrainer
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    own = dict(THEIRS[name])
    micro = own.pop("micro", BATCH)
    shared: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": BATCH // micro,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    network = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(model)
    data = rows()
    asked = [[{"role": "user", "content": row["question"]}] for row in data]
    said = [[{"role": "assistant", "content": row["answer"]}] for row in data]
    if name == "TRL SFT":
        config: Any = SFTConfig(**shared, max_length=256)
        table = Dataset.from_dict({"prompt": asked, "completion": said})
        return SFTTrainer(model=network, args=config, train_dataset=table, processing_class=tokenizer)
    if name.startswith("TRL SDFT"):
        config = SDFTConfig(
            **shared,
            **own,
            max_prompt_length=512,
            max_completion_length=NEW,
            num_generations=1,
            teacher_model_kind="ema",
            teacher_update_rate=0.02,
            teacher_prompt_template="Known: {privileged_context}\n{prompt}",
        )
        table = Dataset.from_dict({"prompt": asked, "privileged_context": [row["answer"] for row in data]})
        return SDFTTrainer(model=network, args=config, train_dataset=table, processing_class=tokenizer)
    teacher = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    if name == "TRL GKD":
        config = GKDConfig(**shared, lmbda=1.0, beta=0.5, temperature=1.0, max_new_tokens=NEW, max_length=256)
        table = Dataset.from_dict({"messages": [a + s for a, s in zip(asked, said, strict=True)]})
        kind: Any = GKDTrainer
    else:
        config = DistillationConfig(**shared, beta=0.5, temperature=1.0, max_completion_length=NEW)
        table, kind = Dataset.from_dict({"prompt": asked}), DistillationTrainer
    return kind(model=network, teacher_model=teacher, args=config, train_dataset=table, processing_class=tokenizer)


GENERATING = ("_generate_single_turn", "_generate_transformers", "generate_on_policy_outputs")


class Clock:
    """Seconds and new tokens of a trainer's steps, from the end of the first to the end of the last."""

    def __init__(self, trainer: Any):
        from transformers import TrainerCallback

        self.generating = 0.0
        self.ends: list[tuple[float, float]] = []
        clock = self

        class Noting(TrainerCallback):
            def on_step_end(self, *given: Any, **named: Any) -> None:
                clock.ends.append((time.perf_counter(), clock.generating))

        trainer.add_callback(Noting())
        for name in GENERATING:
            if hasattr(trainer, name):
                setattr(trainer, name, self.timing(getattr(trainer, name)))

    def timing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.generating += time.perf_counter() - began

        return timed

    def steps(self) -> tuple[float, float]:
        """Seconds a step, and seconds of it in generation."""
        (first, before), (last, after) = self.ends[0], self.ends[-1]
        count = len(self.ends) - 1
        return (last - first) / count, (after - before) / count


@contextmanager
def silent() -> Iterator[None]:
    """What trainers print on every step goes nowhere."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with open(os.devnull, "w") as nowhere:
        own, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.stdout = own


def one_pass(name: str) -> dict[str, float]:
    from refinery.lab import BASE

    with tempfile.TemporaryDirectory() as folder, silent():
        trainer = ours(name, Path(folder)) if name in OURS else theirs(name, Path(folder), BASE)
        clock = Clock(trainer)
        lengths: list[float] = []
        real = trainer.log

        def noting(logs: dict[str, float], *rest: Any) -> None:
            metrics = trainer._metrics["train"]
            lengths.extend(metrics.get("completions/mean_length", []))
            real(logs, *rest)

        trainer.log = noting
        trainer.train()
    whole, generating = clock.steps()
    found = {"whole": whole, "generation": generating, "rest": whole - generating}
    return found | ({"new_tokens": statistics.mean(lengths)} if lengths else {})


def speed(passes: int, names: list[str]) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(passes):
        for name in names:
            found[name].append(one_pass(name))
            line = {key: round(value, 4) for key, value in found[name][-1].items()}
            print(number, name, line, flush=True)
    return dict(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed"])
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    names = given.only or [*THEIRS, *OURS]
    found = speed(given.passes, names)
    for name, each in found.items():
        print(name, {key: round(statistics.median(one[key] for one in each), 4) for key in each[0]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
