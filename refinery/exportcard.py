"""The card of an exported data set, and what trainers of others need to read it.

LLaMA-Factory: data/README.md, "OpenAI Format". axolotl: docs/dataset-formats/conversation.qmd, "chat_template".
ms-swift: docs, "Custom Dataset", messages format.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from refinery.looking import Funnel
from refinery.problems import ENV_KEY
from refinery.store import Row

MARK = "<!-- an export of Refinery -->"
"""By which a folder is known as one that may be written over."""
WORDS = {
    "messages": "the conversation with the response as its last turn",
    "prompt": "its turns without the response",
    "completion": "the response alone, as a list of one turn",
    "refinery_id": "the row's id, the same at every step",
    "refinery_step": "the step that the rows are from",
    "refinery_fingerprint": "digest of everything that shaped that step",
    "refinery_split": "train, validation or test",
    "refinery_action": "what the step did to the row",
    "refinery_reason": "and why",
    "refinery_fell_back": "whether the response is the reference, because a step had given up",
    "refinery_answer": "the reference answer",
    "refinery_candidates": "other texts for the response",
    "refinery_parents": "ids of the rows that this one was made from",
    "refinery_scores": "JSON: the numbers that decided",
    "refinery_columns": "JSON: the row's own columns",
}


@dataclass(frozen=True, slots=True)
class About:
    """What is said about the rows."""

    name: str
    """Of the data set."""
    step: str
    fingerprint: str = ""
    steps: list[Funnel] = field(default_factory=list)
    """The step and everything before it, in running order."""
    sources: dict[str, Row] = field(default_factory=dict)
    """Source name to its part of the spec."""
    spec: str = ""
    """The spec as the run that made the step had it."""
    license: str | None = None
    source_licenses: Mapping[str, str] = field(default_factory=dict)


def slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "refinery"


def dataset_info(name: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """LLaMA-Factory's dataset_info.json: one entry a split, its name the key to give as `dataset`."""
    tags = {"role_tag": "role", "content_tag": "content"}
    tags |= {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    return {
        slug(name) if split == "train" else f"{slug(name)}_{split}": {
            "file_name": f"data/{split}.parquet",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": tags,
        }
        for split in counts
    }


def axolotl(folder: Path) -> str:
    entry = {"path": str(folder / "data" / "train.parquet"), "ds_type": "parquet", "type": "chat_template"}
    entry |= {"field_messages": "messages"}
    mapping = {"message_property_mappings": {"role": "role", "content": "content"}}
    return yaml.safe_dump({"datasets": [{**entry, **mapping}]}, sort_keys=False, allow_unicode=True)


def card(info: About, counts: Mapping[str, int], columns: Mapping[str, str], folder: Path) -> str:
    """README.md: front matter for the hub, then what a person asks of a data set."""
    front: dict[str, Any] = {"license": info.license} if info.license else {}
    # No `configs`: where a card names its files, datasets caches them under that text, which is the same for every
    # export, and hands out the rows of an earlier one. It finds the splits by the names of the files.
    front |= {"tags": ["refinery"]}
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n{MARK}",
        f"# {_line(info.name)}",
        f"Rows of the step `{info.step}`: {', '.join(f'{n:,} {split}' for split, n in counts.items())}.",
        f"## Licence and sources\n\nLicence: {_licence(info.license)}.\n\n{_sources(info)}",
        f"## How the rows came about\n\n{_funnel(info)}",
        "## Columns\n\n" + "\n".join(f"- `{name}`: {WORDS[name]}" for name in columns),
        _use(info, counts, folder),
    ]
    if info.spec:
        parts.append(f"## Spec\n\nThe run that made these rows was asked for:\n\n{fenced(redacted(info.spec), 'yaml')}")
    return "\n\n".join(parts) + "\n"


