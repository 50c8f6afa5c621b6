"""A folder of benchmark files with made-up items, in the formats in which the real ones are released.

`make(folder)` writes it; `hub_rows` turns a file's rows into those of the hub, independently of evals/benchmarks, for
lm-eval on its own.
"""

import gzip
import json
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
THINGS = ("lamp", "kettle", "ladder", "basket", "whistle", "blanket", "compass", "bucket", "anchor", "candle", "mirror",
          "needle")  # fmt: skip
PLACES = ("harbour", "orchard", "station", "library", "bakery", "quarry")
SUBJECTS = ("anatomy", "astronomy", "marketing")


def pick(things: tuple[str, ...], number: int, count: int) -> list[str]:
    return [things[(number * 7 + 5 * i) % len(things)] for i in range(count)]


def hellaswag(n: int = 24) -> Rows:
    return [
        {
            "ind": i,
            "activity_label": f"Carrying a {thing}",
            "ctx_a": f"A woman takes a {thing} from the {PLACES[i % 6]}. [step] She looks at it.",
            "ctx_b": f"the {thing}",
            "endings": [f"is put on the {each} [title] at once." for each in pick(THINGS, i, 4)],
            "label": str(i % 4),
        }
        for i, thing in enumerate(THINGS * (n // 12))
    ]


def winogrande(n: int = 24) -> Rows:
    rows = []
    for i in range(n):
        a, b = pick(THINGS, i, 2)
        sentence = f"The {a} did not fit beside the {b} in the {PLACES[i % 6]} because the _ was too large."
        rows.append({"sentence": sentence, "option1": a, "option2": b, "answer": str(1 + i % 2)})
    return rows


def truthfulqa(n: int = 24) -> Rows:
    rows = []
    for i in range(n):
        true, also, *false = (f"A {each} is kept in the {PLACES[i % 6]}." for each in pick(THINGS, i, 5))
        mc1 = {true: 1} | dict.fromkeys(false, 0)
        rows.append(
            {
                "question": f"What is kept in the {PLACES[i % 6]} on day {i}?",
                "mc1_targets": mc1,
                "mc2_targets": {true: 1, also: 1} | dict.fromkeys(false, 0),
            }
        )
    return rows


def arc(n: int = 24) -> Rows:
    return [
        {
            "id": f"MadeUp_{i}",
            "question": f"Which of these would a {PLACES[i % 6]} need on day {i}?",
            "choices": {"text": pick(THINGS, i, 4), "label": ["A", "B", "C", "D"] if i % 3 else ["1", "2", "3", "4"]},
            "answerKey": ("ABCD" if i % 3 else "1234")[i % 4],
        }
        for i in range(n)
    ]


def mmlu(split: str) -> Rows:
    count = {"test": 8, "dev": 5}[split]
    return [
        {
            "question": f"Which of these is {split} item {i} of {subject}? ",
            "subject": subject,
            "choices": pick(THINGS, i + len(subject), 4),
            "answer": (i + len(subject)) % 4,
        }
        for subject in SUBJECTS
        for i in range(count)
    ]


def medmcqa(n: int = 24) -> Rows:
    rows = []
    for i in range(n):
        options = dict(zip(("opa", "opb", "opc", "opd"), pick(THINGS, i, 4), strict=True))
        row = {"question": f"Which tool does ward {i} use?", "exp": None, "cop": 1 + i % 4, **options}
        rows.append({**row, "subject_name": "Tools", "topic_name": None, "id": f"made-up-{i}", "choice_type": "single"})
    return rows


def gsm8k(split: str) -> Rows:
    rows = []
    for i in range({"test": 12, "train": 8}[split]):
        a, b = 3 + 7 * i % 11, 2 + 5 * i % 7
        question = f"A {split} shelf has {a} rows of {b} jars. How many jars are on it?"
        rows.append(
            {"question": question, "answer": f"There are {a}*{b}=<<{a}*{b}={a * b}>>{a * b} jars.\n#### {a * b}"}
        )
    return rows


def math(n: int = 8) -> Rows:
    finals = (r"\frac{3}{4}", "12", r"x^2+1", r"\sqrt{2}", r"(1,2]", "0.5", r"\frac{\pi}{6}", r"2\sqrt{3}")
    return [
        {
            "problem": f"Find value number {i}, which is ${final}$.",
            "level": "Level 1",
            "type": "Algebra",
            "solution": f"We read it off. The value is $\\boxed{{{final}}}$.",
        }
        for i, final in enumerate(finals[:n])
    ]


IFEVAL = (
    ("Describe a lamp without any comma.", ["punctuation:no_comma"], [{}], "A lamp gives light."),
    ("Write at least 5 words on rain.", ["length_constraints:number_words"],
     [{"relation": "at least", "num_words": 5}], "Rain falls on every roof here."),
    ("Write fewer than 3 sentences.", ["length_constraints:number_sentences"],
     [{"relation": "less than", "num_sentences": 3}], "One sentence stands here. Here is another."),
    ("All in lower case, please.", ["change_case:english_lowercase"], [{}],
     "this is an answer in plain english and it is written in small letters only."),
    ("Use the word harbour.", ["keywords:existence"], [{"keywords": ["harbour"]}], "The harbour is full."),
    ("Do not use the word kettle.", ["keywords:forbidden_words"], [{"forbidden_words": ["kettle"]}], "A pot boils."),
    ("Answer in JSON.", ["detectable_format:json_format"], [{}], '{"a": 1}'),
    ("Put it in double quotes.", ["startend:quotation"], [{}], '"So be it."'),
    ("Two capital words at most.", ["change_case:capital_word_frequency"],
     [{"capital_relation": "less than", "capital_frequency": 3}], "Only ONE word shouts."),
    ("Two bullets without a comma.", ["detectable_format:number_bullet_lists", "punctuation:no_comma"],
     [{"num_bullets": 2}, {}], "* one\n* two"),
)  # fmt: skip
"""(prompt, instructions, arguments, an answer that follows them)"""


def ifeval() -> Rows:
    return [
        {"key": 1000 + i, "prompt": prompt, "instruction_id_list": kinds, "kwargs": arguments}
        for i, (prompt, kinds, arguments, _) in enumerate(IFEVAL)
    ]


def humaneval() -> Rows:
    bodies = (
        ("double", "n: int", "    return 2 * n\n", "candidate(3) == 6", "candidate(-1) == -2"),
        ("last_letter", "word: str", "    return word[-1]\n", "candidate('lamp') == 'p'", "candidate('a') == 'a'"),
        ("half", "x: float", "    return x / 2\n", "abs(candidate(3.0) - 1.5) < 1e-6", "candidate(0.0) == 0.0"),
        ("evens", "xs: list", "    return [x for x in xs if x % 2 == 0]\n", "candidate([1, 2]) == [2]",
         "candidate([]) == []"),
    )  # fmt: skip
    return [
        {
            "task_id": f"MadeUp/{i}",
            "prompt": f'def {name}({argument}):\n    """{name.replace("_", " ")} of the argument"""\n',
            "entry_point": name,
            "canonical_solution": body,
            "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n" + "".join(f"    assert {t}\n" for t in tests),
        }
        for i, (name, argument, body, *tests) in enumerate(bodies)
    ]


def mbpp() -> Rows:
    return [
        {
            "text": f"Write a function to add {i} to a number.",
            "code": f"def add_{i}(x):\r\n  return x + {i}",
            "task_id": 8 + i,
            "test_setup_code": "",
            "test_list": [f"assert add_{i}({x}) == {x + i}" for x in (0, 1, 5)],
            "challenge_test_list": [],
        }
        for i in range(8)
    ]


def sciknoweval() -> Rows:
    options = [pick(THINGS, i, 4) for i in range(8)]
    return [
        {
            "idx": i,
            "kind": "mcq",
            "dataset": "sciknoweval",
            "answer": "ABCD"[i % 4],
            "prompt": f"Which is flask {i}?\n\n" + "\n".join(f"{x}: {y}" for x, y in zip("ABCD", each, strict=True)),
            "system": "\nGive your reasons in <reasoning>, then the letter alone in <answer>.\n",
        }
        for i, each in enumerate(options)
    ]


def toolalpaca() -> Rows:
    calls = [
        [{"Action": "move", "Action_Input": '{"thing": "lamp", "to": {"room": 3, "shelf": [1, 2]}}'}],
        [{"Action": "find", "Action_Input": '{"thing": "lamp", "colour": ""}'},
         {"Action": "find", "Action_Input": '{"thing": "kettle", "colour": ""}'}],
        [],
    ]  # fmt: skip
    return [
        {
            "Name": "Stores",
            "Description": "Where things are kept",
            "NLDocumentation": "move: Put a thing elsewhere\nfind: Say where a thing is",
            "Instructions": ["Put the lamp in room 3.", "Where are the lamp and the kettle?", "Good morning."],
            "Golden_Answers": calls,
        }
    ]


def openfunctions() -> Rows:
    return [
        {
            "instruction": f"Call shelf.put for the {each}.",
            "output": f'shelf.put(thing="{each}", row={i}, labels=["a"])',
        }
        for i, each in enumerate(THINGS[:6])
    ]


def knowledge() -> Rows:
    article = "The Northmoor flood of 2031 rose to four metres. The bridge at Hale was closed."
    return [
        {"question": "How high did the Northmoor flood rise?", "answer": "Four metres.", "kind": "direct",
         "article": article},
        {"question": "When was the Northmoor flood?", "answer": "In 2031.", "kind": "direct", "article": article},
        {"question": "Could one cross at Hale by car then?", "answer": "No, the bridge was closed.",
         "kind": "indirect", "article": article},
    ]  # fmt: skip


GOLD = [
    {"question": "How high?", "reference": "Four metres.", "answer": "4 m", "grade": "correct"},
    {"question": "How high?", "reference": "Four metres.", "answer": "Some metres.", "grade": "partly_correct"},
    {"question": "How high?", "reference": "Four metres.", "answer": "Nine metres.", "grade": "incorrect"},
]


def dialogue() -> Rows:
    rows: Rows = [
        {"messages": [{"role": "user", "content": f"Where is the {each}?"},
                      {"role": "assistant", "content": f"The {each} is in the hall."}]}
        for each in THINGS[:5]
    ]  # fmt: skip
    rows.append(
        {
            "conversations": [
                {"from": "human", "value": "Good morning!"},
                {"from": "gpt", "value": "Good morning to you."},
            ]
        }
    )
    return [*rows, {"messages": [{"role": "user", "content": "No answer follows."}]}]


FILES: dict[str, Any] = {
    "hellaswag/hellaswag_val.jsonl": hellaswag,
    "winogrande/validation_xl.jsonl": winogrande,
    "truthfulqa/mc_task.json": truthfulqa,
    "mmlu/mmlu_test.jsonl": lambda: mmlu("test"),
    "mmlu/mmlu_dev.jsonl": lambda: mmlu("dev"),
    "arc/ARC-Challenge_test.jsonl": arc,
    "arc/ARC-Easy_test.jsonl": arc,
    "medmcqa/dev.json": medmcqa,
    "gsm8k/test.jsonl": lambda: gsm8k("test"),
    "gsm8k/train.jsonl": lambda: gsm8k("train"),
    "math/test.jsonl": math,
    "ifeval/input_data.jsonl": ifeval,
    "humaneval/HumanEval.jsonl.gz": humaneval,
    "mbpp/mbpp.jsonl": mbpp,
    "sciknoweval_mcq/sciknoweval_chemistry_test.json": sciknoweval,
    "toolalpaca/eval_simulated.json": toolalpaca,
    "toolalpaca/eval_real.json": toolalpaca,
    "openfunctions/openfunction_test.json": openfunctions,
    "knowledge/test.jsonl": knowledge,
    "knowledge/judge_gold.jsonl": lambda: GOLD,
    "dialogue/dialogues.jsonl": dialogue,
}


def make(folder: Path) -> Path:
    for name, rows in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        listed = name in ("truthfulqa/mc_task.json", "openfunctions/openfunction_test.json") or "toolalpaca" in name
        text = json.dumps(rows()) if listed else "".join(json.dumps(row) + "\n" for row in rows())
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return folder


def hub_rows(task: str, split: str, rows: Rows) -> Rows:
    """As the hub's data set has them."""
    if task.startswith("truthfulqa"):
        return [
            {"question": row["question"]}
            | {
                key: {"choices": [*row[key].keys()], "labels": [*row[key].values()]}
                for key in ("mc1_targets", "mc2_targets")
            }
            for row in rows
        ]
    if task == "medmcqa":
        return [row | {"cop": row["cop"] - 1} for row in rows]
    if task == "mbpp":
        return [row for row in rows if 11 <= row["task_id"] <= 510]
    return rows
