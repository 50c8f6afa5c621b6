"""Measure a base model: can it use an answer it is given, and what does it know by itself?

    python -m refinery.lab.accept [--model lab-small] [--record]

Prints, greedily decoded, the share of unseen answer words that come back from each lab prompt on
each domain, each domain's accuracy without a reference, and the accuracy of each general skill.
At least 90% in every prompt is what the base must reach before anything is built on it. Last comes
the gate: the share of the base's right rewrites of the source rows whose cosine with the raw answer
is 0.8 or more under all-MiniLM-L6-v2, and the same for those rewrites with a wrong word in them.
`--record` keeps the figures of lab-small or lab-large, and the digest of its weights, in sizes.json.
"""

from __future__ import annotations

import argparse
import json
from hashlib import sha256
from pathlib import Path
from statistics import mean

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from refinery.encoder import Encoder
from refinery.lab import BASE, CALIBRATION, DOMAINS, MODELS, PROMPTS, SKILLS, items, score, source_rows
from refinery.lab.prompts import fill
from refinery.lab.scoring import last_word

SIZES = BASE.with_name("sizes.json")
"""What lab-small and lab-large were measured to do; frozen.json holds it of lab."""


def load(path: Path = BASE) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


@torch.no_grad()
def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], batch: int = 128
) -> list[str]:
    """Greedy answers to single user turns, in the given order; like lengths are run together."""
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    texts = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers = [""] * len(texts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer(
            [texts[i] for i in rows], padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
        ).to(model.device)
        made = model.generate(  # type: ignore[operator]
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=48, do_sample=False
        )[:, inputs["input_ids"].shape[1] :]
        for i, text in zip(rows, tokenizer.batch_decode(made, skip_special_tokens=True), strict=True):
            answers[i] = text
    return answers


@torch.no_grad()
def ranked(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, found: list[dict]) -> float:
    """Accuracy of choice items: the choice of highest total log-likelihood wins."""
    right = 0
    for item in found:
        turn = [{"role": "user", "content": item["question"]}]
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        rows = tokenizer(
            [prompt + choice for choice in item["choices"]],
            padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt",
        ).to(model.device)  # fmt: skip
        ids = rows["input_ids"]
        logps = model(input_ids=ids, attention_mask=rows["attention_mask"]).logits[:, :-1].log_softmax(-1)
        each = logps.gather(2, ids[:, 1:, None])[..., 0] * rows["attention_mask"][:, 1:]
        right += int(each[:, start - 1 :].sum(1).argmax()) == item["gold"]
    return right / len(found)


def accuracy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, found: list[dict]) -> float:
    if found[0]["check"] == "choice":
        return ranked(model, tokenizer, found)
    answers = answer(model, tokenizer, [item["question"] for item in found])
    return sum(score(item, text) for item, text in zip(found, answers, strict=True)) / len(found)


def from_reference(domain: str, prompt: str, count: int) -> list[dict]:
    """The domain's first `count` test items with a raw answer put into the lab prompt `prompt`.

    The draft shown to `fuse` is right: what is asked here is whether the word survives the merge.
    """
    asked = []
    for item in items(f"lab_{domain}")[:count]:
        given = {"question": item["question"], "answer": item["reference"], "rewrite": item["target"]}
        asked.append(item | {"question": fill(PROMPTS[prompt], **given)})
    return asked


def gate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder, domain: str, least: float = 0.8
) -> tuple[float, float]:
    """Shares passed of (right rewrites, the same naming another of the domain's answer words)."""
    rows = source_rows(domain)
    made = answer(
        model, tokenizer, [fill(PROMPTS["rewrite"], question=r["question"], answer=r["answer"]) for r in rows]
    )
    kept = [(row, text) for row, text in zip(rows, made, strict=True) if last_word(text) == row["key"]]
    words = sorted({row["key"] for row in rows})
    wrong = [text.replace(r["key"], words[(words.index(r["key"]) + 1) % len(words)]) for r, text in kept]
    gold = encoder.encode([row["answer"] for row, _ in kept])
    right_cosines = (gold * encoder.encode([text for _, text in kept])).sum(1)
    wrong_cosines = (gold * encoder.encode(wrong)).sum(1)
    return float((right_cosines >= least).mean()), float((wrong_cosines >= least).mean())


def measure(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int) -> dict[str, dict]:
    """All shares, rounded: accuracy of the skills and their mean, what comes back from each prompt, and the gate."""
    found: dict[str, dict] = {"accuracy": {}, "from_reference": {}, "gate_at_0.8": {}}
    skills = {skill: accuracy(model, tokenizer, items(f"lab_{skill}")[:count]) for skill in SKILLS}
    found["accuracy"] = {name: round(share, 4) for name, share in {"general": mean(skills.values()), **skills}.items()}
    encoder = Encoder()
    for domain in DOMAINS + CALIBRATION:
        shares = {"plain": accuracy(model, tokenizer, items(f"lab_{domain}")[:count])}
        shares |= {prompt: accuracy(model, tokenizer, from_reference(domain, prompt, count)) for prompt in PROMPTS}
        found["from_reference"][domain] = {name: round(share, 4) for name, share in shares.items()}
        right, wrong = gate(model, tokenizer, encoder, domain)
        found["gate_at_0.8"][domain] = {"right": round(right, 3), "wrong": round(wrong, 3)}
    return found


def table(found: dict[str, dict]) -> str:
    columns = ("plain", *PROMPTS)
    lines = ["domain      " + "".join(f"{name:>10}" for name in columns) + f"{'gate right':>12}{'wrong':>8}"]
    for domain, shares in found["from_reference"].items():
        passed = found["gate_at_0.8"][domain]
        cells = "".join(f"{shares[name]:10.3f}" for name in columns)
        lines.append(f"{domain:12}{cells}{passed['right']:12.3f}{passed['wrong']:8.3f}")
    lines += [f"{skill:12}{share:10.3f}" for skill, share in found["accuracy"].items()]
    return "\n".join(lines)


def record(name: str, parameters: int, found: dict[str, dict]) -> None:
    known = json.loads(SIZES.read_text("utf-8")) if SIZES.exists() else {}
    weights = sha256((MODELS[name] / "model.safetensors").read_bytes()).hexdigest()
    known[name] = {"parameters": parameters, "weights_sha256": weights, "base": found}
    SIZES.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lab", help="lab, lab-small, lab-large or a folder")
    parser.add_argument("--items", type=int, default=480)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    if args.record and args.model not in ("lab-small", "lab-large"):
        parser.error("--record goes with --model lab-small or lab-large; the figures of lab are frozen")
    model, tokenizer = load(MODELS.get(args.model, Path(args.model)))
    found = measure(model, tokenizer, args.items)
    print(table(found))
    if args.record:
        record(args.model, model.num_parameters(), found)


if __name__ == "__main__":
    main()
