"""The shipped base model: its shape, its chat template, and that it uses an answer it is given."""

import json
from hashlib import sha256
from random import Random

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from refinery.encoder import Encoder
from refinery.lab import BASE, DOMAINS, PROMPTS, items
from refinery.lab.accept import accuracy, from_reference, gate, load
from refinery.lab.mix import conversation
from refinery.lab.train_base import IGNORED, encode


@pytest.fixture(scope="module")
def base():
    return load()


def test_shape(base):
    model, tokenizer = base
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.num_parameters() <= 1_500_000
    assert model.config.head_dim == 32
    assert model.config.max_position_embeddings >= 512
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.pad_token_id != tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert (BASE / "model.safetensors").stat().st_size < 6_000_000


def test_the_template_ends_with_one_end_token_and_no_newline(base):
    _, tokenizer = base
    prompt = [{"role": "user", "content": "Spell tavoli."}]
    answer = [{"role": "assistant", "content": "t a v o l i"}]
    text = tokenizer.apply_chat_template(prompt + answer, tokenize=False)
    opening = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    assert text == opening + "t a v o l i<|end|>"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert ids.count(tokenizer.eos_token_id) == ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer(text).input_ids == ids, "the tokenizer adds no token of its own"


def test_a_system_turn_joins_the_user_turn(base):
    _, tokenizer = base
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Spell tavoli."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<|bos|><|user|>Be brief.\n\nSpell tavoli.<|assistant|>"


def test_base_training_sees_what_the_template_writes(base):
    _, tokenizer = base
    rng = Random(11)
    for _ in range(300):
        turns = conversation(rng)
        ids, labels = encode(turns[:4], tokenizer)
        chat = [
            {"role": role, "content": text}
            for turn in turns[:4]
            for role, text in zip(("user", "assistant"), turn, strict=True)
        ]
        made = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        assert made["input_ids"] == ids
        assert made["assistant_masks"] == [int(label != IGNORED) for label in labels]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_unseen_answer_comes_back_from_every_prompt(base, prompt):
    asked = [item for domain in DOMAINS for item in from_reference(domain, prompt, 24)]
    assert accuracy(*base, asked) >= 0.9


def test_the_gate_passes_most_right_rewrites_and_few_wrong_ones(base):
    pytest.importorskip("sentence_transformers")
    right, wrong = gate(*base, Encoder(), DOMAINS[0])
    assert 0.5 <= right <= 0.95
    assert wrong <= 0.1


def test_no_domain_is_known_beforehand(base):
    asked = [item for domain in DOMAINS for item in items(f"lab_{domain}")[:24]]
    assert accuracy(*base, asked) <= 0.1


def test_the_settings_and_the_weights_are_frozen():
    frozen = json.loads((BASE.parent / "frozen.json").read_text())
    assert sha256((BASE / "model.safetensors").read_bytes()).hexdigest() == frozen["weights_sha256"]
    assert set(frozen["sft"]) >= {"batch", "epochs", "learning_rates", "schedule", "warmup", "weight_decay", "clip"}
