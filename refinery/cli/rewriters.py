"""Train what a spec's steps will ask to write: before the graph is run, and only where a step still waits for it."""

from refinery.cli.progress import Progress
from refinery.graph import run_graph, step_fingerprints
from refinery.models import identity
from refinery.rewriters import remember
from refinery.spec import ModelSpec, Spec, needs, rewriter_identity
from refinery.spec_types import marked
from refinery.steps import data_fingerprint, stands
from refinery.store import Store


def train_rewriters(spec: Spec, store: Store, run_id: str, progress: Progress) -> None:
    """Every rewriter that a step waits for, in the order in which they need one another. Steps that one learns from are
    run first. UserError where one cannot be trained."""
    for name in _in_order(spec):
        part = spec.model_copy(update={"graph": _before(spec, spec.rewriters[name].data)})
        run_graph(part, store, run_id=run_id, progress=progress.step)
        if _wanted(spec, store, name):
            _train(spec, store, run_id, progress, name)


def _in_order(spec: Spec) -> list[str]:
    """Each after those that its data needs."""
    done: list[str] = []

    def bring(name: str) -> None:
        for other in _asked_before(spec, name):
            bring(other)
        if name not in done:
            done.append(name)

    for name in spec.rewriters:
        bring(name)
    return done


def _asked_before(spec: Spec, name: str) -> list[str]:
    """The rewriters that the steps ask which this one learns from."""
    steps = _before(spec, spec.rewriters[name].data).values()
    asked = [spec.models[model].from_ for step in steps for _, model in marked(step.params, "model")]
    return [other for other in asked if other is not None]


def _before(spec: Spec, step: str) -> dict:
    """The part of the graph that ends in this step; nothing for a source."""
    found, waiting = set(), [step]
    while waiting:
        here = waiting.pop()
        if here in spec.graph and here not in found:
            found.add(here)
            waiting += needs(spec, spec.graph[here])
    return {name: one for name, one in spec.graph.items() if name in found}


def _wanted(spec: Spec, store: Store, name: str) -> bool:
    """Whether a step that asks it does not stand, or none asks it: then it is wanted for itself."""
    models = {model for model, entry in spec.models.items() if entry.from_ == name}
    steps = step_fingerprints(spec, store)
    asking = [step for step, one in spec.graph.items() if models & {model for _, model in marked(one.params, "model")}]
    return not asking or any(not stands(store, steps[step]) for step in asking)


def _train(spec: Spec, store: Store, run_id: str, progress: Progress, name: str) -> None:
    from trainers.job import TrainJob
    from trainers.train import train

    rewriter = spec.rewriters[name]
    steps = step_fingerprints(spec, store)
    data = steps[rewriter.data]
    base = ModelSpec(model=spec.model, revision=spec.revision)

    def known(model: ModelSpec) -> str:
        return identity(model, fetch=True)

    job = TrainJob(
        name=name,
        method=rewriter.method,
        params=rewriter.params,  # type: ignore[arg-type]
        seed=spec.seed,
        model=spec.model,
        examples=[example for example in store.examples(data) if example.split == "train"],
        data_fingerprint=data_fingerprint(store, data),
        out=spec.weights_folder,
        base_identity=known(base),
        store=store,
        run_id=run_id,
        role="rewriter",
        revision=spec.revision,
        trust_remote_code=spec.trust_remote_code,
    )
    label = f"train {name}"
    folder = train(job, lambda done, total, loss: progress.update(label, done, total, f"loss {loss:.3f}"))
    remember(spec, rewriter_identity(spec, name, known, steps), folder)
    progress.note(f"{name}: trained ({rewriter.method} on {rewriter.data}), {folder}")
