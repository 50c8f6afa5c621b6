"""Bespoke Curator. argv: ROWS BASE_URL CONCURRENCY WORK

Its client builds a tokenizer whose file it would download; litellm, which it depends on, ships the same file.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

found = importlib.util.find_spec("litellm")
assert found and found.origin
os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(found.origin).parent / "litellm_core_utils" / "tokenizers")

from bespokelabs import curator  # noqa: E402
from datasets import Dataset  # noqa: E402

rows, base_url, concurrency, work = sys.argv[1:5]


class Rewriter(curator.LLM):
    def prompt(self, row):
        return f"Rewrite: {row['instruction']}\n{row['response']}"

    def parse(self, row, response):
        return [{**row, "rewritten": response}]


if __name__ == "__main__":
    limits = {"max_requests_per_minute": 10**7, "max_tokens_per_minute": 10**10, "max_retries": 3}
    backend = {"base_url": base_url, "api_key": "x", "max_concurrent_requests": int(concurrency), **limits}
    rewriter = Rewriter(model_name="fake-model", backend="openai", backend_params=backend)
    made = rewriter(Dataset.from_list([json.loads(line) for line in Path(rows).open()]))
    made.dataset.to_json(f"{work}/out.jsonl")
