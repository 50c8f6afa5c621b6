"""The two other base models: their shape, that they are the ones that were measured, and that they use an answer."""

import json
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file

from refinery.lab import BASE, CALIBRATION, DOMAINS, MODELS, PROMPTS, items
from refinery.lab.accept import SIZES as SIZES_FILE
from refinery.lab.accept import accuracy, from_reference, load
from refinery.lab.mix import conversation
from refinery.lab.train_base import IGNORED, SIZES, encode
from refinery.models import identity
from refinery.models.weights import resolve
from refinery.spec import ModelSpec, load_spec
from tests.models.test_likelihoods import VLLM, agree, run, score, small_vllm, talk

__all__ = ["small_vllm"]

OTHERS = ("lab-small", "lab-large")
MIDDLE = 1_197_440


@pytest.fixture(scope="module", params=OTHERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    return load(MODELS[name])


@pytest.fixture(scope="module")
def measured(name: str) -> dict[str, Any]:
    """What `python -m refinery.lab.accept --record` kept."""
    return json.loads(SIZES_FILE.read_text("utf-8"))[name]


def test_shape(name: str, model: Any) -> None:
    weights, tokenizer = model
    size, config = SIZES[MODELS[name].name], weights.config
    assert config.architectures == ["LlamaForCausalLM"]
    assert (config.head_dim, config.max_position_embeddings) == (32, 512)
    assert (config.hidden_size, config.num_hidden_layers) == (size.hidden, size.layers)
    assert len(tokenizer) == config.vocab_size
    assert weights.generation_config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    low, high = (0.25, 0.4) if name == "lab-small" else (2, 3)
    assert low * MIDDLE <= weights.num_parameters() <= high * MIDDLE
    assert (MODELS[name] / "model.safetensors").stat().st_size < 8_000_000


def test_the_file_is_half_the_size_and_still_computed_in_float32(name: str, model: Any) -> None:
    stored = load_file(MODELS[name] / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16} and "lm_head.weight" not in stored
    assert model[0].dtype == torch.float32


@pytest.mark.parametrize("file", ["tokenizer.json", "chat_template.jinja", "tokenizer_config.json"])
def test_all_sizes_read_and_write_alike(name: str, file: str) -> None:
    assert (MODELS[name] / file).read_bytes() == (BASE / file).read_bytes()


def test_every_text_comes_back_from_its_tokens(model: Any) -> None:
    rng = Random(5)
    texts = [text for _ in range(200) for turn in conversation(rng) for text in turn] + [
        "Zürich: 3 × 4 = 12 €",
        "\n\n ",
    ]
    assert [model[1].decode(ids) for ids in model[1](texts).input_ids] == texts


def test_the_weights_are_the_measured_ones(name: str, model: Any, measured: dict[str, Any]) -> None:
    content = (MODELS[name] / "model.safetensors").read_bytes()
    assert sha256(content).hexdigest() == measured["weights_sha256"]
    assert model[0].num_parameters() == measured["parameters"]


def test_what_was_measured_is_enough(measured: dict[str, Any]) -> None:
    """The acceptance figures on file, of all items."""
    found = measured["base"]
    assert set(found["from_reference"]) == {*DOMAINS, *CALIBRATION}
    for domain, shares in found["from_reference"].items():
        assert min(shares[prompt] for prompt in PROMPTS) >= 0.9, domain
        assert shares["plain"] <= 0.02, domain
    assert found["accuracy"]["general"] >= 0.9
    assert all(0.5 <= passed["right"] <= 0.95 and passed["wrong"] <= 0.1 for passed in found["gate_at_0.8"].values())


@pytest.mark.parametrize("prompt", PROMPTS)
def test_an_unseen_answer_comes_back_from_every_prompt(model: Any, prompt: str) -> None:
    asked = [item for domain in DOMAINS for item in from_reference(domain, prompt, 16)]
    assert accuracy(*model, asked) >= 0.9


def test_no_domain_is_known_beforehand(model: Any) -> None:
    asked = [item for domain in DOMAINS for item in items(f"lab_{domain}")[:16]]
    assert accuracy(*model, asked) <= 0.1


def test_a_name_is_a_folder_of_weights(name: str) -> None:
    assert Path(resolve(name)) == MODELS[name] and (MODELS[name] / "config.json").exists()
    assert identity(ModelSpec(model=name)) != identity(ModelSpec(model="lab"))
    assert resolve("lab") == str(BASE)


def test_a_spec_takes_the_name_and_judges_it_by_the_lab_s_skills(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("source: {lab: clinic}\nmodel: lab-large\n", "utf-8")
    assert "lab_facts" in load_spec(file).evaluate.general
    file.write_text("source: {lab: clinic}\nmodel: lab-smal\n", "utf-8")
    with pytest.raises(Exception, match='there is no model "lab-smal"') as error:
        load_spec(file)
    assert 'did you mean "lab-small"?' in str(error.value)


def test_a_spoken_conversation_trains_the_user_s_words_and_an_end() -> None:
    _, tokenizer = load(BASE)
    turns = [("Spell tavoli.", "t a v o l i"), ("What is 2 + 3?", "5")]
    ids, labels = encode(turns, tokenizer)
    spoken_ids, spoken = encode(turns, tokenizer, spoken=True)
    assert spoken_ids == ids
    assert [b for a, b in zip(labels, spoken, strict=True) if a != IGNORED] == [a for a in labels if a != IGNORED]
    added = [b for a, b in zip(labels, spoken, strict=True) if a == IGNORED and b != IGNORED]
    assert tokenizer.decode(added) == "Spell tavoli.<|end|>What is 2 + 3?<|end|>"
    assert tokenizer.decode([i for i, b in zip(ids, spoken, strict=True) if b == IGNORED]) == "<|bos|><|user|><|user|>"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OTHERS)
def test_vllm_says_and_scores_as_transformers_does(name: str, small_vllm: None) -> None:
    served = ModelSpec(backend="vllm", model=(name), dtype="float32", command=VLLM, args=["--enforce-eager"])
    here = ModelSpec(model=name, device="cpu", dtype="float32")

    async def both(model: Any) -> Any:
        return await talk(model), await score(model)

    (said, scored), (expected, likelihoods) = run(served, both), run(here, both)
    assert [getattr(each, "text", each) for each in said] == [getattr(each, "text", each) for each in expected]
    agree(scored, likelihoods, 1e-3)
