"""Set and check the lab's difficulty with the base and plain SFT on raw answers alone.

    python tests/bench/lab_calibration.py [--base FOLDER] [--rates 2e-4 4e-4 8e-4] [--epochs 10]

Runs on the calibration domains only. No other method may be looked at here: whoever did could
choose a difficulty that flatters it. Prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from hashlib import sha256
from pathlib import Path
from statistics import mean

import torch
from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from refinery.lab import BASE, CALIBRATION, SKILLS, items, source_rows
from refinery.lab.accept import accuracy, from_reference, load

VALIDATION_SHARE = 0.3


def split(rows: list[dict]) -> tuple[list[dict], list[dict]]:
    """(train, validation): all rows of a case on one side, cases ordered by digest."""
    cases = sorted({row["case"] for row in rows}, key=lambda case: sha256(case.encode()).hexdigest())
    held = set(cases[: round(VALIDATION_SHARE * len(cases))])
    return [r for r in rows if r["case"] not in held], [r for r in rows if r["case"] in held]


def chat(rows: list[dict]) -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["question"]}],
                "completion": [{"role": "assistant", "content": row["answer"]}],
            }
            for row in rows
        ]
    )


def sft(base: Path, rows: list[dict], rate: float, epochs: float, seed: int):
    """Plain SFT: full fine-tuning in float32, batch 16, cosine, warm-up 3%, clipping at 1.0."""
    set_seed(seed)
    model, tokenizer = load(base)
    with tempfile.TemporaryDirectory() as out:
        settings = SFTConfig(
            output_dir=out, learning_rate=rate, num_train_epochs=epochs, per_device_train_batch_size=16, seed=seed,
            weight_decay=0.01, lr_scheduler_type="cosine", warmup_steps=0.03, max_grad_norm=1.0, bf16=False,
            gradient_checkpointing=False, use_cpu=True, save_strategy="no", logging_steps=1000, report_to=[],
            disable_tqdm=True, max_length=512,
        )  # fmt: skip
        trainer = SFTTrainer(model=model.train(), args=settings, train_dataset=chat(rows), processing_class=tokenizer)
        trainer.train()
    return trainer.model.eval(), tokenizer, trainer.state.global_step


def measure(model, tokenizer, domain: str, count: int) -> dict:
    skills = {skill: accuracy(model, tokenizer, items(f"lab_{skill}")[:count]) for skill in SKILLS}
    return {
        "domain": accuracy(model, tokenizer, items(f"lab_{domain}")[:count]),
        "unseen": accuracy(model, tokenizer, items(f"lab_{domain}_unseen")[:count]),
        "general": mean(skills.values()),
        **skills,
    }


def show(**row) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) and v > 0.01 else v for k, v in row.items()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-4, 4e-4, 8e-4])
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--items", type=int, default=480)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--domains", nargs="+", default=list(CALIBRATION), choices=CALIBRATION)
    args = parser.parse_args()
    torch.set_num_threads(2)
    for domain in args.domains:
        train, validation = split(source_rows(domain))
        asked = [{"question": r["question"], "target": r["key"], "check": "last_word"} for r in validation]
        base, tokenizer = load(args.base)
        shares = {
            p: accuracy(base, tokenizer, from_reference(domain, p, args.items)) for p in ("rewrite", "teacher", "fuse")
        }
        show(who="base", name=domain, train=len(train), validation=len(validation), **shares)
        show(who="base", name=domain, **measure(base, tokenizer, domain, args.items))
        for rate in args.rates:
            tuned, tokenizer, steps = sft(args.base, train, rate, args.epochs, args.seed)
            right = accuracy(tuned, tokenizer, asked)
            got = measure(tuned, tokenizer, domain, args.items)
            show(who="sft", name=domain, rate=rate, steps=steps, validation=right, **got)


if __name__ == "__main__":
    main()
