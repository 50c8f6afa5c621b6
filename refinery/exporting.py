"""A step's rows as files that other tools read: JSONL, Parquet, or a Hugging Face dataset folder with its card.

Every row has the whole conversation (`messages`), the same cut in two (`prompt`, `completion`), and where it comes from
in columns that begin with "refinery_". Scores and the row's own columns are JSON text, because readers of such files
want every column to be of one type.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Literal

from refinery import sql
from refinery.errors import UserError
from refinery.exportcard import MARK, About, card, dataset_info, says_licences
from refinery.looking import funnel
from refinery.records import Outcome
from refinery.rows import as_json
from refinery.spec import SOURCE
from refinery.store import Row, Store

Format = Literal["jsonl", "parquet", "hf"]
SPLITS = ("train", "validation", "test")
TURNS = "STRUCT(role VARCHAR, content VARCHAR)[]"
COLUMNS = {
    "messages": TURNS,
    "prompt": TURNS,
    "completion": TURNS,
    "refinery_id": "VARCHAR",
    "refinery_step": "VARCHAR",
    "refinery_fingerprint": "VARCHAR",
    "refinery_split": "VARCHAR",
    "refinery_action": "VARCHAR",
    "refinery_reason": "VARCHAR",
    "refinery_fell_back": "BOOLEAN",
    "refinery_answer": "VARCHAR",
    "refinery_candidates": "VARCHAR[]",
    "refinery_parents": "VARCHAR[]",
    "refinery_scores": "VARCHAR",
    "refinery_columns": "VARCHAR",
}
"""Column to DuckDB type. `refinery_answer` is the reference, `refinery_scores` and `refinery_columns` are JSON text."""


def about(store: Store, fingerprint: str, called: Mapping[str, str] = MappingProxyType({})) -> About:
    """What the store knows of a step and of all before it. `called`: fingerprint to the name that the spec has for it
    now, where that is known: rows may have been made under another."""
    steps: dict[str, Row] = {}
    waiting = [fingerprint]
    while waiting:
        current = waiting.pop()
        if current not in steps and (row := store.step(current)) is not None:
            steps[current] = {**row, "name": called.get(current, row["name"])}
            waiting += row["upstream"]
    rows = sorted(steps.values(), key=lambda row: row["started_at"])
    sources = {row["name"]: row["params"] for row in rows if row["op"] == SOURCE}
    own = steps[fingerprint]
    run = next((run for run in store.runs() if run["id"] == own["run_id"]), None)
    title = f"{run['name']}-{own['name']}" if run else own["name"]
    return About(title, own["name"], fingerprint, funnel(store, rows), sources, run["spec"] if run else "")


def record(outcome: Outcome, info: About) -> dict[str, Any]:
    """One row, its keys those of COLUMNS."""
    example = outcome.example
    assert example is not None
    prompt = [{"role": turn["role"], "content": turn["content"]} for turn in example.prompt]
    completion = [{"role": "assistant", "content": example.response}]
    return {
        "messages": [*prompt, *completion],
        "prompt": prompt,
        "completion": completion,
        "refinery_id": example.id,
        "refinery_step": info.step,
        "refinery_fingerprint": info.fingerprint,
        "refinery_split": example.split,
        "refinery_action": outcome.action,
        "refinery_reason": outcome.reason,
        "refinery_fell_back": example.fell_back,
        "refinery_answer": example.answer,
        "refinery_candidates": list(example.candidates),
        "refinery_parents": list(example.parents),
        "refinery_scores": as_json(outcome.scores),
        "refinery_columns": as_json(example.meta),
    }


def export(
    outcomes: Iterable[Outcome], to: Path, kind: Format, info: About, splits: Iterable[str] = SPLITS
) -> dict[str, int]:
    """Write the rows of these splits, and return how many of each there were. Dropped rows are passed over.

    `to` is the file (jsonl, parquet: rows of all the splits in their order) or the folder (hf: a file for each split).
    What stood there is replaced once everything is written. UserError where it cannot be, where `to` is a file that
    the rows were read from or a folder of something else, and where there is no row.
    """
    check_target(to, kind, info)
    wanted = list(splits)
    rows = (o for o in outcomes if o.example is not None and o.example.split in wanted)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=to.parent, prefix=".export-") as folder:
            counts = _write_jsonl(rows, Path(folder), info, apart=kind == "hf")
            if not counts:
                raise UserError(f"export: step {info.step} has no row of the split {' or '.join(wanted)}")
            if kind == "jsonl":
                (Path(folder) / "all.jsonl").replace(to)
            elif kind == "parquet":
                sql.write_parquet(Path(folder) / "all.jsonl", Path(folder) / "all.parquet", COLUMNS)
                (Path(folder) / "all.parquet").replace(to)
            else:
                _write_folder(Path(folder), to, counts, info)
    except OSError as error:
        raise UserError(f"export: cannot write {to} ({error.strerror or error})") from None
    return counts


def holds(file: Path, kind: Literal["jsonl", "parquet"]) -> str:
    """Fingerprint of the step whose rows an exported file holds; empty where it is not such a file."""
    try:
        if kind == "parquet":
            first: Any = next(sql.read_parquet(file, limit=1), {})
        else:
            with file.open(encoding="utf-8") as lines:
                first = json.loads(lines.readline())
    except (OSError, ValueError, UserError):
        return ""
    return str(first.get("refinery_fingerprint", "")) if isinstance(first, dict) else ""


def check_target(to: Path, kind: Format, info: About) -> None:
    """UserError where the rows must not be written there."""
    read = [part.get("path") for part in info.sources.values()]
    read += [file for part in info.sources.values() for file in ((part.get("sql") or {}).get("tables") or {}).values()]
    for file in filter(None, read):
        if to.resolve() == Path(file).resolve():
            raise UserError(f"export: {to} is what the rows were read from; write them elsewhere")
    if kind != "hf" and to.is_dir():
        raise UserError(f"export: {to} is a folder; name a file, or take format hf")
    if kind == "hf" and to.exists():
        own = to.is_dir() and (not any(to.iterdir()) or MARK in _text(to / "README.md"))
        if not own:
            raise UserError(f"export: {to} holds something else than an export; name a new folder")


def licensed(folder: Path, license: str | None, source_licenses: Mapping[str, str]) -> bool:
    """Whether the card of an exported folder says these licences, of the set and of each of its sources."""
    return says_licences(_text(folder / "README.md"), license, source_licenses)


def _text(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.is_file() else ""


def _write_jsonl(rows: Iterator[Outcome], folder: Path, info: About, *, apart: bool) -> dict[str, int]:
    """all.jsonl, or {split}.jsonl each; rows of each split."""
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        files: dict[str, Any] = {}
        for outcome in rows:
            assert outcome.example is not None
            split = outcome.example.split
            name = split if apart else "all"
            if name not in files:
                files[name] = stack.enter_context((folder / f"{name}.jsonl").open("w", encoding="utf-8"))
            files[name].write(json.dumps(record(outcome, info), ensure_ascii=False) + "\n")
            counts[split] = counts.get(split, 0) + 1
    return {split: counts[split] for split in SPLITS if split in counts}


def _write_folder(rows: Path, to: Path, counts: Mapping[str, int], info: About) -> None:
    """data/{split}.parquet, the card, and dataset_info.json for LLaMA-Factory."""
    (to / "data").mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        target = to / "data" / f"{split}.parquet"
        if split in counts:
            sql.write_parquet(rows / f"{split}.jsonl", rows / f"{split}.parquet", COLUMNS)
            (rows / f"{split}.parquet").replace(target)
        else:
            target.unlink(missing_ok=True)
    info_json = dataset_info(info.name, counts)
    (to / "dataset_info.json").write_text(json.dumps(info_json, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (to / "README.md").write_text(card(info, counts, COLUMNS, to), "utf-8")


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Upload an exported folder as a dataset of the hub; its address. UserError where the hub refuses it."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise UserError('export: pushing needs the Hugging Face client: pip install "refinery[hub]"') from None
    api = HfApi()
    try:
        address = api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repo, repo_type="dataset", commit_message="Export of Refinery")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"export: the hub refused {repo} ({first[:200]})") from None
    return str(address)
