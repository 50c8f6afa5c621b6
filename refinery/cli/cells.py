"""The trainings that a spec asks for: one a method and seed, or a grid point, each a chain of one or more stages."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from refinery.errors import UserError
from refinery.graph import step_fingerprints
from refinery.models import identity
from refinery.records import Example
from refinery.spec import MethodSpec, ModelSpec, Spec
from refinery.spec_types import marked, varied
from refinery.steps import data_fingerprint, is_complete
from refinery.store import Store
from trainers.job import Role, TrainJob, directory, fingerprint
from trainers.params import TrainParams


@dataclass(frozen=True)
class Cell:
    """One method with one seed at one point of the grid. Its last job makes the weights that are compared."""

    method: str
    """Its name in the spec."""
    seed: int
    point: dict[str, Any]
    jobs: list[TrainJob]

    @property
    def label(self) -> str:
        """ "sft_raw seed 1", or while tuning "sft_raw learning_rate=0.001"."""
        if self.jobs[-1].role == "tuning":
            return " ".join([self.method, *(f"{key}={value}" for key, value in self.point.items())])
        return f"{self.method} seed {self.seed}"


class Cells:
    """The cells of one spec on one store, whose steps must stand."""

    def __init__(self, spec: Spec, store: Store):
        assert spec.train is not None
        self.spec, self.plan, self.store = spec, spec.train, store
        self.steps = step_fingerprints(spec, store)
        self._known: dict[str, tuple[list[Example], str]] = {}
        self._base: str | None = None

    def final(self, name: str, seed: int, point: dict[str, Any]) -> Cell:
        return self._cell(name, seed, point, "final")

    def tuning(self, name: str) -> Iterator[Cell]:
        """The grid, on the first seed; nothing without one."""
        for values in itertools.product(*self.plan.tune.values()) if self.plan.tune else ():
            yield self._cell(name, self.plan.seeds[0], dict(zip(self.plan.tune, values, strict=True)), "tuning")

    def base(self) -> str:
        """Identity of the model that is trained, whatever the spec calls the models that write text."""
        if self._base is None:
            self._base = identity(ModelSpec(model=self.spec.model, revision=self.spec.revision), fetch=True)
        return self._base

    def rows(self, step: str, split: str) -> list[Example]:
        """UserError where the step has not been brought to its end."""
        return [example for example in self._step(step)[0] if example.split == split]

    def _step(self, name: str) -> tuple[list[Example], str]:
        """All rows of a step and the digest of them."""
        if name not in self._known:
            if not is_complete(self.store, self.steps[name]):
                raise UserError(f'step "{name}" does not stand yet: `refinery run --stage refine` makes its rows')
            found = self.store.examples(self.steps[name]), data_fingerprint(self.store, self.steps[name])
            self._known[name] = found
        return self._known[name]

    def _cell(self, name: str, seed: int, point: dict[str, Any], role: Role) -> Cell:
        """The stages in order, each beginning at the weights of the one before it; without stages, one job."""
        own = self.plan.methods[name]
        if not self.plan.stages:
            return Cell(name, seed, point, [self._job(name, own, own.data, seed, point, role)])
        jobs: list[TrainJob] = []
        for number, stage in enumerate(self.plan.stages, 1):
            last = number == len(self.plan.stages)
            method = self.plan.methods[stage.method] if stage.method else own
            label = name if last else f"{name}@{stage.name or stage.data}"
            before = jobs[-1] if jobs else None
            jobs.append(self._job(label, method, stage.data, seed, point, role if last else "stage", before))
        return Cell(name, seed, point, jobs)

    def _job(
        self,
        name: str,
        method: MethodSpec,
        data: str,
        seed: int,
        point: dict[str, Any],
        role: Role,
        before: TrainJob | None = None,
    ) -> TrainJob:
        params = cast(TrainParams, varied(method.params, point))
        return TrainJob(
            name=name,
            method=method.method,
            params=params,
            seed=seed,
            model=str(directory(before)) if before else self.spec.model,
            base_identity=f"checkpoint:{fingerprint(before)}" if before else self.base(),
            examples=self.rows(data, "train"),
            data_fingerprint=self._step(data)[1],
            out=self.spec.store_path.parent / "checkpoints",
            store=self.store,
            role=role,
            revision=None if before else self.spec.revision,
            trust_remote_code=self.spec.trust_remote_code,
            origin=self.spec.model if before else "",
            extra={str(path[0]): self.rows(named, "train") for path, named in marked(params, "step")},
        )
