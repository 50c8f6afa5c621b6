"""The floor: a loop over aiohttp with so many workers, JSONL in, JSONL out, nothing kept but the answer.

argv: ROWS BASE_URL CONCURRENCY WORK
"""

import asyncio
import json
import sys
from pathlib import Path

import aiohttp

rows, base_url, concurrency, work = sys.argv[1:5]


async def main() -> None:
    waiting = iter([json.loads(line) for line in Path(rows).open()])
    connector = aiohttp.TCPConnector(limit=int(concurrency))
    with Path(work, "out.jsonl").open("w") as out:
        async with aiohttp.ClientSession(connector=connector) as session:

            async def worker() -> None:
                for row in waiting:
                    content = f"Rewrite: {row['instruction']}\n{row['response']}"
                    body = {"model": "fake-model", "messages": [{"role": "user", "content": content}]}
                    async with session.post(f"{base_url}/chat/completions", json=body) as response:
                        reply = await response.json()
                    out.write(json.dumps({**row, "rewritten": reply["choices"][0]["message"]["content"]}) + "\n")

            await asyncio.gather(*(worker() for _ in range(int(concurrency))))


asyncio.run(main())
