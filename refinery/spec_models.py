"""The parts of a spec: models, sources and steps here, what comes after them in spec_stage_models.py. Unknown keys are
refused; what one part asks of another is checked in spec_checks.py and spec_stage_checks.py."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    SerializeAsAny,
    model_validator,
)

from refinery.spec_stage_models import (
    EvaluateSpec,
    GateSpec,
    MethodSpec,
    OwnBenchmark,
    ReportSpec,
    SelectSpec,
    StageSpec,
    TrainSpec,
)
from refinery.spec_types import Name, OpParams, Section, Template

__all__ = [
    "EvaluateSpec",
    "GateSpec",
    "HubSource",
    "LimitsSpec",
    "MethodSpec",
    "ModelSpec",
    "Name",
    "OwnBenchmark",
    "Price",
    "ReportSpec",
    "Section",
    "SelectSpec",
    "SourceSpec",
    "SplitSpec",
    "SqlSource",
    "StageSpec",
    "StepSpec",
    "TrainSpec",
]


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
    def at_once(self) -> int:
        """Requests in flight at all of its servers together."""
        return self.concurrency * max(1, len(self.urls))

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
