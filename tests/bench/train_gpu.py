"""RAFT and SDFT steps of a 1.5B model on a GPU, beside TRL's SDFT in the same run.

    python -m tests.bench.train_gpu [--passes 3] [--steps 4]
    python -m tests.bench.train_gpu --tiny               # a toy, on whatever there is: that the bench itself runs

A random model of Qwen2.5-1.5B's shape (1,536 wide, 28 layers, 151,936 words, tied), bfloat16 arithmetic over float32
weights under AdamW, 8 prompts of about 200 tokens a step and rollouts of 1,024: the end token is hardly ever drawn, so
that every side generates as many. Gradient checkpointing is on for all. Every case is a process of its own; passes are
interleaved, and the first step of each is left out. Figures: seconds a step, its shares in generation, teacher and
student, rollout tokens a second over whole steps and while generating, and the highest memory that torch held
(weights, the teacher's, gradients and Adam's included). Written to results/train_gpu.json.

TRL's SDFT counts teacher and student as one: it runs both inside its loss.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.bench.train_speed import Clock, silent

ROOT = Path(__file__).parent.parent.parent
OUT = Path(__file__).parent / "results" / "train_gpu.json"
KNOWN = "Known: {{ response }}\n{{ question }}"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "raft": ("raft", {}),
    "sdft": ("sdft", {"teacher_prompt": KNOWN, "divergence": "forward"}),
    "sdft top-64": ("sdft", {"teacher_prompt": KNOWN, "divergence": "forward", "top_k": 64, "support": "student"}),
    "TRL SDFT": ("trl", {"distillation_mode": "full_logits", "distillation_alpha": 0.0}),
    "TRL SDFT top-64": (
        "trl",
        {"distillation_mode": "topk_logits", "distillation_topk": 64, "distillation_alpha": 0.0},
    ),
}
LARGE = {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
LARGE |= {"num_key_value_heads": 2, "vocab_size": 151_936, "max_position_embeddings": 4096}
TOY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TOY |= {"num_key_value_heads": 1, "vocab_size": 2_048, "max_position_embeddings": 512}


def model(folder: Path, tiny: bool) -> Path:
    """Written once, in float32; its tokenizer is the lab's."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    from refinery.lab import BASE

    torch.manual_seed(0)
    shape = TOY if tiny else LARGE
    config = Qwen2Config(**shape, tie_word_embeddings=True, eos_token_id=4, bos_token_id=1, pad_token_id=0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
    return folder


def rows(count: int, tiny: bool) -> list[dict[str, str]]:
    """Lab questions, several put together so that a prompt has about 200 tokens."""
    from refinery import lab

    source, several = lab.source_rows("clinic"), 1 if tiny else 12
    groups = [source[several * i : several * (i + 1)] for i in range(count)]
    return [{key: " ".join(row[key] for row in group) for key in ("question", "answer")} for group in groups]


def ours(name: str, folder: Path, weights: Path, given: Any) -> Any:
    from refinery.catalog import METHODS, module
    from refinery.records import Example
    from trainers.job import TrainJob, directory
    from trainers.train import _prepare, _trainer

    method, own = CASES[name]
    params = module(METHODS, method).Params
    values = {"learning_rate": 1e-6, "batch_size": given.batch, "micro_batch_size": given.micro, "weight_decay": 0.0}
    values |= {"max_steps": given.steps, "schedule": "constant", "warmup_ratio": 0, "max_length": 2048}
    values |= {"max_completion_length": given.new, "gradient_checkpointing": True, **own}
    data = rows(given.batch * given.steps, given.tiny)
    asked = [[{"role": "user", "content": row["question"]}] for row in data]
    examples = [Example(str(i), p, r["answer"], r["answer"]) for i, (p, r) in enumerate(zip(asked, data, strict=True))]
    job = TrainJob(
        name=method,
        method=method,
        params=params(**values),
        seed=0,
        model=str(weights),
        examples=examples,
        data_fingerprint="bench",
        out=folder,
        base_identity="bench",
    )
    return _trainer(_prepare(job, directory(job)), directory(job), None)[0]


def theirs(name: str, folder: Path, weights: Path, given: Any) -> Any:
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    cuda = torch.cuda.is_available()
    config = SDFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=given.micro,
        gradient_accumulation_steps=given.batch // given.micro,
        max_steps=given.steps,
        learning_rate=1e-6,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=cuda,
        use_cpu=not cuda,
        gradient_checkpointing=True,
        max_prompt_length=2048,
        max_completion_length=given.new,
        num_generations=1,
        teacher_model_kind="ema",
        teacher_update_rate=0.02,
        teacher_prompt_template="Known: {privileged_context}\n{prompt}",
        **CASES[name][1],
    )
    data = rows(given.batch * given.steps, given.tiny)
    asked = [[{"role": "user", "content": row["question"]}] for row in data]
    table = Dataset.from_dict({"prompt": asked, "privileged_context": [row["answer"] for row in data]})
    network = AutoModelForCausalLM.from_pretrained(weights, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(weights)
    return SDFTTrainer(model=network, args=config, train_dataset=table, processing_class=tokenizer)


def never_ending(trainer: Any) -> None:
    """The end token is one word among all, the last: a random model says it once in 152,000 tokens."""
    trainer.eos_token_ids = [trainer.model.config.vocab_size - 1]
    trainer.generation_config.eos_token_id = trainer.eos_token_ids


def one(name: str, weights: Path, given: Any) -> dict[str, float]:
    import torch

    with tempfile.TemporaryDirectory() as folder, silent():
        make = theirs if CASES[name][0] == "trl" else ours
        trainer = make(name, Path(folder), weights, given)
        never_ending(trainer)
        clock, spent = Clock(trainer), defaultdict(list)
        if hasattr(trainer, "spent"):
            real = trainer.log

            def noting(logs: dict[str, float], *rest: Any) -> None:
                for what, seconds in trainer.spent.items():
                    spent[what].append(seconds)
                real(logs, *rest)

            trainer.log = noting
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        trainer.train()
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    whole, generating = clock.steps()
    tokens = given.batch * given.new
    found = {"step": whole, "generation": generating / whole, "tokens_s": tokens / whole}
    found["tokens_s_generating"] = tokens / generating
    found |= {what: statistics.mean(spent[what][1:]) / whole for what in ("teacher", "student") if spent[what][1:]}
    if torch.cuda.is_available():
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return {key: round(value, 4) for key, value in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro", type=int, default=4)
    parser.add_argument("--new", type=int, default=1024, help="tokens of a rollout")
    parser.add_argument("--only", nargs="*", choices=list(CASES))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.tiny:
        given.new = min(given.new, 24)
    if given.one:
        print(json.dumps(one(given.one, Path(given.model), given)))
        return 0
    import torch

    if not given.tiny and not torch.cuda.is_available():
        print("no GPU here; --tiny runs a toy", file=sys.stderr)
        return 2
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        weights = model(Path(folder), given.tiny)
        for number in range(given.passes):
            for name in given.only or CASES:
                command = [sys.executable, "-m", "tests.bench.train_gpu", "--one", name, "--model", str(weights)]
                command += [f"--{key}={getattr(given, key)}" for key in ("steps", "batch", "micro", "new")]
                command += ["--tiny"] if given.tiny else []
                run = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
                found[name].append(json.loads(run.stdout.splitlines()[-1]))
                print(number, name, found[name][-1], flush=True)
    for name, each in found.items():
        print(name, {key: statistics.median(one[key] for one in each) for key in each[0]})
    if not given.tiny:
        device = torch.cuda.get_device_name()
        OUT.write_text(json.dumps({"device": device, **vars(given), "figures": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
