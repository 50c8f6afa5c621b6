"""The parts of a spec. Unknown keys are refused; what one part asks of another is checked in spec_checks.py."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    SerializeAsAny,
    model_validator,
)

from refinery.checks import Kind
from refinery.spec_types import OpParams, Template

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=80)]
"""A name that can stand in a path and a table: letters, digits, "_", "-" and "."."""


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=(), populate_by_name=True
    )


class Price(Section):
    """USD per million tokens."""

    input: NonNegativeFloat
    """Of the prompt."""
    output: NonNegativeFloat
    """Of what is written."""


class ModelSpec(Section):
    """One way to get text or likelihoods; steps name it. `model` left out is the spec's own model."""

    from_: str | None = Field(default=None, alias="from")
    """A name under `rewriters`: the weights that are trained there, before the first step that asks this model. Each
    rewriter also stands here under its own name, with backend transformers."""
    backend: Literal["transformers", "openai", "vllm"] = "transformers"
    """transformers runs in this process; vllm starts `vllm serve` on this machine for the run; openai asks any
    OpenAI-compatible server (one that is up already, a provider)."""
    model: str = ""
    """A hub id or a folder, or the name under which the server knows it; the spec's own model where it is left out."""
    adapter: str | None = None
    """A LoRA adapter's folder (peft), put on `model`; backends transformers and vllm."""
    base_url: str | None = None
    """The server's address up to and including /v1. It may change without a step running again."""
    base_urls: list[str] = []
    """Several servers of the same model: the least loaded is asked first, one that is down is left out for a while."""
    provider: str | None = None
    """Says which of several servers of one model answered, where that matters; part of the cache key."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """Written "${OPENAI_API_KEY}": taken from the environment, never stored, logged or fingerprinted."""
    concurrency: PositiveInt = 64
    """Requests on the wire at each server, at most; fewer while it refuses or more would only queue."""
    timeout: PositiveFloat = 120.0
    """Seconds per try."""
    total_timeout: PositiveFloat | None = None
    """Seconds for a request with all its tries and the waits between them."""
    retries: int = Field(default=8, ge=0)
    """Tries after the first, with growing waits."""
    patience: PositiveFloat = 120.0
    """Seconds for which servers that have answered before may be away without the run ending."""
    price: Price | None = None
    """For plan and budget; a cost is unknown without it."""
    budget: PositiveFloat | None = None
    """USD that one run may spend on this model; needs a price. What is on the wire when it is reached is still paid."""
    likelihood: Literal["prompt_logprobs", "echo"] | None = None
    """How an openai server scores text: vLLM's prompt_logprobs, or echo with logprobs. None: it does not."""
    tokenizer: str | None = None
    """A folder or hub id with the served model's tokenizer, for scoring and raw completions; `model` where left out."""
    command: str = "vllm"
    """The vllm program of backend vllm: a name on PATH or a path, which may lie in another environment."""
    args: list[str] = []
    """Further arguments of `vllm serve`: ["--enforce-eager", "--max-model-len=4096"]."""
    dtype: str = "auto"
    """float32, bfloat16 or float16; with transformers auto is bfloat16 on a GPU and float32 without one."""
    device: str = "auto"
    """transformers: cpu, cuda, cuda:1; auto takes a GPU where there is one."""
    batch_size: PositiveInt = 32
    """transformers: requests that are run together."""
    max_context: PositiveInt | None = None
    """Tokens of prompt and answer together; the model's own limit where it is left out."""
    revision: str | None = None
    trust_remote_code: bool = False
    extra_body: dict[str, Any] = {}
    """Sent with every request as it stands, for what a server knows beyond the OpenAI fields."""

    @property
    def urls(self) -> list[str]:
        return [*([self.base_url] if self.base_url else []), *self.base_urls]

    @property
    def scores_text(self) -> bool:
        """Whether it gives likelihoods. vLLM 0.31 breaks off when it scores a prompt with an adapter."""
        if self.backend == "vllm":
            return self.adapter is None
        return self.backend == "transformers" or self.likelihood is not None

    @property
    def template_options(self) -> dict[str, Any]:
        """What goes to the chat template besides the messages."""
        return self.extra_body.get("chat_template_kwargs") or {}

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """USD for so many tokens; None where no price is given."""
        price = self.price
        return (prompt_tokens * price.input + completion_tokens * price.output) / 1e6 if price else None


