"""What is wrong with a folder of weights, from its headers: files damaged by hand, adapters of known sizes."""

import json
import shutil
from pathlib import Path

import pytest

from refinery.lab import BASE, MODELS
from refinery.models.whole import broken, other_base

torch = pytest.importorskip("torch")


@pytest.fixture
def copy(tmp_path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "copy"))


def adapter(folder: Path, wide: int, high: int, named: str) -> Path:
    """LoRA matrices for one layer of `high` outputs and `wide` inputs, as peft names them."""
    from safetensors.torch import save_file

    name = "base_model.model.model.layers.0.self_attn.q_proj"
    folder.mkdir()
    pair = {f"{name}.lora_A.weight": torch.zeros(4, wide), f"{name}.lora_B.weight": torch.zeros(high, 4)}
    save_file(pair, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": named}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_shipped_models_are_whole():
    assert [broken(place) for place in MODELS.values()] == [None] * len(MODELS)


@pytest.mark.parametrize("left", [0, 5, 9, 1000, 100_000, -1])
def test_a_file_cut_anywhere_is_found(copy, left):
    file = copy / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:left])
    wrong = broken(copy)
    header = 8 + int.from_bytes(whole[:8], "little")
    if left == -1 or left > header:
        size = len(whole) - 1 if left == -1 else left
        assert wrong == f"model.safetensors is cut short: {size:,} bytes, where its header asks for {len(whole):,}"
    else:
        assert wrong == "model.safetensors is no readable safetensors file (its header is broken)"


def test_what_is_missing_is_named(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert "no tokenizer" in (broken(copy) or "")
    (copy / "config.json").unlink()
    assert broken(copy) == "there is no config.json in this folder"
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    missing = "model-00002-of-00002.safetensors is missing, which model.safetensors.index.json names"
    assert broken(copy) == missing
    (copy / "model.safetensors").unlink()
    assert broken(copy) == "no .safetensors file in this folder"


def test_an_adapter_of_another_size_names_both_bases(tmp_path):
    config = json.loads((BASE / "config.json").read_text())
    wide, heads = config["hidden_size"], config["num_attention_heads"]
    high = config.get("head_dim", wide // heads) * heads
    assert broken(adapter(tmp_path / "fits", wide, high, "lab"), BASE, "lab") is None
    wrong = broken(adapter(tmp_path / "wider", wide + 32, high, "other/base"), BASE, "lab")
    assert wrong is not None and wrong.startswith("an adapter of other/base, which does not fit lab: ")
    assert f"is {high}x{wide + 32} there and {high}x{wide} in lab" in wrong


def test_another_base_is_one_of_another_name_folder_and_content(tmp_path, copy):
    named = {"lab": "", str(BASE): "", str(copy): "", str(MODELS["lab-small"]): "other", "org/else": "other", "": ""}
    for number, (name, other) in enumerate(named.items()):
        place = adapter(tmp_path / str(number), 8, 8, name)
        assert other_base(place, "lab") == (name if other else "")
    assert other_base(adapter(tmp_path / "by_folder", 8, 8, "lab"), str(BASE)) == ""
