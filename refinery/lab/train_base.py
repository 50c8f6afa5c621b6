"""Train a base model of the lab once.

    python -m refinery.lab.train_base --out refinery/lab/base
    python -m refinery.lab.train_base --size small --out refinery/lab/small

The middle size starts from nothing and takes about a quarter of an hour on two cores; the others start
as the shipped middle one, cut or grown, and go on with the data that come after its. The script writes a
checkpoint every two minutes and goes on from it when started again with the same settings. Only the answers
are trained on, and by the large size the user's words of some conversations.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from refinery.lab import BASE
from refinery.lab.grow import cut, grown
from refinery.lab.mix import conversation
from refinery.lab.tokenizer import ASSISTANT, BOS, END, PAD, SPECIAL, USER, train_tokenizer

LONGEST = 500
IGNORED = -100
POOL = 64
Batch = tuple[torch.Tensor, torch.Tensor]
"""Token ids and labels, both (rows, length), padded on the right."""


@dataclass(frozen=True)
class Size:
    """What sets one base apart; world, tokenizer and all else are the same."""

    hidden: int
    inner: int
    layers: int
    rate: float
    """Learning rate."""
    steps: int
    spoken: float = 0.0
    """Share of conversations in which the user's words are trained on too, so that the model can write a question."""
    stored: torch.dtype = torch.bfloat16
    """Of the weights in the file; they are loaded as float32."""
    kept: tuple[int, ...] | None = None
    """The layers of the middle one that it is cut down to; a size without is grown from that one."""


SIZES = {
    "small": Size(hidden=128, inner=128, layers=3, rate=2e-3, steps=384, kept=(0, 1, 4)),
    "base": Size(hidden=128, inner=384, layers=5, rate=4e-3, steps=2816, stored=torch.float32),
    "large": Size(hidden=192, inner=512, layers=6, rate=1.5e-3, steps=512, spoken=0.2),
}


def config(tokenizer: PreTrainedTokenizerFast, size: Size) -> LlamaConfig:
    """Heads of size 32, which the CPU kernels of inference servers take."""
    heads = size.hidden // 32
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=size.hidden, intermediate_size=size.inner,
        num_hidden_layers=size.layers, num_attention_heads=heads, num_key_value_heads=heads, head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=SPECIAL.index(BOS), eos_token_id=SPECIAL.index(END), pad_token_id=SPECIAL.index(PAD),
    )  # fmt: skip


def beginning(tokenizer: PreTrainedTokenizerFast, name: str) -> LlamaForCausalLM:
    """The model before its first step: new, or made from the shipped middle one."""
    size = SIZES[name]
    if name == "base":
        return LlamaForCausalLM(config(tokenizer, size))
    middle = LlamaForCausalLM.from_pretrained(BASE)
    return cut(middle, size.kept, size.inner) if size.kept else grown(middle, config(tokenizer, size))


def encode(
    turns: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, spoken: bool = False
) -> tuple[list[int], list[int]]:
    """The ids that the chat template gives, and labels on each answer and its end token.

    Written by hand because the template is slow; a test holds the two equal. A conversation too
    long for the model loses its last turns. Where it is `spoken`, the user's words are labelled too.
    In the template the assistant marker ends them; a model that writes them itself learns to close
    them with the end token, at which every decoder stops.
    """
    bos, user, assistant, end = (SPECIAL.index(token) for token in (BOS, USER, ASSISTANT, END))
    texts = tokenizer([text for turn in turns for text in turn]).input_ids
    ids, labels = [bos], [IGNORED]
    for question, answer in zip(texts[::2], texts[1::2], strict=True):
        if len(ids) + len(question) + len(answer) + 3 > LONGEST:
            break
        asked, answered = [user, *question, assistant], [*answer, end]
        ids += asked + answered
        labels += [IGNORED, *question, end] if spoken else [IGNORED] * len(asked)
        labels += answered
    return ids, labels