class SplitSpec(Section):
    """Which rows the graph refines (train), choose settings (validation) and are the final test (test).

    Without any fraction: 0.7, 0.1 and 0.2. Of some, `train` left out is the rest and the others are 0. Rows that share
    a value of the column `by` stay together.
    """

    train: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows."""
    validation: float | None = Field(default=None, ge=0, lt=1)
    """Share of the rows."""
    test: float | None = Field(default=None, ge=0, lt=1)
    """Share of the rows."""
    by: str | None = None
    """A column: rows of one value stay together."""
    seed: int | None = None
    """The spec's seed where it is left out."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> "SplitSpec":
        if self.train is None and self.validation is None and self.test is None:
            self.train, self.validation, self.test = 0.7, 0.1, 0.2
        held = (self.validation or 0.0, self.test or 0.0)
        self.validation, self.test = held
        if self.train is None:
            self.train = round(1 - sum(held), 9)
        total = self.train + sum(held)
        if self.train <= 0:
            raise ValueError(f"validation {held[0]:g} and test {held[1]:g} leave nothing to train on")
        if abs(total - 1) > 1e-6:
            parts = f"train {self.train:g} + validation {held[0]:g} + test {held[1]:g}"
            raise ValueError(f"the fractions sum to {total:g}, not to 1 ({parts})")
        return self


class HubSource(Section):
    """A dataset on the Hugging Face hub; without `revision` its newest state is read and pinned by its content."""

    id: str
    revision: str | None = None
    config: str | None = None
    split: str = "train"


class SqlSource(Section):
    """A DuckDB query over files, each loaded as a table; the query itself reaches no file and no network."""

    query: str
    tables: dict[Name, str]
    """Table name to a .jsonl, .json, .csv, .tsv or .parquet file."""


def _hub_id(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


class SourceSpec(Section):
    """Where rows come from: exactly one of lab, path, hub and sql.

    Columns with the usual names (messages; prompt and completion; instruction, input, output; question and answer; ...)
    need no templates.
    """

    lab: str | None = None
    """A domain of the shipped small world."""
    path: str | None = None
    """A .jsonl, .json, .csv, .tsv or .parquet file, or a folder written by datasets' save_to_disk."""
    hub: Annotated[HubSource, BeforeValidator(_hub_id)] | None = None
    sql: SqlSource | None = None
    prompt: Template | None = None
    """The user turn, over the row's columns: "{{ question }}"."""
    answer: Template | None = None
    """The reference answer, over the row's columns."""
    system: Template | None = None
    """A system turn before the user's."""
    on_bad_row: Literal["refuse", "drop"] = "refuse"
    """refuse stops and lists the bad rows; drop leaves them out, each counted with its reason."""
    split: SplitSpec = Field(default_factory=SplitSpec)
    limit: PositiveInt | None = None
    """Only the first rows."""

    @model_validator(mode="after")
    def _exactly_one(self) -> "SourceSpec":
        given = [kind for kind in ("lab", "path", "hub", "sql") if getattr(self, kind) is not None]
        if len(given) != 1:
            found = f"not {' and '.join(given)} together" if given else "and none is given"
            raise ValueError(f"a source is exactly one of lab, path, hub and sql, {found}")
        return self


class StepSpec(Section):
    """One node of the graph. In YAML the parameters stand beside `op` and `from`, not under `params`."""

    op: str
    from_: str | list[str] = Field(alias="from", min_length=1)
    params: SerializeAsAny[BaseModel] = Field(default_factory=OpParams)

    @property
    def upstream(self) -> list[str]:
        return [self.from_] if isinstance(self.from_, str) else list(self.from_)


class LimitsSpec(Section):
    """When to stop a run early rather than spend more on it."""

    failed: float = Field(default=0.5, gt=0, le=1)
    """Share of a step's rows that may fail (not: be decided against) before the run stops; 1 never stops it."""
    after: PositiveInt = 50
    """Rows of the step that must have run first."""


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
    batch_size: PositiveInt = 64
    """Items that are run together."""
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
