"""distilabel. It gathers batch by batch, so the batch is what is in flight. argv: ROWS BASE_URL CONCURRENCY WORK"""

import json
import sys
from pathlib import Path

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration

rows, base_url, concurrency, work = sys.argv[1:5]

if __name__ == "__main__":
    data = [json.loads(line) for line in Path(rows).open()]
    for row in data:
        row["instruction"] = f"Rewrite: {row['instruction']}\n{row['response']}"
    batch = int(concurrency)
    model = OpenAILLM(model="fake-model", base_url=base_url, api_key="x", generation_kwargs={"max_new_tokens": 512})
    with Pipeline("bench", cache_dir=f"{work}/cache") as pipeline:
        load = LoadDataFromDicts(data=data, batch_size=batch)
        load >> TextGeneration(llm=model, input_batch_size=batch, add_raw_output=False)
    made = pipeline.run(use_cache=False)
    made["default"]["train"].to_json(f"{work}/out.jsonl")