def batches(
    seed: int, pool: int, tokenizer: PreTrainedTokenizerFast, budget: int, spoken: float = 0.0
) -> Iterator[Batch]:
    """`POOL` batches of at most about `budget` padded tokens; a pool depends on its number alone.

    Examples of a pool are sorted by length, so that little is padding, and the batches shuffled.
    """
    rng = Random(f"base {seed} {pool}")
    made: list[Batch] = []
    while len(made) < POOL:
        examples = [
            encode(conversation(rng), tokenizer, spoken > 0 and rng.random() < spoken)
            for _ in range(POOL * budget // 48)
        ]
        examples.sort(key=lambda example: len(example[0]))
        start = 0
        while start < len(examples):
            stop = start + 1
            while stop < len(examples) and len(examples[stop][0]) * (stop + 1 - start) <= budget:
                stop += 1
            made.append(_pad(examples[start:stop]))
            start = stop
    rng.shuffle(made)
    yield from made[:POOL]


def _pad(examples: list[tuple[list[int], list[int]]]) -> Batch:
    width = max(len(ids) for ids, _ in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full((len(examples), width), IGNORED)
    for row, (tokens, targets) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(targets)] = torch.tensor(targets)
    return ids, labels


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the labelled tokens; the vocabulary is scored at those positions alone.

    Padding needs no mask: it stands on the right, where no earlier position can see it.
    """
    ids, labels = batch
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    trained = targets != IGNORED
    return cross_entropy(model.lm_head(hidden[trained]).float(), targets[trained])


def optimizers(model: LlamaForCausalLM, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, which halves the steps needed; AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "layers" in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim == 2 and "layers" in name)]
    return [
        torch.optim.Muon(matrices, lr=muon_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """Share of the full learning rate: warm-up over 2%, flat, then straight down over the last 50%."""
    return min((step + 1) / (0.02 * steps), 1.0, (steps - step) / (0.5 * steps))


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer, size = train_tokenizer(args.out), SIZES[args.size]
    steps = args.steps or size.steps
    model, first = beginning(tokenizer, args.size), 0 if args.size == "base" else SIZES["base"].steps // POOL
    chosen = optimizers(model, size.rate, size.rate)
    full = [[group["lr"] for group in optimizer.param_groups] for optimizer in chosen]
    step, checkpoint = 0, args.out / "checkpoint.pt"
    settings = {key: value for key, value in vars(args).items() if key not in ("out", "save_every")}
    settings |= {key: str(value) for key, value in asdict(size).items()} | {"steps": steps}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["settings"] != settings:
            raise SystemExit(f"{checkpoint} was made with {saved['settings']}; remove it or use the same settings")
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(chosen, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        step = saved["step"]
    print(f"{model.num_parameters():,} parameters, from step {step} of {steps}", flush=True)
    started = saved_at = time.monotonic()
    mean, tokens = math.nan, 0
    while step < steps:
        pool = first + step // POOL
        for number, batch in enumerate(batches(args.seed, pool, tokenizer, args.budget, size.spoken)):
            if number < step % POOL or step >= steps:
                continue
            for optimizer, rates in zip(chosen, full, strict=True):
                for group, base in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = base * rate(step, steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = loss_of(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in chosen:
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            tokens += batch[0].numel()
            mean = loss.item() if math.isnan(mean) else 0.95 * mean + 0.05 * loss.item()
            if step % 50 == 0:
                seconds = time.monotonic() - started
                print(f"step {step} loss {mean:.3f} {tokens / seconds:,.0f} tokens/s {seconds:.0f} s", flush=True)
        if time.monotonic() - saved_at > args.save_every:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in chosen]}
            torch.save({**state, "step": step, "settings": settings}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
            saved_at = time.monotonic()
    save(model, args.out, size.stored)
    checkpoint.unlink(missing_ok=True)


def save(model: LlamaForCausalLM, out: Path, stored: torch.dtype) -> None:
    """The checkpoint. Its config says float32 whatever the file holds, so that every loader computes in that."""
    ids = {name: getattr(model.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids, do_sample=False)
    weights = {name: weight.to(stored) for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(out, state_dict=weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="fewer or more than the size's own")
    parser.add_argument("--budget", type=int, default=4096, help="padded tokens in a batch")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--save-every", type=float, default=120, help="seconds between checkpoints")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
