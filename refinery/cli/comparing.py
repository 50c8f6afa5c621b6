"""The verbs that compare: runs and methods with one another, and models evaluated elsewhere brought in for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refinery.cli.reading import Json, Overrides

if TYPE_CHECKING:
    from refinery.spec import Spec

comparing = typer.Typer(rich_markup_mode=None)

FailIf = Annotated[
    list[str],
    typer.Option(
        "--fail-if",
        help='Exit code 1 where this is proven: "general_mean < -2pp". WHAT is general_mean, domain_mean or a '
        "benchmark, METHOD:WHAT one method's; proven: the whole 95% interval lies there. Repeatable.",
    ),
]
FailUnless = Annotated[
    list[str],
    typer.Option(
        "--fail-unless",
        help='Exit code 1 unless this is proven: "general_mean > -2pp" demands proof that no more is lost. Repeatable.',
    ),
]


@comparing.command()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            help="RUN (its base and every method), RUN METHOD ..., RUN_A RUN_B, or RUN:METHOD each. A RUN is a spec, a "
            ".duckdb store, a folder with one, or a name in runs/.",
            show_default=False,
        ),
    ],
    accept: Annotated[
        list[str], typer.Option("--accept", help="A setting that may differ: --accept batch_size. Repeatable.")
    ] = [],  # noqa: B006
    fail_if: FailIf = [],  # noqa: B006
    fail_unless: FailUnless = [],  # noqa: B006
    set_: Annotated[list[str], typer.Option("--set", help="Override one key of every spec. Repeatable.")] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Compare item by item: paired differences, intervals, lost and gained items; refused where settings differ."""
    _needs_eval()
    from refinery.cli.arms import asked
    from refinery.cli.compare import compare as compare_them
    from refinery.cli.compare import gates_of

    if not compare_them(asked(what, set_), accept, gates_of(fail_if, fail_unless), json):
        raise typer.Exit(1)


@comparing.command(name="import")
def import_(
    path: Annotated[Path, typer.Argument(help="A folder or file of lm-eval or inspect_ai.", show_default=False)],
    into: Annotated[Path, typer.Argument(help="The spec, run folder or .duckdb store.", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="What to call the model.")] = "",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Its training seed: imports of one name are then runs of one method.")
    ] = None,
    set_: Overrides = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Bring evaluations made elsewhere into a store: lm-eval result folders, inspect_ai logs."""
    _needs_eval()
    from refinery.cli.import_ import import_results

    import_results(path, (into, set_), name, seed, json)


def _needs_eval() -> None:
    """UserError where the statistics' library is missing."""
    from importlib.util import find_spec

    from refinery.errors import UserError

    if find_spec("scipy") is None:
        raise UserError('comparing needs scipy: pip install "refinery[eval]"')


def gates_before_run(spec: Spec, fail_if: Sequence[str], fail_unless: Sequence[str]) -> Callable[[], bool]:
    """What to call after the run: True where no gate fails. A gate that cannot be read, or asks about nothing that the
    spec evaluates, is a UserError now and not after hours. Nothing is imported where there are no gates."""
    if not [*fail_if, *fail_unless]:
        return lambda: True
    _needs_eval()
    from refinery.cli.compare import gate_names, gate_run, gates_of
    from refinery.cli.printing import console

    gates = gates_of(fail_if, fail_unless, gate_names(spec))
    return lambda: gate_run(spec, gates, console())
