"""The lab's tokenizer and chat template."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from refinery.lab.mix import conversation
from refinery.lab.words import CONSONANTS, SYLLABLES, VOWELS

PAD, BOS, USER, ASSISTANT, END = SPECIAL = ("<|pad|>", "<|bos|>", "<|user|>", "<|assistant|>", "<|end|>")
SPACE = "Ġ"  # how byte-level BPE writes a space

# One end token closes an answer and nothing follows it, not even a newline: what comes after the
# end token would be trained too. A system turn is put before the user's words.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- set told = namespace(system='') %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{%- set told.system = message['content'] + '\\n\\n' %}
{%- elif message['role'] == 'user' %}
{{- '<|user|>' + told.system + message['content'] }}
{%- set told.system = '' %}
{%- else %}
{{- '<|assistant|>' }}
{%- generation %}
{{- message['content'] + '<|end|>' }}
{%- endgeneration %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>' }}
{%- endif %}"""


def train_tokenizer(out: Path, vocabulary: int = 1024, examples: int = 20_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every syllable is a token, alone and after a space.

    The library's trainer would merge across syllables (`tavoli` as t-av-ol-i) and differently in
    every word, which makes unseen words far harder to copy. So the syllables are merged first and
    the other merges, for the words of the templates, are counted on top of them.
    """
    split = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    merges = [(syllable[0], syllable[1]) for syllable in SYLLABLES] + [(SPACE, syllable) for syllable in SYLLABLES]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = vocabulary - len(SPECIAL) - len(alphabet) - len(merges)
    merges += _count_merges(_pieces(split, examples), merges, room)
    tokens = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
    bpe = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    bpe.pre_tokenizer, bpe.decoder = split, decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=END, pad_token=PAD, extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE, model_max_length=512, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.save_pretrained(out)
    return tokenizer


def _pieces(split: pre_tokenizers.PreTokenizer, examples: int) -> Counter[str]:
    """How often each pre-token occurs in base training's text, made-up words left out."""
    rng = Random("tokenizer")
    seen: Counter[str] = Counter()
    for _ in range(examples):
        for turn in conversation(rng):
            for text in turn:
                seen.update(piece for piece, _ in split.pre_tokenize_str(text))
    made_up = re.compile(f"{SPACE}?([{CONSONANTS}][{VOWELS}])+", re.IGNORECASE)
    return Counter({piece: count for piece, count in seen.items() if not made_up.fullmatch(piece)})


def _count_merges(pieces: Counter[str], first: list[tuple[str, str]], room: int) -> list[tuple[str, str]]:
    """Up to `room` further merges, most frequent pair first (ties: by the pair itself)."""
    split = {piece: list(piece) for piece in sorted(pieces)}
    for pair in first:
        split = {piece: _merge(parts, pair) for piece, parts in split.items()}
    found: list[tuple[str, str]] = []
    while len(found) < room:
        pairs: Counter[tuple[str, str]] = Counter()
        for piece, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += pieces[piece]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        split = {piece: _merge(parts, best) for piece, parts in split.items()}
    return found


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged, position = [], 0
    while position < len(parts):
        if tuple(parts[position : position + 2]) == pair:
            merged.append(parts[position] + parts[position + 1])
            position += 2
        else:
            merged.append(parts[position])
            position += 1
    return merged
