"""`refinery train --plan`: every training of a spec, what it would take, and which stand already. Loads no weights."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

from refinery.catalog import METHODS, module
from refinery.cli.cells import Cell, Cells
from refinery.cli.printing import add, console, number, print_json, table, tokens
from refinery.errors import UserError
from refinery.spec import Spec
from refinery.store import Store
from trainers import gate
from trainers.course import course
from trainers.job import TrainJob, directory, fingerprint, parent


@dataclass(frozen=True)
class Planned:
    """One job of the plan."""

    cell: str
    name: str
    method: str
    role: str
    state: str
    """stands, new, unfinished (it goes on from its last checkpoint), or failed."""
    why: str
    """Of a failed one, or of one whose rows cannot be trained on."""
    rows: int | None
    steps: int | None
    tokens: int | None
    """Prompts and answers of all steps; what is generated on the way is not counted."""
    memory: int | None
    """Bytes; see trainers/footprint.py."""
    fingerprint: str


@dataclass(frozen=True)
class Gated:
    """What is measured of a method's teacher before it is trained (trainers/gate.py)."""

    training: str
    fingerprint: str
    measured: bool
    says: str


def show_train_plan(spec: Spec, as_json: bool = False) -> None:
    if spec.train is None:
        raise UserError("there is no train: in the spec, nothing to train")
    if not spec.store_path.exists():
        raise UserError(f"{spec.store}: there is no store yet; `refinery run --stage refine` makes the rows")
    store = Store(spec.store_path, read_only=True)
    jobs, gates = everything(spec, store)
    unknown = f"the final ones of {len(spec.train.methods)} methods follow the grid" if spec.train.tune else ""
    if as_json:
        return print_json({"jobs": list(map(asdict, jobs)), "gates": list(map(asdict, gates)), "note": unknown})
    found = table(
        "training", "method", "state", "rows", "steps", "tokens", "memory", right=("rows", "steps", "tokens", "memory")
    )
    for job in jobs:
        label = job.cell if job.role != "stage" else f"{job.cell}, {job.name.rpartition('@')[2]}"
        memory = _size(job.memory) if job.memory else ""
        size = tokens(job.tokens) if job.tokens is not None else ""
        add(found, label, job.method, job.state, number(job.rows), number(job.steps), size, memory)
    out = console()
    out.print(found)
    for job in jobs:
        if job.why:
            out.print(f"{job.cell}: {job.why}", highlight=False, markup=False, soft_wrap=True)
    for one in gates:
        out.print(f"gate {one.training}: {one.says}", highlight=False, markup=False, soft_wrap=True)
    if unknown:
        out.print(unknown, style="dim")


def everything(spec: Spec, store: Store) -> tuple[list[Planned], list[Gated]]:
    """All jobs of all points of the matrix, each training measured once; and their gates."""
    jobs: list[Planned] = []
    known: dict[str, Planned] = {}
    gates: dict[tuple[str, str], Gated] = {}
    for point in spec.points:
        try:
            cells = all_cells(Cells(point.spec, store))
        except UserError as error:
            if not point.keys:
                raise
            jobs.append(Planned(point.label, "", "", "", "failed", str(error), None, None, None, None, ""))
            continue
        for cell, job in ((each, job) for each in cells for job in each.jobs):
            label = " ".join(filter(None, [point.label, cell.label]))
            if (name := fingerprint(job)) not in known:
                known[name] = planned(cell, job, store)
            jobs.append(replace(known[name], cell=label, name=job.name, role=job.role))
            for one in _gated(point.spec, label, job, store):
                gates.setdefault((job.name, one.fingerprint), one)
    return jobs, list(gates.values())


def _gated(spec: Spec, label: str, job: TrainJob, store: Store) -> Iterator[Gated]:
    assert spec.train is not None
    settings = spec.train.gate
    if settings is None or not gate.applies(job):
        return
    question = gate.Question(job, settings, spec.train.select)
    if rows := gate.known(question, store):
        says = "; ".join(filter(None, [gate.sentence(rows), gate.warning(rows, settings)]))
    elif (directory(job) / "manifest.json").exists():
        return
    else:
        says = f"is measured first: {min(settings.rows, len(job.examples))} rows, three answers to each"
    yield Gated(label, question.fingerprint(), bool(rows), says)


def _size(size: int) -> str:
    """12 GiB, 1.4 GiB, 340 MiB."""
    for scale, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if size >= scale:
            return f"{size / scale:.0f} {unit}" if size >= 10 * scale else f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.0f} KiB"


def all_cells(cells: Cells) -> list[Cell]:
    """The grid's, where there is one, else the final ones; of a grid the final ones are not known before it is run."""
    if cells.plan.tune:
        return [cell for name in cells.plan.methods for cell in cells.tuning(name)]
    return [cells.final(name, seed, {}) for name in cells.plan.methods for seed in cells.plan.seeds]


def planned(cell: Cell, job: TrainJob, store: Store) -> Planned:
    known, stands = store.checkpoint(fingerprint(job)), (directory(job) / "manifest.json").exists()
    state = (
        "stands"
        if stands
        else {"failed": "failed", "running": "unfinished"}.get(known["status"], "new")
        if known
        else "new"
    )
    why = str((known["manifest"] or {}).get("error", "")) if known and state == "failed" else ""
    size: dict[str, Any] = dict.fromkeys(("rows", "steps", "tokens", "memory"))
    try:
        size = measured(job)
    except UserError as error:
        why = why or str(error)
    return Planned(cell.label, job.name, job.method, job.role, state, why, **size, fingerprint=fingerprint(job))


def measured(job: TrainJob) -> dict[str, Any]:
    """Rows, steps, tokens and memory of a job. Of weights made of others', those of the training that they are of."""
    from trainers.footprint import footprint

    method = module(METHODS, job.method)
    if hasattr(method, "change"):
        return measured(parent(job, method.AFTER))
    tokenizer, model, on_gpu = _loaded(job.origin or job.model, job.revision, job.trust_remote_code)
    found = course(job, tokenizer)
    memory = footprint(job, found, model, on_gpu).total
    return {"rows": len(found.prepared.rows), "steps": found.steps, "tokens": sum(found.tokens()), "memory": memory}


@lru_cache(maxsize=1)
def _loaded(model: str, revision: str | None, trust_remote_code: bool) -> tuple[Any, Any, bool]:
    import torch
    from transformers import AutoTokenizer

    from refinery.models.transformers import resolve
    from trainers.footprint import skeleton

    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve(model), **options)
        return tokenizer, skeleton(model, revision, trust_remote_code), torch.cuda.is_available()
    except (OSError, ValueError) as error:
        raise UserError(f"model {model}: {str(error).strip().splitlines()[0]}") from error
