"""IFEval (Zhou et al. 2023, Apache-2.0): are instructions followed that a program can check? lm-eval's task `ifeval`
and its rules.

n 541, no shots, chat template, greedy, up to 1,280 tokens; `prompt_level_strict_acc` counts (every instruction of the
prompt followed), the loose and the per-instruction figures stand beside it. Two rules count sentences or words with
nltk's punkt_tab. It is never fetched for you: where it is not installed (python -m nltk.downloader punkt_tab) they use
the rules' own sentence splitter, and the score's fingerprint says so. Local files, folder ifeval: input_data* as
released.
"""

from collections.abc import Sequence
from typing import Any

from evals.benchmarks._files import splits
from evals.benchmarks._tasks import Task, builtin
from evals.offline import sentences
from refinery.spec_models import EvaluateSpec

DATA = "ifeval"


def names() -> Sequence[str]:
    return ("ifeval",)


def task(name: str, *, settings: EvaluateSpec, **_: Any) -> Task:
    rows = splits(settings, DATA, {"train": "*input_data*"})
    found = builtin("ifeval/ifeval.yaml", name, settings, rows, chat=True, primary="prompt_level_strict_acc")
    return found | {"metadata": {**found.get("metadata", {}), "sentences": sentences()}}
