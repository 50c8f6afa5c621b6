"""Against torch's own divergences in float64 on tiny random models, and norms by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from evals.movement import REFUSES, along_answer, distance, evenly, vocabulary
from refinery.errors import UserError
from refinery.lab import BASE


@pytest.fixture(scope="module")
def models():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    now = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in now.parameters():
            tensor += 0.03 * torch.randn_like(tensor)
    return before, now, AutoTokenizer.from_pretrained(BASE)


@pytest.mark.parametrize("chunk", [2, 256])
def test_along_an_answer(models, monkeypatch, chunk):
    monkeypatch.setattr("evals.movement.CHUNK", chunk)
    before, now, tokenizer = models
    prompt, answer = "What is the capital?\n", "The answer is twelve of the garden."
    found = along_answer(before, now, tokenizer, prompt, answer)
    head, tail = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
    ids = torch.tensor([head + tail])
    with torch.no_grad():
        p, q = (functional.log_softmax(m(ids).logits[0, len(head) - 1 : -1].double(), -1) for m in (before, now))
    expected = {
        "before_now": functional.kl_div(q, p, log_target=True, reduction="batchmean"),
        "now_before": functional.kl_div(p, q, log_target=True, reduction="batchmean"),
        "nll_now": functional.nll_loss(q, torch.tensor(tail)),
        "entropy_now": torch.distributions.Categorical(logits=q).entropy().mean(),
    }
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-4)
    assert expected["before_now"] > 0.01
    itself = along_answer(before, before, tokenizer, prompt, answer)
    assert itself["before_now"] == 0 == itself["now_before"]


def test_a_prompt_too_long_for_the_context_loses_its_beginning(models):
    before, now, tokenizer = models
    long, answer = "many words " * 2000, "The answer."
    room = before.config.max_position_embeddings - len(tokenizer(answer, add_special_tokens=False)["input_ids"])
    kept = tokenizer.decode(tokenizer(long, add_special_tokens=False)["input_ids"][-room:])
    assert along_answer(before, now, tokenizer, long, answer) == along_answer(before, now, tokenizer, kept, answer)
    assert along_answer(before, now, tokenizer, "A prompt", "") == {}


def test_distance_of_weights():
    rng = np.random.default_rng(0)
    old = {"model.layers.0.a.weight": rng.normal(size=(3, 4)), "model.layers.10.b.bias": rng.normal(size=5)}
    old |= {"lm_head.weight": rng.normal(size=(2, 2))}
    new = {name: value + rng.normal(size=value.shape) * (name != "lm_head.weight") for name, value in old.items()}
    whole, layers, size = distance(*({k: torch.tensor(v) for k, v in each.items()} for each in (new, old)))
    flat = [np.concatenate([each[name].ravel() for name in old]) for each in (new, old)]
    assert whole == pytest.approx(np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]))
    name = "model.layers.10.b.bias"
    by_hand = np.linalg.norm(new[name] - old[name]) / np.linalg.norm(old[name])
    assert layers["model.layers.10"] == pytest.approx(by_hand) and layers["lm_head.weight"] == 0
    assert set(layers) == {"model.layers.0", "model.layers.10", "lm_head.weight"} and size == 12 + 5 + 4
    with pytest.raises(UserError, match="no version of the base"):
        distance({"a": torch.zeros(2)}, {"a": torch.zeros(3)})


def test_words_added_at_the_end_are_left_out(models):
    """A model that got one word more, against itself before."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, now, tokenizer = models
    larger = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    larger.load_state_dict(now.state_dict())
    own = AutoTokenizer.from_pretrained(BASE)
    own.add_special_tokens({"pad_token": "<|a pad of its own|>"})
    larger.resize_token_embeddings(len(own))
    words = before.get_input_embeddings().weight.shape[0]
    common = vocabulary(larger, own, before, tokenizer)
    assert common == words < len(own) and vocabulary(now, tokenizer, before, tokenizer) is None
    prompt, answer = "What is the capital?\n", "The answer is twelve of the garden."
    found = along_answer(before, larger, tokenizer, prompt, answer, common)
    assert found == pytest.approx(along_answer(before, now, tokenizer, prompt, answer), abs=1e-4)
    grown = distance(larger.state_dict(), before.state_dict(), common)
    assert grown == distance(now.state_dict(), before.state_dict())
    with pytest.raises(UserError, match="no version of the base"):
        distance(larger.state_dict(), before.state_dict())


@pytest.mark.parametrize(("place", "number"), [("own", 3), ("base", 9)])
def test_a_vocabulary_with_other_words_before_its_end_is_none_of_the_base(place, number):
    """Another word at a place that both have; a word of the base's that the checkpoint has no row for."""
    from types import SimpleNamespace

    def model(rows):
        return SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(rows, 2))

    def tokenizer(words):
        return SimpleNamespace(get_vocab=lambda: words)

    known = {"a": 0, "b": 1, "c": 2}
    words = {"base": known, "own": known | {"pad": 5}}
    assert vocabulary(model(6), tokenizer(words["own"]), model(5), tokenizer(words["base"])) == 5
    assert vocabulary(model(4), tokenizer(words["own"]), model(5), tokenizer(words["base"])) == 4
    words = {**words, place: words[place] | {"c": number}}
    with pytest.raises(UserError, match="not the base's of 5 with words added at the end"):
        vocabulary(model(6), tokenizer(words["own"]), model(5), tokenizer(words["base"]))


def test_items_are_chosen_evenly_and_by_their_ids():
    rows = [
        {"benchmark": name, "item": f"{name}/{n}"}
        for name, count in (("a", 50), ("b", 50), ("c", 3))
        for n in range(count)
    ]
    chosen = evenly(rows, 23)
    assert [sum(row["benchmark"] == name for row in chosen) for name in "abc"] == [10, 10, 3]
    assert evenly(list(reversed(rows)), 23) == chosen and len(evenly(rows, 1000)) == len(rows)


@pytest.mark.parametrize(
    "text",
    ["I'm sorry, but that", "I cannot help", "As an AI model", "Sorry, no.", "I can’t do this".replace("’", "'")],
)
def test_openings_of_refusals(text):
    assert REFUSES.match(text)


@pytest.mark.parametrize("text", ["I can help", "The sorry state of it", "Asparagus", ""])
def test_what_is_no_refusal(text):
    assert not REFUSES.match(text)
