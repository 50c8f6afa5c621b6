"""The same loop as run_floor.py through the official client. argv: ROWS BASE_URL CONCURRENCY WORK"""

import asyncio
import json
import sys
from pathlib import Path

from openai import AsyncOpenAI

rows, base_url, concurrency, work = sys.argv[1:5]


async def main() -> None:
    waiting = iter([json.loads(line) for line in Path(rows).open()])
    client = AsyncOpenAI(base_url=base_url, api_key="x")
    with Path(work, "out.jsonl").open("w") as out:

        async def worker() -> None:
            for row in waiting:
                content = f"Rewrite: {row['instruction']}\n{row['response']}"
                messages = [{"role": "user", "content": content}]
                reply = await client.chat.completions.create(model="fake-model", messages=messages)
                out.write(json.dumps({**row, "rewritten": reply.choices[0].message.content}) + "\n")

        await asyncio.gather(*(worker() for _ in range(int(concurrency))))


asyncio.run(main())
