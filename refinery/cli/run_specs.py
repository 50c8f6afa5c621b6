"""The spec of a run that is named by its folder or its store: the one that `eval` wrote there, or that it ran with."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from refinery.cli.run import overrides_in
from refinery.errors import UserError
from refinery.problems import SpecErrors
from refinery.rows import Row
from refinery.runs import RUNS, store_in
from refinery.spec import Spec, load_spec
from refinery.store import Store

WRITTEN = "eval.yaml"
"""What `refinery eval` calls its spec."""


def spec_of(path: Path, overrides: Sequence[str] = ()) -> Spec:
    """Of a spec's file, a run's folder, a name in runs/ or a .duckdb store; of the last three with that very store,
    from whichever folder it is asked. UserError where there is no run."""
    if not path.exists() and (RUNS / path).is_dir():
        path = RUNS / path
    if not path.is_dir() and path.suffix != ".duckdb":
        return load_spec(path, overrides)
    place = store_in(path) if path.is_dir() else path
    here = [*overrides, f"store={json.dumps(str(place))}"]
    if (written := place.parent / WRITTEN).exists():
        return load_spec(written, here, files=False)
    runs = Store(place, read_only=True).runs()
    if not runs:
        raise UserError(f"{place}: no run stands in this store; name the spec")
    return stored_spec(runs[0], here)


def stored_spec(run: Row, overrides: Sequence[str] = ()) -> Spec:
    """The spec of a row of the table `runs`, with what it was run with and these `overrides`."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / f"{run['name']}.yaml"
        copy.write_text(run["spec"], "utf-8")
        try:
            return load_spec(copy, [*overrides_in(run["spec"]), *overrides], files=False)
        except SpecErrors as error:
            raise UserError(f"the spec of the last run cannot be read any more: {error.problems[0].message}") from error
