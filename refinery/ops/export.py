"""Write the rows to files for other tools (refinery/exporting.py) and pass every one of them on.

The step is done again where what it wrote is gone, or was written over with other rows or licences. `refinery export`
does the same for any step, after a run.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from refinery.context import Context
from refinery.exporting import About, about, export, holds, licensed, push
from refinery.records import Outcome
from refinery.tableops import Table, TableParams, kept

VERSION = 1
VARIABLES: tuple[str, ...] = ()
READS = (1, 1)


class Params(TableParams):
    to: str = Field(min_length=1)
    """The file, or for hf the folder, seen from the current folder. What stands there is written over."""
    format: Literal["jsonl", "parquet", "hf"] = "jsonl"
    """hf is a Hugging Face dataset folder: Parquet, a card, and what LLaMA-Factory, axolotl and ms-swift need."""
    license: str | None = None
    """Of the exported set, for the card; "unknown" where it is left out."""
    source_licenses: dict[str, str] = Field(default_factory=dict)
    """Of each source by name, for the card."""
    push_to_hub: str | None = None
    """With hf: a dataset repository (org/name) that the folder is uploaded to. Nothing is uploaded without it."""
    private: bool = True
    """Whether a repository that is made for it is private."""

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.push_to_hub and self.format != "hf":
            raise ValueError("push_to_hub goes with format: hf")
        return self


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """Every row is kept; scores: `written`, the format. UserError where the files cannot be written."""
    (table,) = tables
    await asyncio.to_thread(_export, table, params)
    return (kept(example, scores={"written": params.format}) for example in table)


def _export(table: Table, params: Params) -> None:
    to, store = Path(params.to), getattr(table, "store", None)
    info = About(to.stem, table.name)
    if store is not None:
        info = about(store, table.fingerprint, _called(store, table, params))  # type: ignore[attr-defined]
    info = replace(info, license=params.license, source_licenses=params.source_licenses)
    export(_rows(table), to, params.format, info)
    if params.push_to_hub:
        push(to, params.push_to_hub, private=params.private)


def _called(store: Any, table: Table, params: Params) -> dict[str, str]:
    """The step's own name, and of sources that a spec has renamed the name to which it gives a licence."""
    known = {row["fingerprint"]: row["name"] for row in store.last_steps() if row["name"] in params.source_licenses}
    return {**known, table.fingerprint: table.name}  # type: ignore[attr-defined]


def _rows(table: Table) -> Iterator[Outcome]:
    """As the step before made them, with its scores, where a store has them."""
    store = getattr(table, "store", None)
    if store is None:
        yield from (kept(example) for example in table)
    else:
        yield from (outcome for _, outcome in store.stream(table.fingerprint, split="train"))  # type: ignore[attr-defined]


def missing(params: Params, reads: Sequence[str]) -> list[str]:
    """Why a finished step that reads the step of this fingerprint must be done again."""
    to = Path(params.to)
    files = [to / "README.md", to / "data" / "train.parquet"] if params.format == "hf" else [to]
    if gone := [f"{file} is gone" for file in files if not file.is_file()]:
        return gone
    kind: Literal["jsonl", "parquet"] = "jsonl" if params.format == "jsonl" else "parquet"
    if holds(files[-1], kind) != reads[0]:
        return [f"{files[-1]} holds other rows"]
    if params.format == "hf" and not licensed(to, params.license, params.source_licenses):
        return [f"{files[0]} says other licences"]
    return []


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    return [f"uploads to the hub as {params.push_to_hub}"] if params.push_to_hub else []
