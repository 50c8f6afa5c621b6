"""What lm-eval's task modules fetch or run when they are imported is put in their hands instead: nothing is downloaded.

HumanEval's and MBPP's load the metric `code_eval` from the hub, which runs programs in a bare subprocess: they get one
that runs them in evals/sandbox.py. IFEval's download nltk's punkt_tab: what counts on it uses it where it is installed
(`sentences`), and else the splitter that stands beside it.
"""

import contextlib
import io
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from evals import sandbox
from evals.scorers.passk import pass_at_k
from refinery.errors import UserError


@contextlib.contextmanager
def nothing_fetched(run_code: bool | Literal["unsandboxed"]) -> Iterator[None]:
    """While tasks are loaded and run, in silence."""
    import evaluate
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    load, before = evaluate.load, CodeEval.run_code
    CodeEval.run_code = run_code
    evaluate.load = lambda path, *args, **options: CodeEval() if path == "code_eval" else load(path, *args, **options)
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    with _no_downloads():
        try:
            yield
        finally:
            evaluate.load, CodeEval.run_code = load, before
            if shown:
                enable_progress_bars()


class CodeEval:
    """The interface of the hub's `code_eval`; the modules that load it keep it for as long as the process lives."""

    run_code: bool | Literal["unsandboxed"] = False
    LOADING = ("def add(a,b): return a*b", "assert add(2, 3)==5")
    """What the task modules run as they are imported, to see whether code may run."""

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100), **_: Any
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """({"pass@1": ...}, {}): a program passes that, with its test after it, raises nothing in three seconds."""
        jobs = [(program, test) for test, each in zip(references, predictions, strict=True) for program in each]
        if jobs == [self.LOADING]:
            return {}, {}
        if not self.run_code:
            raise UserError("this benchmark runs code that the model writes: evaluate.run_code: true lets it")
        verdicts = iter(sandbox.run_all(jobs, isolated=self.run_code != "unsandboxed"))
        right = [[next(verdicts).passed for _ in each] for each in predictions]
        shares = {
            f"pass@{each}": sum(pass_at_k(len(some), sum(some), each) for some in right) / len(right)
            for each in k
            if all(len(some) >= each for some in right)
        }
        return shares, {}


@contextlib.contextmanager
def _no_downloads() -> Iterator[None]:
    try:
        import nltk
    except ImportError:
        yield
        return
    download, nltk.download = nltk.download, lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = download


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Around the import of task modules: what they print is not said, and IFEval's rules are made to work."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    if rules := sys.modules.get("lm_eval.tasks.ifeval.instructions_util"):
        settle(rules)


def settle(rules: Any) -> None:
    """IFEval's rules without what must be fetched, and the same in every run: its language detector draws lots."""
    import langdetect

    langdetect.DetectorFactory.seed = 0
    if sentences() == "rule" and not hasattr(rules, "settled"):
        from nltk import NLTKWordTokenizer

        words = NLTKWordTokenizer().tokenize
        rules.nltk = types.SimpleNamespace(**{**vars(rules.nltk), "word_tokenize": words})
        rules.count_sentences = lambda text: len(rules.split_into_sentences(text))
        rules.settled = True


def sentences() -> str:
    """How sentences are counted here: "punkt", or "rule" where punkt_tab is not installed."""
    try:
        import nltk

        nltk.data.find("tokenizers/punkt_tab")
    except (ImportError, LookupError):
        return "rule"
    return "punkt"
