"""Rows to rewrite: JSONL of {id, instruction, response}, the same for the same arguments.

    python tests/bench/peers/rows.py 5000 rows.jsonl [--words 120]

`--words` in each row, a third of them in the instruction; 120 make a row of about 0.8 kB.
"""

import argparse
import json
import random
from pathlib import Path

WORDS = "the quick brown fox jumps over lazy dog model data gradient loss token question answer because therefore"


def write_rows(path: Path, rows: int, words: int = 120) -> None:
    draw = random.Random(0)
    vocabulary = WORDS.split()
    with path.open("w", encoding="utf-8") as file:
        for i in range(rows):
            instruction = " ".join(draw.choices(vocabulary, k=words // 3)) + f" #{i}"
            response = " ".join(draw.choices(vocabulary, k=words - words // 3))
            file.write(json.dumps({"id": i, "instruction": instruction, "response": response}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int)
    parser.add_argument("path", type=Path)
    parser.add_argument("--words", type=int, default=120)
    args = parser.parse_args()
    write_rows(args.path, args.rows, args.words)
