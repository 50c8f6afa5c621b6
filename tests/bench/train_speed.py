"""Training along rollouts, side by side with TRL's own trainers in one run: time, and memory at a large vocabulary.

    python -m tests.bench.train_speed speed [--passes 5] [--only NAME ...]        # the lab model, 1,024 words
    python -m tests.bench.train_speed vocabulary [--passes 3] [--only NAME ...]   # 151,936 words
    python -m tests.bench.train_speed lengths                                     # how long rollouts become
    python -m tests.bench.train_speed table                                       # of results/train_speed.json

speed: every trainer takes 20 optimiser steps of 16 sequences over the same rows of the lab, from the same weights in
float32, with at most 64 new tokens at temperature 1, AdamW, clipping at 1, no gradient checkpointing, and logs every
step. Passes are interleaved; a pass's figure is the mean over steps 2 to 20. Generation is the call that takes prompts
to new tokens, in each trainer its own; the rest of a step is what is left.

vocabulary: a random model of Qwen2.5's shape (hidden 64, 2 layers, tied), 4 rows of 256 tokens of which the last 230
are a rollout. Rollouts are not sampled but given, the same to all; every case is a process of its own. Seconds a step,
and the highest resident size above what stood when training began, weights and teacher included; gradients and
Adam's moments are in both sides' figures.

Figures are added to results/train_speed.json under the name of what was measured.
"""

