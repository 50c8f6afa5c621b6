"""Where a local model's files are, and the digest that names them. No torch here: `refinery plan` reads it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from refinery.errors import UserError, did_you_mean
from refinery.records import digest

SHAPING = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "*.safetensors",
)
"""The files of a checkpoint folder that shape what it says."""

SMALL = 1 << 20
"""Bytes up to which a file is simply hashed again."""


def resolve(model: str) -> str:
    """ "lab", "lab-small" or "lab-large" as the folder of that shipped model; a folder or a hub id as it is."""
    from refinery.lab import MODELS

    path = MODELS.get(model)
    if path is None:
        return str(Path(model).expanduser()) if model.startswith("~") else model
    if not (path / "config.json").exists():
        raise UserError(f"model {model}: this installation lacks the weights (refinery/lab/{path.name})")
    return str(path)


def folder(model: str, revision: str | None = None, *, fetch: bool = False) -> Path | None:
    """The folder of a model's files, or None for a hub id that is not on this machine. `fetch` downloads it."""
    path = Path(resolve(model))
    if path.is_dir():
        return path
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(f"model {model}: no such folder")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(f'model {model}: a hub id needs huggingface_hub (pip install "refinery[train]")') from None
    patterns = [*SHAPING, "*.py"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, local_files_only=not fetch))
    except LocalEntryNotFoundError:
        if fetch:
            raise UserError(f"model {model}: not on this machine, and the hub cannot be reached") from None
        return None
    except (HfHubHTTPError, ValueError) as error:
        raise UserError(f"model {model}: {str(error).strip().splitlines()[0]}") from error


def no_weights(weights: str) -> str | None:
    """What to say of weights trained elsewhere that are no folder and cannot be ORG/NAME of the hub; None where they
    may be one. Where a folder ORG is here, a folder in it was meant. Looks for folders alone, so that a mistake is
    found before anything is asked of the hub."""
    from refinery.lab import MODELS

    path = Path(weights).expanduser()
    if path.is_file():
        return f"{weights}: this is a file: give its folder, {path.parent}"
    local = weights.startswith((".", "/", "~")) or weights.count("/") != 1 or path.parent.is_dir()
    if weights in MODELS or not local or path.is_dir():
        return None
    beside = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, beside)
    return f"there is no folder {weights}{hint}; weights are a folder or ORG/NAME of the hub"


def adapter_folder(adapter: str) -> Path:
    """A LoRA adapter's folder. UserError where it is none."""
    path = Path(adapter).expanduser()
    if not (path / "adapter_config.json").is_file():
        raise UserError(f"adapter {adapter}: no adapter_config.json there; an adapter is a folder that peft wrote")
    return path


SHAPING_ARGS = ("quantization", "dtype", "kv-cache-dtype", "hf-overrides", "chat-template", "tokenizer", "speculative")


def shaping(args: list[str]) -> list[str]:
    """Those of `vllm serve`'s arguments that shape what the model says, not how fast it says it."""
    found, on = [], False
    for arg in args:
        on = arg.lstrip("-").replace("_", "-").startswith(SHAPING_ARGS) if arg.startswith("-") else on
        found += [arg] if on else []
    return found


def weights_digest(path: Path | str) -> str:
    """Names a checkpoint folder by content: config, tokenizer, chat template and safetensors, not its place.

    Large files are hashed once; the result is kept in the user's cache folder under path, size and time of change.
    """
    path = Path(path)
    files = sorted({file for pattern in SHAPING for file in path.glob(pattern)})
    if not any(file.suffix == ".safetensors" for file in files):
        raise UserError(f"model {path}: no .safetensors file in this folder")
    memory = _remembered()
    before = dict(memory)
    found = {file.name: _file_digest(file, memory) for file in files}
    if memory != before:
        _remember(memory)
    return digest(found)


def _file_digest(file: Path, memory: dict[str, Any]) -> str:
    status = file.stat()
    stamp = [status.st_size, status.st_mtime_ns]
    key = str(file.resolve())
    if status.st_size > SMALL and (known := memory.get(key)) and known[:2] == stamp:
        return str(known[2])
    with file.open("rb") as stream:
        value = hashlib.file_digest(stream, "sha256").hexdigest()
    if status.st_size > SMALL:
        memory[key] = [*stamp, value]
    return value


def _memory_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "refinery" / "weights.json"


def _remembered() -> dict[str, Any]:
    try:
        found = json.loads(_memory_path().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(memory: dict[str, Any]) -> None:
    """Best effort: without a cache folder the files are hashed again."""
    path = _memory_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(json.dumps(memory), "utf-8")
        fresh.replace(path)
    except OSError:
        pass


def settings_in(path: Path) -> dict[str, Any]:
    """What a JSON file of a folder of weights holds; nothing where it cannot be read or is no mapping."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
