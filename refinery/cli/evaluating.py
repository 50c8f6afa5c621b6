"""`refinery eval`: what weights trained elsewhere gained and forgot, without a spec to write.

The spec that says the same is written beside the results, so that what was measured can be read, changed and repeated.
"""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from refinery.cli.comparing import FailIf, FailUnless, gates_before_run
from refinery.errors import UserError
from refinery.served import SERVED


def evaluate(
    weights: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]WEIGHTS...",
            help="Folders or hub ids of full weights or LoRA adapters. Several of one NAME are its seeds. "
            "The first named is the baseline: damage recovered is the share of its losses that another did not lose.",
            show_default=False,
        ),
    ],
    base: Annotated[str, typer.Option("--base", help="The model they were trained from.", show_default=False)],
    domain: Annotated[
        list[str], typer.Option("--domain", help="A benchmark that the training was for. Repeatable, or a,b.")
    ] = [],  # noqa: B006
    general: Annotated[
        list[str], typer.Option("--general", help="A benchmark that it should not have cost. Repeatable, or a,b.")
    ] = [],  # noqa: B006
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of local benchmark files, in place of the hub's.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only the first items of each benchmark.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", help="Prompts at a time.")] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="transformers, in this process; vllm serves one after the other.")
    ] = "transformers",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for spec, store and report; runs/NAMES where it is left out.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite another evaluation's spec and report.")] = False,
    set_: Annotated[list[str], typer.Option("--set", help="Override one key of the spec. Repeatable.")] = [],  # noqa: B006
    fail_if: FailIf = [],  # noqa: B006
    fail_unless: FailUnless = [],  # noqa: B006
) -> None:
    """Evaluate weights trained elsewhere beside their base, and report what they gained and forgot."""
    from refinery.cli import eval_spec
    from refinery.cli.run import going_on, run_stages
    from refinery.models.weights import no_weights

    checkpoints = named(weights)
    folder = out or Path("runs", "-".join(checkpoints)[:60])
    evaluation: dict[str, Any] = {"domain": _listed(domain), "general": _listed(general)}
    if not any(evaluation.values()):
        raise UserError(f"name what to measure with --domain and --general:\n{eval_spec.measurable()}")
    evaluation |= {"data": str(data)} if data else {}
    evaluation |= {"limit": limit} if limit else {}
    evaluation |= {"batch_size": batch_size} if batch_size else {}
    evaluation |= {"backend": backend} if backend != "transformers" else {}
    for each in itertools.chain(*checkpoints.values()):
        if not each.startswith(SERVED) and (message := no_weights(each)):
            raise UserError(message)
    spec = {"name": _name(folder.name), "model": base, "checkpoints": checkpoints}
    spec |= {"evaluate": {key: value for key, value in evaluation.items() if value}}
    spec |= {"store": str(folder / "refinery.duckdb")}
    path = folder / "eval.yaml"
    loaded = eval_spec.checked(spec, set_)
    gates = gates_before_run(loaded, fail_if, fail_unless)
    eval_spec.write(spec, path, force)
    try:
        run_stages(loaded, path, ("evaluate", "report"), set_)
    except KeyboardInterrupt:
        typer.echo(f"\n{going_on(path)}", err=True)
        raise typer.Exit(130) from None
    typer.echo(eval_spec.next_words(path, loaded))
    if not gates():
        raise typer.Exit(1)


def named(weights: Sequence[str]) -> dict[str, list[str]]:
    """`NAME=PATH`, or a path that goes by its last part; equal names are seeds of one method, in their order."""
    found: dict[str, list[str]] = {}
    for each in weights:
        name, equals, path = each.partition("=")
        if not equals or "/" in name:
            name, path = "", each
        if name and _name(name) != name:
            raise UserError(f'"{name}" cannot be a name here: letters, digits, _ and - make one')
        called = name or _name(Path(path).name)
        if not name and called in found:
            raise UserError(f"{path} and {found[called][-1]} would both be called {called}: write NAME={path}")
        found.setdefault(called, []).append(path)
    return found


def _name(text: str) -> str:
    found = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip("_.-")
    return found[:80] or "weights"


def _listed(values: Sequence[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]
