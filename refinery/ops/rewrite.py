"""A model answers each question again in its own words, in the light of the reference answer (RAFT Eq 1).

    y~ ~ p_theta0( . | x, y)

With the original model as the writer, its texts lie close to what it would say by itself, so that training on them
moves it less; the reference keeps them right, which the model alone might not be. Lexical leaks ("the reference answer
says ...") are refused by a list of phrases, after the acceptance rules of self-distillation (Yang et al., 2024).

`preset` chooses among published ways to ask. It sets the prompt, the phrases that are refused, and what the paper says
of system prompt, first words and temperature; a key that is written beside it wins. All wording is ours.

    raft             RAFT (arXiv:2606.00147) Eq 1; its prompt is not public
    sdft2024_using   self-distillation (arXiv:2402.13669) of instruction data: the reference as a guide
    sdft2024_refer   the same for tool calls, where the reference is referred to
    sdft2024_gsm8k   the same for worked arithmetic: its own system prompt, and the first words of the answer given
    agent            the rewriting agent (arXiv:2602.11220) as its rewriter is asked: greedy, the answer in a box at the
                     end. Put check_answer with kind: boxed behind it; the paper allows texts of 8192 tokens
    paraphrase       the reference in other words (S3FT, arXiv:2502.08130), with no freedom in what it says
    dart             a demonstration adapted to the model that will learn from it (DART, arXiv:2605.26924, whose prompt
                     is not public), as the mapper is asked that method dart trains: four samples to choose from

The phrases refused under the sdft2024 presets are those of the paper's own acceptance test, whole words, and never one
that the question or the reference holds. Its test of the task's answer is a step of its own: check_answer.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from refinery.context import Context
from refinery.errors import RowError
from refinery.records import Example, Outcome
from refinery.rowops import WriterParams, conversation, refusals, settle, with_preset, write_all
from refinery.spec_types import Later, Template

VERSION = 1
VARIABLES: tuple[str, ...] = ()

PROMPT = """\
Below are a question and an answer to it that is known to be right.

Question:
{{ question }}

Known answer:
{{ answer }}

Answer the question yourself, in the wording, the tone and the layout that come naturally to you. Keep every fact, \
number and conclusion of the known answer, add none of your own, and write as if you had not been shown it."""

BANNED = (
    "known answer",
    "reference answer",
    "reference response",
    "provided answer",
    "given answer",
    "answer provided",
    "answer given",
    "my own words",
    "your own words",
    "your answer",
    "your response",
    "your turn",
    "rewritten answer",
    "rephrased answer",
    "as you were shown",
)


SDFT_USING = """\
Here are an instruction and an answer to it that is right. Let the answer guide you, and write a response of your own.

### Instruction
{{ question }}

### Reference answer
{{ answer }}

### Response"""

SDFT_REFER = """\
Look at the answer below, which is right, and write a response of your own to the instruction.

### Instruction
{{ question }}

### Reference answer
{{ answer }}

### Response"""

SDFT_GSM8K_SYSTEM = """\
You are good at mathematics. You are given a question and an answer to it that is right; look at the answer and write \
a response of your own."""

SDFT_GSM8K = """\
Question:
{{ question }}

Reference answer:
{{ answer }}"""

SDFT_BANNED = ("reference answer", "your response", "my response", "your own response", "now it's your turn")

AGENT = """\
You solve word problems in mathematics. Below are a problem and a solution to it that exists already; the solution is \
there to be consulted, not to be copied.

Problem:
{{ question }}

Existing solution:
{{ answer }}

Write the solution anew in your own words, in clear steps. Every step must be sound, and the final answer must be the \
one above. Do not say that you are rewriting anything. End with a line that holds nothing but the final answer in \
\\boxed{}."""

PARAPHRASE = """\
Below are a question and an answer to it that is known to be right.

Question:
{{ question }}

Known answer:
{{ answer }}

Say the known answer in other words. Change the wording and, where it helps, the order; change nothing of what it \
says, and add nothing. Write only the new wording, as a direct reply to the question."""

DART = """\
A student model will learn from worked solutions. Below are a problem and a solution that is right but was written by \
somebody else.

Problem:
{{ question }}

Solution:
{{ answer }}

Write the solution as the student should learn it: in your own wording, with steps of the size that you would take. \
Keep every step sound and every result, and give the same final answer in the same form at the end. Say nothing of the \
solution above."""

DART_BANNED = (
    *BANNED,
    "solution above",
    "given solution",
    "provided solution",
    "original solution",
    "reference solution",
    "as shown above",
    "rewrite",
    "the student",
)

_SDFT = {"banned": SDFT_BANNED, "banned_starts": ("your turn",)}
PRESETS: dict[str, dict[str, Any]] = {
    "raft": {},
    "sdft2024_using": {"prompt": SDFT_USING, **_SDFT},
    "sdft2024_refer": {"prompt": SDFT_REFER, **_SDFT},
    "sdft2024_gsm8k": {
        "prompt": SDFT_GSM8K,
        "system": SDFT_GSM8K_SYSTEM,
        "prefill": "Good, let me work this out one step at a time.",
        **_SDFT,
    },
    "agent": {
        "prompt": AGENT,
        "temperature": 0.0,
        "top_p": 1.0,
        "banned": (*BANNED, "existing solution", "given solution", "provided solution", "original solution"),
    },
    "paraphrase": {"prompt": PARAPHRASE},
    "dart": {"prompt": DART, "samples": 4, "temperature": 0.7, "top_p": 1.0, "banned": DART_BANNED},
}


class Params(WriterParams):
    preset: Annotated[
        Literal["raft", "sdft2024_using", "sdft2024_refer", "sdft2024_gsm8k", "agent", "paraphrase", "dart"], Later
    ] = "raft"
    """A published way to ask; what is written beside it wins."""
    prompt: Template = PROMPT
    banned: tuple[str, ...] = BANNED
    samples: int = Field(1, ge=1, le=64)
    """Candidates for each row, with sample indices 0 to samples - 1. The usable ones stand as `candidates`."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        return with_preset(data, PRESETS, "raft")


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """The first usable sample becomes the response, all usable ones the candidates.

    scores: `valid`, and `refused` with the count of each reason where samples were refused. Where none is usable, the
    first sample's failure is the row's. A transient failure of any sample is the row's too: asked again, the row gets
    all its samples, the answered ones from the store.
    """
    messages = conversation(example, params.prompt, params.system, example.fields())
    samples = await write_all(example, params, ctx, messages, range(params.samples))
    texts = [sample for sample in samples if isinstance(sample, str)]
    if not texts:
        raise next(sample for sample in samples if isinstance(sample, RowError))
    return settle(example, texts[0], texts, {"valid": len(texts), "refused": refusals(samples)})


def requests(params: Params) -> int:
    """Requests for each row, at most."""
    return params.samples


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    if params.samples > 1 and params.temperature == 0:
        return [f"temperature 0 gives the same text in all {params.samples} samples"]
    return []
