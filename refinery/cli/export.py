"""`refinery export`: its arguments. Nothing heavy is imported here (refinery/cli/export_step.py does the work)."""

from pathlib import Path
from typing import Annotated

import typer

from refinery.cli.reading import Overrides


def export(
    spec: Annotated[Path, typer.Argument(help="The YAML spec, or a .duckdb store.", show_default=False)],
    step: Annotated[str, typer.Argument(help="The step whose rows are written.", show_default=False)],
    to: Annotated[Path, typer.Option("--to", help="The file to write, or for hf the folder.", show_default=False)],
    format_: Annotated[
        str, typer.Option("--format", help="jsonl, parquet, or hf: a Hugging Face dataset folder.")
    ] = "",
    split: Annotated[
        str, typer.Option("--split", help="train, validation, test or all; by itself train for a file, all for hf.")
    ] = "",
    license_: Annotated[str, typer.Option("--license", help="Of the exported set, for its card.")] = "",
    push: Annotated[str, typer.Option("--push", help="Upload the hf folder to this dataset repository too.")] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push: make the repository public.")] = False,
    set_: Overrides = [],  # noqa: B006
) -> None:
    """Write a step's rows as JSONL, Parquet or a Hugging Face dataset with its card."""
    from refinery.cli.export_step import Wanted, export_step

    export_step((spec, set_), step, to, Wanted(format_, split, license_, push, public))
