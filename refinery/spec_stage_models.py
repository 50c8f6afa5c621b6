"""The parts of a spec that say what becomes of the rows: training, evaluation, report."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, SerializeAsAny

from refinery.checks import Kind
from refinery.spec_types import Name, OpParams, Section, Template


class SelectSpec(Section):
    """How an answer to a validation item is judged when tuned settings are chosen (refinery/checks.py)."""

    check: Kind = "contains"
    """The rule that compares a validation answer with the reference."""
    of: Template | None = None
    """What the answer must agree with, over the row's columns; the reference answer where it is left out."""
    limit: PositiveInt | None = None
    """Only this many validation items."""


class GateSpec(Section):
    """Before a method whose teacher is shown something: does that help the teacher at all (trainers/gate.py)? Answers
    are judged as `select` says. The training goes on either way; where it does not help, one line warns."""

    rows: PositiveInt = 64
    """Train rows that are asked, with and without what the teacher is shown."""
    min_lift: float = Field(default=0.05, ge=-1, le=1)
    """Share of right answers that the context must add, below which it is warned."""
    max_tokens: PositiveInt = 256
    """Of an answer; the method's max_completion_length where that is fewer."""


def _gate(value: Any) -> Any:
    """`gate: off` measures nothing."""
    return None if value in ("off", False) else {} if value in ("on", True) else value


def _or_off(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"enum": ["off", "on", True, False]})


class MethodSpec(Section):
    """One training method. In YAML its parameters stand beside `method` and `data`, not under `params`.

    Under `train.methods` it trains the spec's model; under `rewriters` one that writes data for it.
    """

    method: str
    data: str = ""
    """A step's name, or "source"; `train.data` where it is left out, and "source" under `rewriters`."""
    params: SerializeAsAny[BaseModel] = Field(default_factory=OpParams)


class StageSpec(Section):
    """One of several trainings in a row, each going on from the weights of the one before."""

    name: Name | None = None
    """How its checkpoint is called: method@name; the name of its data where it is left out."""
    data: str
    """A step's name, or "source"."""
    method: str | None = None
    """Under `methods`: whose method and parameters this stage takes; each method its own where it is left out."""


class TrainSpec(Section):
    data: str = ""
    """The step whose rows the methods learn from, or "source"; the graph's last step where it is left out."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """Every method is trained once for each."""
    tune: dict[str, list[Any]] = {}
    """A grid that every method runs over on the first seed; the best validation score decides."""
    select: SelectSpec = Field(default_factory=SelectSpec)
    gate: Annotated[GateSpec | None, BeforeValidator(_gate)] = Field(
        default_factory=GateSpec, json_schema_extra=_or_off
    )
    """What is measured before a method that relies on what its teacher is shown; off measures nothing."""
    defaults: dict[str, Any] = {}
    """Parameters of every method that has them; a method's own value wins."""
    methods: dict[Name, MethodSpec] = Field(min_length=1)
    stages: list[StageSpec] = []
    """Data to be learnt one after the other (continual learning): every method goes through them in this order, and the
    checkpoint of every stage is evaluated. A method's own `data` is not used then."""
    """Name to method, as the report will call it."""


class OwnBenchmark(Section):
    """A file of rows as a benchmark: written answers that a rule compares, or the likeliest of several choices."""

    path: str
    """A .jsonl, .json, .csv, .tsv or .parquet file."""
    prompt: Template | None = None
    """The user turn, over the row's columns; where the columns have the usual names it can be left out."""
    answer: Template | None = None
    """The reference. With `choices`: the right choice as it stands, its letter from A, or its number from 0."""
    system: Template | None = None
    """A system turn before the user's."""
    choices: str | list[Template] | None = None
    """A column that holds a list of choices, or a template for each: the likeliest after the prompt is taken."""
    check: Kind | Literal["judge"] = "exact"
    """How a written answer agrees with the reference; judge asks the model under evaluate.judge."""
    chat_template: bool | None = None
    """Whether the model's chat template is used; where it is left out, for written answers alone."""
    max_tokens: PositiveInt | None = None
    """Of a written answer; evaluate.max_tokens where it is left out."""
    cluster: str | None = None
    """A column: rows of one value (one document, one table) are not independent, and intervals know it."""
    limit: PositiveInt | None = None
    """Only the first rows."""


class EvaluateSpec(Section):
    """Benchmarks and suites by name, or {task: file.yaml} for an lm-eval task file (kept as the file's path)."""

    domain: list[str] = []
    """What the training is for: a score here should rise."""
    general: list[str] = []
    """What should not be forgotten."""
    backend: str = "transformers"
    """What is asked: transformers runs the weights in this process; vllm serves one checkpoint after the other by a
    `vllm serve` of its own; a name under models takes that entry's settings: of backend vllm for serving them, of
    backend openai for asking the base, all `checkpoints` being served too. Scores of different backends are not
    compared."""
    batch_size: PositiveInt = 64
    """Items that are run together; a server decides that by itself."""
    max_tokens: PositiveInt = 512
    """Of a written answer."""
    limit: PositiveInt | None = None
    """Only the first items of each benchmark."""
    allow_code: bool = False
    """Lets task files run the Python code they name."""
    run_code: bool | Literal["unsandboxed"] = False
    """Lets benchmarks run the programs that the model writes, in a sandbox (evals/sandbox.py); unsandboxed runs them
    where no sandbox can be made, with all the rights that you have."""
    dtype: str = "auto"
    data: str | dict[str, str] | None = None
    """Local files in place of the hub's: a folder with a folder for each data set (hellaswag, mmlu, ...), or data set
    to its folder or file. The benchmarks' descriptions name the files."""
    own: dict[Name, OwnBenchmark] = {}
    """Your files as benchmarks, by the name that domain and general then use."""
    shots: dict[str, NonNegativeInt] = {}
    """Benchmark to worked examples in its prompt, where it should not be as many as it has by itself."""
    samples: dict[str, PositiveInt] = {}
    """Benchmark of written answers to how many are sampled for each item (temperature 1, top_p 0.95), for pass@k."""
    movement: NonNegativeInt = 32
    """On how many items of domain and general each, answered in words, is measured how far a checkpoint is from the
    base (evals/movement.py); 0 measures nothing."""
    judge: str | None = None
    """A name under models: who grades the benchmarks that need a judge. Best of another family than the model's."""


class ReportSpec(Section):
    baseline: str | None = None
    """The method others are compared with; the first one where it is left out."""
    sections: list[str] = []
    """Which sections, in this order; where it is left out all there are, in the order of reports/report.py."""
    margin: NonNegativeFloat = Field(default=0.05, lt=1)
    """A general score that provably drops by less than this counts as not forgotten."""
