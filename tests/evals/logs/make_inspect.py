"""How inspect_sums_weak.eval and inspect_sums_strong.json were made: with inspect_ai 0.3.285, in an environment of its
own, by `python make_inspect.py`; the JSON was then written without white space. The model is inspect_ai's mock, whose
answers are wrong for every third sum (weak) or for one (strong). No network: its token counter is replaced.
"""

from collections.abc import Callable, Iterator

import tiktoken
from inspect_ai import Task, eval, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, Model, ModelOutput, get_model
from inspect_ai.scorer import includes, match
from inspect_ai.solver import generate, system_message


class Words:
    def encode(self, text: str, **_: object) -> list[str]:
        return text.split()


tiktoken.get_encoding = tiktoken.encoding_for_model = lambda name: Words()


@task
def sums() -> Task:
    data = [Sample(id=f"sum{n}", input=f"What is {n} + {n + 1}?", target=str(2 * n + 1)) for n in range(12)]
    return Task(
        dataset=MemoryDataset(data, name="sums"),
        solver=[system_message("Answer with a number."), generate()],
        scorer=[match(numeric=True), includes()],
        version=2,
        config=GenerateConfig(temperature=0.0, max_tokens=16),
    )


def model(name: str, right: Callable[[int], bool]) -> Model:
    def answers() -> Iterator[ModelOutput]:
        for n in range(12):
            yield ModelOutput.from_content(name, str(2 * n + 1 if right(n) else 0))

    return get_model(name, custom_outputs=answers())


if __name__ == "__main__":
    for name, form, right in (("weak", "eval", lambda n: n % 3 != 0), ("strong", "json", lambda n: n != 5)):
        one_by_one = {"max_samples": 1, "max_connections": 1}
        eval(sums(), model=model(f"mockllm/{name}", right), log_dir=name, log_format=form, display="none", **one_by_one)
