"""Whether a folder of weights can be loaded, as far as its small files and the headers of its weights tell.

Reads no weights and needs no torch, so that a broken checkpoint is found before hours are spent beside it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from refinery.errors import UserError
from refinery.models.weights import folder, settings_in, weights_digest

TOKENIZERS = ("tokenizer*", "vocab.*", "spiece.model", "sentencepiece*", "*.tiktoken", "tokenization_*.py")
"""Files of which a folder with a tokenizer has one."""
HEADER = 8
"""Bytes at the beginning of a safetensors file that say how long the JSON after them is."""

Shapes = dict[str, tuple[int, ...]]


def broken(place: Path, base: Path | None = None, called: str = "the base") -> str | None:
    """What is wrong with a checkpoint's folder, in a line without its name. An adapter is held against the folder of
    the `base` that it is put on, which is `called` so."""
    files = sorted(place.glob("*.safetensors"))
    if not files:
        return "no .safetensors file in this folder"
    for file in files:
        if wrong := damage(file):
            return wrong
    if (place / "adapter_config.json").is_file():
        return _adapter(place, base, called)
    for index in place.glob("*.safetensors.index.json"):
        if missing := sorted(set(settings_in(index).get("weight_map", {}).values()) - {file.name for file in files}):
            return f"{missing[0]} is missing, which {index.name} names"
    if not (place / "config.json").is_file():
        return "there is no config.json in this folder"
    if not any(next(place.glob(pattern), None) for pattern in TOKENIZERS):
        return "there is no tokenizer in this folder: save it beside the weights (tokenizer.save_pretrained)"
    return None


def damage(file: Path) -> str | None:
    """What is wrong with a safetensors file: its header says how long it must be."""
    try:
        shapes, wanted = _header(file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{file.name} is no readable safetensors file (its header is broken)"
    size = file.stat().st_size
    if size != wanted:
        how = "is cut short" if size < wanted else "is too long"
        return f"{file.name} {how}: {size:,} bytes, where its header asks for {wanted:,}"
    return None if shapes else f"{file.name} holds no weights"


def trained_on(place: Path) -> str:
    """The base that an adapter's folder names; "" for full weights."""
    return str(settings_in(place / "adapter_config.json").get("base_model_name_or_path") or "")


def other_base(place: Path, model: str, revision: str | None = None) -> str:
    """The base that an adapter names, where it is not known to be `model`: by name, folder or content. "" otherwise."""
    named = trained_on(place)
    if not named or named == model:
        return ""
    own, here = _folder(named), _folder(model, revision)
    if own and here and (own.resolve() == here.resolve() or _digest(own) == _digest(here) != ""):
        return ""
    return named


def named_base(name: str, named: str, base: str) -> str:
    """What to say of an adapter whose `other_base` is `named`."""
    return (
        f"{name} is an adapter that was trained on {named}, as its adapter_config.json says, and is evaluated on "
        f"{base}: unless these are the same weights, its scores say nothing of it"
    )


def _adapter(place: Path, base: Path | None, called: str) -> str | None:
    """An adapter's matrices against the weights of the base: A reads as many numbers as they do, B writes as many."""
    if base is None or "quantization_config" in settings_in(base / "config.json"):
        return None
    below = {name: shape for file in sorted(base.glob("*.safetensors")) for name, shape in _shapes(file).items()}
    for name, reads, writes in _pairs(place):
        shape = below.get(f"{name}.weight")
        if shape is not None and len(shape) == 2 and (writes, reads) not in (shape, shape[::-1]):
            named = trained_on(place) or "another base"
            wide, own = f"{writes}x{reads}", "x".join(map(str, shape))
            return f"an adapter of {named}, which does not fit {called}: {name} is {wide} there and {own} in {called}"
    return None


def _pairs(place: Path) -> Iterator[tuple[str, int, int]]:
    """(name of a layer as the base has it, its width in, its width out) of each pair of LoRA matrices."""
    found = {name: shape for file in sorted(place.glob("*.safetensors")) for name, shape in _shapes(file).items()}
    for name, shape in found.items():
        before, part, after = name.rpartition(".lora_A.")
        second = found.get(f"{before}.lora_B.{after}")
        if part and second and len(shape) == len(second) == 2:
            yield before.removeprefix("base_model.model."), shape[1], second[0]


def _shapes(file: Path) -> Shapes:
    try:
        return _header(file)[0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _header(file: Path) -> tuple[Shapes, int]:
    """(each tensor's shape, bytes that the file must have)."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER), "little")
        if length > size - HEADER:
            raise ValueError("the header is longer than the file")
        found: Mapping[str, Any] = json.loads(stream.read(length))
    tensors = {name: each for name, each in found.items() if name != "__metadata__"}
    ends = [each["data_offsets"][1] for each in tensors.values()]
    return {name: tuple(each["shape"]) for name, each in tensors.items()}, HEADER + length + max(ends, default=0)


def _folder(model: str, revision: str | None = None) -> Path | None:
    try:
        return folder(model, revision)
    except UserError:
        return None


def _digest(place: Path) -> str:
    try:
        return weights_digest(place)
    except UserError:
        return ""
