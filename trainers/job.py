"""What is to be trained (`TrainJob`), and what a method gets to build its trainer from (`Run`). Light."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refinery.catalog import METHODS, module
from refinery.records import Example, digest
from refinery.spec_types import marked
from trainers.params import WATCHING, TrainParams

if TYPE_CHECKING:
    from refinery.store import Store
    from trainers.course import Course
    from trainers.data import Prepared

Role = Literal["final", "tuning", "stage", "part", "rewriter"]
"""stage: another training goes on from these weights. part: another is made of them, as wise_ft is of sft. rewriter:
they write data for another model."""

Progress = Callable[[int, int, float], None]
"""Called after each optimiser step with (step, steps in all, loss)."""


@dataclass(frozen=True)
class TrainJob:
    """One set of weights to make."""

    name: str
    """The method's name in the spec; not part of the identity."""
    method: str
    """A file name under trainers/methods."""
    params: TrainParams
    """An instance of that file's Params."""
    seed: int
    """Varies the order of rows, the rollouts and the adapters' first weights."""
    model: str
    """The weights to start from: "lab" or its sisters, a folder or a hub id."""
    examples: Sequence[Example]
    """The rows; `response` is what is learnt."""
    data_fingerprint: str
    """The step that the rows come from."""
    out: Path
    """The folder of all checkpoints; this one stands in it under its fingerprint."""
    base_identity: str
    """Digest of the weights to start from (refinery.models.identity)."""
    store: "Store | None" = None
    run_id: str = ""
    role: Role = "final"
    revision: str | None = None
    trust_remote_code: bool = False
    origin: str = ""
    """In a later stage, the model that the first one began with: it has the tokenizer and shapes of all of them."""
    extra: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """Further rows, by the parameter that names their step or source (a StepName: `replay`, `prompts`)."""


def rows_digest(examples: Sequence[Example]) -> str:
    """Digest of the rows themselves: a step whose failed rows were asked again keeps its fingerprint, not its rows."""
    return digest([[e.id, e.prompt, e.answer, e.response, e.meta] for e in examples])


def configuration(job: TrainJob) -> dict[str, Any]:
    """All that shapes the weights. Two jobs with the same configuration are the same training; how often it is saved
    and probed on the way is not part of it, nor what the step is called whose rows come along."""
    named = {str(path[0]) for path, _ in marked(job.params, "step")}
    found = {
        "method": job.method,
        "method_version": module(METHODS, job.method).VERSION,
        "params": {key: value for key, value in job.params.shaping().items() if key not in named},
        "seed": job.seed,
        "data": job.data_fingerprint,
        "rows_digest": rows_digest(job.examples),
        "base": job.base_identity,
    }
    extra = {name: rows_digest(job.extra[name]) for name in sorted(named - WATCHING)}
    return {**found, "extra": extra} if extra else found


def fingerprint(job: TrainJob) -> str:
    """The checkpoint's name: the digest of its configuration."""
    return digest(configuration(job))


def directory(job: TrainJob) -> Path:
    return job.out / fingerprint(job)


def parent(job: TrainJob, method: str) -> TrainJob:
    """The training whose weights `job` changes (wise_ft, fapm): that method with the job's shared parameters."""
    shared = {name: getattr(job.params, name) for name in TrainParams.model_fields}
    return replace(job, method=method, params=module(METHODS, method).Params(**shared), role="part")


@dataclass
class Run:
    """One job under way, as a method's `build` gets it."""

    job: TrainJob
    model: Any
    """The base model, this run's own to change."""
    tokenizer: Any
    course: "Course"
    arguments: dict[str, Any]
    """Keyword arguments of transformers.TrainingArguments that every method shares."""
    adapter: Any = None
    """A peft.LoraConfig, or None where every weight is trained."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Whatever else the manifest should say."""

    @property
    def prepared(self) -> "Prepared":
        return self.course.prepared

    @property
    def places(self) -> list[int]:
        """The row of every training sample, in order: steps x batch_size places in `prepared.rows`."""
        return self.course.places
