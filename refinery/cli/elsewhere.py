"""The base, and weights that were trained elsewhere, as checkpoints of the store: checked before anything is scored."""

from collections.abc import Callable
from pathlib import Path

from refinery import served
from refinery.errors import UserError
from refinery.models import identity
from refinery.models.weights import folder, resolve
from refinery.models.whole import broken, named_base, other_base
from refinery.records import digest
from refinery.served import SERVED
from refinery.spec import ModelSpec, Spec
from refinery.store import ELSEWHERE, Row, Store


def record_base(spec: Spec, store: Store, run_id: str) -> str:
    """The base model as a checkpoint row, so that it is scored and cited like any other; its fingerprint."""
    entry = served.through(spec)
    if entry is not None and entry.backend == "openai":
        base, path, params = identity(entry), "", {"model": entry.model, "served": spec.evaluate.backend}  # type: ignore[union-attr]
    else:
        place = folder(spec.model, spec.revision, fetch=True)
        if place is not None and (wrong := broken(place)):
            raise UserError(f"model {spec.model}: {wrong}")
        base = identity(ModelSpec(model=spec.model, revision=spec.revision), fetch=True)
        path, params = str(place if spec.revision and place else resolve(spec.model)), {"model": spec.model}
    store.start_checkpoint(base, run_id, "base", "none", params, spec.seed, "", base, path, "base")
    store.finish_checkpoint(base, {"revision": spec.revision, **params})
    return base


def record_elsewhere(
    spec: Spec, store: Store, run_id: str, base: str, say: Callable[[str], None]
) -> tuple[list[str], list[str]]:
    """Weights trained elsewhere, and models that are served, as final checkpoints, a seed for each of a name: their
    fingerprints, and a line for each whose folder cannot be loaded, which has no row. `say` is told what else a person
    should know of them."""
    found, failed = [], []
    for name, paths in spec.checkpoints.items():
        for seed, path in enumerate(paths):
            try:
                weights, where, params = _known(spec, path)
            except UserError as error:
                failed.append(f"{name}={path}: {error}")
                continue
            if named := params.get("trained_on"):
                say(f"warning: {named_base(name, named, spec.model)}")
            called = digest([name, seed, weights])  # equal weights under two names are two rows of a table
            store.start_checkpoint(called, run_id, name, ELSEWHERE, params, seed, "", base, where, "final")
            store.finish_checkpoint(called, params)
            found.append(called)
    store.keep_elsewhere(found)
    return found, failed


def _known(spec: Spec, path: str) -> tuple[str, str, Row]:
    """(identity, path, params) of what is named under `checkpoints`. UserError where it could not be loaded."""
    if path.startswith(SERVED):
        entry = spec.models[path.removeprefix(SERVED)]
        weights = identity(entry, fetch=True)
        return weights, "", {"model": entry.model, "weights": weights, "served": path.removeprefix(SERVED)}
    place, below = folder(path, fetch=True), _base_folder(spec)
    if place is not None and (wrong := broken(place, below, spec.model)):
        raise UserError(wrong)
    weights = identity(ModelSpec(model=path), fetch=True)
    named = other_base(place, spec.model, spec.revision) if place is not None else ""
    return weights, resolve(path), {"model": path, "weights": weights} | ({"trained_on": named} if named else {})


def _base_folder(spec: Spec) -> Path | None:
    try:
        return folder(spec.model, spec.revision)
    except UserError:
        return None