def says_licences(text: str, license: str | None, source_licenses: Mapping[str, str]) -> bool:
    """Whether a card says these licences, of the set and of each source that it lists."""
    found = re.findall(_SOURCE_LINE, text.partition("\n## How the rows came about")[0], re.MULTILINE)
    sources = all(licence == _licence(source_licenses.get(name)) for name, licence in found)
    return sources and f"\nLicence: {_licence(license)}.\n" in text


def _licence(given: str | None) -> str:
    return _line(given or "unknown")


_SOURCE_LINE = r"^- `([^`]+)`: .*; licence: (.*)$"


def _line(text: str) -> str:
    return " ".join(text.split())


def _sources(info: About) -> str:
    lines = []
    for name, part in info.sources.items():
        where = next((f"{kind} {_where(part[kind])}" for kind in ("path", "hub", "sql", "lab") if part.get(kind)), "?")
        lines.append(f"- `{name}`: {where}; licence: {_licence(info.source_licenses.get(name))}")
    return "\n".join(lines) or "Sources: unknown."


def _where(value: Any) -> str:
    return f"`{_line(redacted(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))}`"


def _funnel(info: About) -> str:
    actions = ("kept", "changed", "created", "fell_back", "dropped")
    lines = [f"| step | op | rows | {' | '.join(actions)} | reasons |", "|---|---|" + "---:|" * 6 + "---|"]
    for step in info.steps:
        reasons = ", ".join(f"{part['reason']} {part['rows']}" for part in step.reasons if part["reason"] != "ok")
        counts = " | ".join(f"{step.actions[action]:,}" for action in actions)
        lines.append(f"| {step.name} | {step.op} | {step.rows:,} | {counts} | {reasons} |")
    return "\n".join(lines) if info.steps else "Unknown."


def _use(info: About, counts: Mapping[str, int], folder: Path) -> str:
    name = slug(info.name) if "train" in counts else f"{slug(info.name)}_{next(iter(counts))}"
    return "\n\n".join(
        [
            "## Use\n\nOnly the last turn of a conversation is what the rows teach; where there are earlier turns of "
            "the assistant, tell the trainer so, as below.",
            'Hugging Face datasets: `load_dataset("PATH")`. TRL reads `prompt` and `completion` as they stand.',
            "LLaMA-Factory (`dataset_info.json` stands in this folder):\n\n"
            + fenced(f"dataset_dir: PATH\ndataset: {name}\nmask_history: true\n", "yaml"),
            "axolotl (`roles_to_train` and `train_on_eos` left empty train the last turn alone):\n\n"
            + fenced(axolotl(Path("PATH")) + "  roles_to_train:\n  train_on_eos:\n", "yaml"),
            "ms-swift:\n\n" + fenced("swift sft --dataset PATH --loss_scale last_round ...\n", "sh"),
            "PATH is this folder.",
        ]
    )


def fenced(text: str, language: str) -> str:
    """A code block that no line of the text can end."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


_SECRET = re.compile(
    rf"""(["']?\b(?:[\w-]*api[_-]?key|authorization|password|passwd|secret|[\w-]*access[_-]?token|hf[_-]?token)["']?
        \s*[:=]\s*)(?!(?P<q>["']?){ENV_KEY}(?P=q)\s*(?:[,}}\]\#\n]|$)|null\b|None\b|["']{{2}})
        (?:"[^"\n]*"|'[^'\n]*'|\$\{{[^}}\n]*\}}?[^,}}\]\n]*|[^\s,}}\]][^,}}\]\n]*)""",
    re.IGNORECASE | re.VERBOSE,
)
_TOKEN = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_)[A-Za-z0-9_-]{16,}")
_LOGIN = re.compile(r"(\w+://)[^\s/@]+@")


def redacted(text: str) -> str:
    """Without what looks like a secret. Specs refuse keys that are written out, so this is a second net."""
    text = _SECRET.sub(lambda found: f"{found[1]}(redacted)", text)
    return _LOGIN.sub(r"\1(redacted)@", _TOKEN.sub("(redacted)", text))
