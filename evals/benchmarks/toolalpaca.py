"""ToolAlpaca (Tang et al. 2023, arXiv:2306.05301, Apache-2.0): calls of an API's functions that do what is asked.

n 100 (`toolalpaca_simulated`, 10 APIs) and 114 (`toolalpaca_real`, 11 APIs), the two evaluation sets of the release,
without instructions whose reference makes no call. No shots, chat, greedy; the functions' descriptions stand in the
system turn. All calls are asked for at once, without the functions' replies, as SDFT does, so an argument that only a
reply could give is out of reach. `acc` counts: the calls are equal in structure and order. `acc_similar` takes them in
any order and empty arguments as left out, `functions` looks at the names alone. Items of one API are a cluster. Local
files, folder toolalpaca: *simulated* and *real* as released.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evals.benchmarks._files import Rows, splits
from evals.benchmarks._tasks import Task, item, needs_data, written
from evals.scorers.tools import named, parses, same, similar
from refinery.spec_models import EvaluateSpec

DATA = "toolalpaca"
LOCAL_ONLY = True
SYSTEM = """\
You can call these functions of {name} ({description}):

{functions}

Answer with the calls that do what is asked, all of them and in order, and nothing else. Write each as two lines:
Action: the function's name
Action Input: its arguments as a JSON object"""


def names() -> Sequence[str]:
    return ("toolalpaca_simulated", "toolalpaca_real")


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    kind = name.removeprefix("toolalpaca_")
    rows = splits(settings, DATA, {"test": f"*{kind}*"})
    if not rows:
        raise needs_data(name, DATA, f"data/eval_{kind}.json of tangqiaoyu/ToolAlpaca")
    found = list(items(rows["test"]))
    rules = {"version": 2}  # of how calls are read
    return written(name, found, score, ("acc", "acc_similar", "functions"), settings, parses=parses, metadata=rules)


def items(apis: Rows) -> Iterator[dict[str, Any]]:
    for api in apis:
        system = SYSTEM.format(name=api["Name"], description=api["Description"], functions=api["NLDocumentation"])
        for instruction, gold in zip(api["Instructions"], api["Golden_Answers"], strict=True):
            if gold:
                turns = [{"role": "system", "content": system}, {"role": "user", "content": instruction}]
                yield item(turns, reference(gold), cluster=api["Name"])


def reference(gold: Sequence[Mapping[str, Any]]) -> str:
    """The reference's calls as the model is asked to write them."""
    return "\n".join(f"Action: {call['Action']}\nAction Input: {_text(call['Action_Input'])}" for call in gold)


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def score(doc: Mapping[str, Any], text: str) -> dict[str, float]:
    rules = {"acc": same, "acc_similar": similar, "functions": named}
    return {metric: float(rule(text, doc["reference"])) for metric, rule in rules.items()}