import argparse
import gc
import itertools
import json
import os
import platform
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
    "sdft 2 x 8 rollouts": (
        "sdft",
        {"teacher_prompt": KNOWN, "divergence": "forward", "batch_size": 2, "rollouts": 8},
    ),
}
THEIRS: dict[str, dict[str, Any]] = {
    "TRL SFT": {},
    "TRL SDFT forward": {"distillation_mode": "full_logits", "distillation_alpha": 0.0},
    "TRL SDFT jsd": {"distillation_mode": "full_logits", "distillation_alpha": 0.5},
    "TRL SDFT top-64": {"distillation_mode": "topk_logits", "distillation_topk": 64, "distillation_alpha": 0.0},
    "TRL SDFT 4 x 4": {"distillation_mode": "full_logits", "distillation_alpha": 0.0, "micro": 4},
    "TRL SDFT 2 x 8 rollouts": {
        "distillation_mode": "full_logits",
        "distillation_alpha": 0.0,
        "num_generations": 8,
    },
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
    values = {"learning_rate": 1e-5, "schedule": "constant", "warmup_ratio": 0, "batch_size": BATCH, "max_steps": STEPS}
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


def theirs(name: str, folder: Path, model: Path, size: int = BATCH, new: int = NEW) -> Any:
    """One of TRL's trainers, ready. Its SDFT cuts teacher prompts at 512 tokens, which none of ours reaches, and opens
    its teacher from the folder that the model was loaded from, so nothing of it is patched here."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer
    from trl.experimental.gkd import GKDConfig, GKDTrainer
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    own = {"num_generations": 1, **THEIRS[name]}
    micro, size = own.pop("micro", size), size
    shared: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": size // micro,
        "max_steps": STEPS,
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
            max_completion_length=new,
            teacher_model_kind="ema",
            teacher_update_rate=0.02,
            teacher_prompt_template="Known: {privileged_context}\n{prompt}",
        )
        table = Dataset.from_dict({"prompt": asked, "privileged_context": [row["answer"] for row in data]})
        return SDFTTrainer(model=network, args=config, train_dataset=table, processing_class=tokenizer)
    teacher = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    if name == "TRL GKD":
        config = GKDConfig(**shared, lmbda=1.0, beta=0.5, temperature=1.0, max_new_tokens=new, max_length=512)
        table = Dataset.from_dict({"messages": [a + s for a, s in zip(asked, said, strict=True)]})
        kind: Any = GKDTrainer
    else:
        config = DistillationConfig(**shared, beta=0.5, temperature=1.0, max_completion_length=new)
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
    with Path(os.devnull).open("w") as nowhere:
        own, sys.stdout = sys.stdout, nowhere
        try:
            yield
        finally:
            sys.stdout = own


def one_pass(name: str) -> dict[str, float]:
    from refinery.lab import BASE

    with tempfile.TemporaryDirectory() as folder, silent():
        trainer = ours(name, Path(folder)) if name in OURS else theirs(name, Path(folder), BASE)
        clock, lengths = Clock(trainer), noted(trainer, "completions/mean_length")
        trainer.train()
    whole, generating = clock.steps()
    found = {"whole": whole, "generation": generating, "rest": whole - generating}
    return found | ({"new_tokens": statistics.mean(lengths)} if lengths else {})


def noted(trainer: Any, metric: str) -> list[float]:
    """The metric's values as the trainer logs them, step by step."""
    found: list[float] = []
    real = trainer.log

    def noting(logs: dict[str, float], *rest: Any) -> None:
        found.extend(getattr(trainer, "_metrics", {"train": {}})["train"].get(metric, []))
        real(logs, *rest)

    trainer.log = noting
    return found


def speed(passes: int, names: list[str]) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for number in range(passes):
        for name in names:
            found[name].append({key: round(value, 5) for key, value in one_pass(name).items()})
            print(number, name, found[name][-1], flush=True)
    return dict(found)


# ---- a large vocabulary

WORDS, ROW, FEW, MEASURED = 151_936, 256, 4, 5
AT_152K = {
    "sdft forward": "TRL SDFT forward",
    "sdft jsd": "TRL SDFT jsd",
    "sdft top-64": "TRL SDFT top-64",
    "gkd": "TRL GKD",
    "acopd": "TRL Distillation",
}
"""Ours, and the one of TRL's that does the same; acopd (the teacher's 512 likeliest words) has no peer there."""


def wide_model(folder: Path) -> Path:
    """A random model with many words; its tokenizer is the lab's, which uses the first thousand."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from refinery.lab import BASE

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=WORDS,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.2,
        eos_token_id=4,
        bos_token_id=1,
        pad_token_id=0,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
    return folder


def given_words(prompts: list[list[int]]) -> list[list[int]]:
    """A rollout for each prompt, without an end, up to ROW tokens."""
    return [[(7 * sum(p) + 13 * i) % 900 + 50 for i in range(ROW - len(p))] for p in prompts]


def without_sampling(trainer: Any) -> None:
    """Both sides' rollouts are given: `generate` of a model, and our own loop."""
    import torch
    from transformers.generation import GenerateDecoderOnlyOutput

    import trainers.rollouts

    def generate(input_ids: Any, attention_mask: Any, return_dict_in_generate: bool = False, **_: Any) -> Any:
        width = input_ids.shape[1]
        made = [[(7 * i + 13 * j) % 900 + 50 for j in range(ROW - width)] for i in range(len(input_ids))]
        whole = torch.cat([input_ids, torch.tensor(made)], -1)
        return GenerateDecoderOnlyOutput(sequences=whole) if return_dict_in_generate else whole

    trainers.rollouts.sample = lambda model, prompts, manner: given_words(prompts)  # type: ignore[assignment]
    trainer.model.generate = generate


def resident(what: str) -> int:
    """MB, of VmRSS or VmHWM."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(what)).split()[1]) // 1024


def one_at_152k(name: str, model: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, silent():
        settings = {"batch_size": FEW, "max_steps": MEASURED, "max_length": 512, "max_completion_length": ROW}
        if name in OURS:
            trainer = ours(name, Path(folder), str(model), **settings)
        else:
            trainer = theirs(name, Path(folder), model, FEW, ROW)
            trainer.args.max_steps = MEASURED
        without_sampling(trainer)
        clock = Clock(trainer)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size begins anew
        before = resident("VmRSS")
        trainer.train()
        peak = resident("VmHWM")
    return {"whole": clock.steps()[0], "peak_mb": peak - before}


def vocabulary(passes: int, names: list[str]) -> dict[str, Any]:
    import torch

    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        model = wide_model(Path(folder))
        for number in range(passes):
            for name in names:
                command = [sys.executable, "-m", "tests.bench.train_speed", "one", "--only", name]
                command += ["--model", str(model), "--threads", str(torch.get_num_threads())]
                run = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                found[name].append(json.loads(run.stdout.splitlines()[-1]))
                print(number, name, found[name][-1], flush=True)
    return dict(found)


# ---- how long rollouts become

LONG = ("sdft forward", "sdft reverse", "sdft jsd", "sdft sampled", "sdft rao_blackwell", "sdft live", "raft")


def lengths(names: list[str]) -> dict[str, Any]:
    """A whole training of 270 steps at the learning rate of specs/tables/sdft.yaml: rollout length, share that was cut
    off and seconds in generation, as means of 27 steps each."""
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder, silent():
            settings = {
                "learning_rate": 4e-4,
                "epochs": 14,
                "max_steps": 270,
                "schedule": "cosine",
                "warmup_ratio": 0.03,
            }
            trainer = ours(name, Path(folder), **settings)
            clock = Clock(trainer)
            long, cut = (noted(trainer, f"completions/{what}") for what in ("mean_length", "clipped_ratio"))
            trainer.train()
        ends = [0.0, *(generating for _, generating in clock.ends)]
        seconds = [b - a for a, b in itertools.pairwise(ends)]
        parts = [slice(start, start + 27) for start in range(0, 270, 27)]
        found[name] = {
            what: [round(statistics.mean(values[part]), 3) for part in parts]
            for what, values in (("length", long), ("cut", cut), ("generation", seconds))
        }
        print(name, found[name], flush=True)
    return found


# ---- results


def add(what: str, figures: dict[str, Any], threads: int) -> None:
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    packages = {name: version(name) for name in ("torch", "transformers", "trl")}
    known[what] = {"threads": threads, "python": platform.python_version(), **packages, "figures": figures}
    OUT.write_text(json.dumps(known, indent=1) + "\n")


def median(figures: list[dict[str, float]], key: str) -> str:
    values = [one[key] for one in figures]
    digits = 0 if key == "peak_mb" else 3
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table() -> None:
    known = json.loads(OUT.read_text())
    if "speed" in known:
        figures = known["speed"]["figures"]
        base = statistics.median(one["whole"] for one in figures["TRL SFT"]) if "TRL SFT" in figures else None
        print("| lab, 16 sequences a step | whole step, s | generation, s | the rest, s | of TRL's SFT | new tokens |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, each in figures.items():
            share = f"{statistics.median(one['whole'] for one in each) / base:.2f}" if base else ""
            new = f"{statistics.mean(one['new_tokens'] for one in each):.1f}" if "new_tokens" in each[0] else ""
            cells = [median(each, key) for key in ("whole", "generation", "rest")]
            print(f"| {name} | {' | '.join(cells)} | {share} | {new} |")
    if "vocabulary" in known:
        print("\n| 151,936 words, 4 x 256 tokens | step without sampling, s | peak above the start, MB |")
        print("|---|---:|---:|")
        for name, each in known["vocabulary"]["figures"].items():
            print(f"| {name} | {median(each, 'whole')} | {median(each, 'peak_mb')} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "vocabulary", "lengths", "table", "one"])
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.what == "table":
        table()
        return 0
    import torch

    torch.set_num_threads(given.threads)
    if given.what == "one":
        print(json.dumps(one_at_152k(given.only[0], Path(given.model))))
        return 0
    if given.what == "speed":
        figures = speed(given.passes, given.only or [*THEIRS, *OURS])
    elif given.what == "vocabulary":
        figures = vocabulary(given.passes, given.only or [name for pair in AT_152K.items() for name in pair[::-1]])
    else:
        figures = lengths(given.only or list(LONG))
    add(given.what, figures, given.threads)
    return 0


if __name__ == "__main__":
    sys.exit(main())
