"""datatrove's InferenceRunner against an endpoint, without its request cache (whose writer commits row by row).

argv: ROWS BASE_URL CONCURRENCY WORK
"""

import json
import sys
from pathlib import Path

from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter

rows, base_url, concurrency, work = sys.argv[1:5]


async def rollout(document, generate):
    return await generate({"messages": [{"role": "user", "content": document.text}]})


def document(row: dict) -> Document:
    return Document(text=f"Rewrite: {row['instruction']}\n{row['response']}", id=str(row["id"]), metadata=row)


if __name__ == "__main__":
    config = InferenceConfig(
        server_type="endpoint",
        endpoint_url=base_url.removesuffix("/v1"),
        api_key="x",
        model_name_or_path="fake-model",
        max_concurrent_generations=int(concurrency),
        metric_interval=3600,
    )
    writer = JsonlWriter(f"{work}/written", output_filename="${rank}.jsonl", compression=None)
    runner = InferenceRunner(rollout_fn=rollout, config=config, output_writer=writer)
    documents = [document(json.loads(line)) for line in Path(rows).open()]
    LocalPipelineExecutor(pipeline=[documents, runner], logging_dir=f"{work}/logs", tasks=1).run()
    with Path(work, "out.jsonl").open("wb") as out:
        for path in sorted(Path(work, "written").glob("*.jsonl")):
            out.write(path.read_bytes())
