"""One rewrite a row, side by side: Refinery, bare loops and the peers, against a loopback server that does no work.

    python -m tests.bench.refine_speed [--peers FOLDER] [--passes 3] [--only CASE ...] [--wait] [--table]

FOLDER holds one virtual environment a peer, as tests/bench/peers/install.py makes them; a peer that is not there is
left out. Passes are interleaved: every client once, then every client again in another order; the table gives medians
and, in brackets, the span. Every pass of a case goes to tests/bench/results/refine_speed.json as the case ends, in
place of what the case had there. `--table` prints the table of what is there and runs nothing. `--wait` starts a case
only on an idle machine (load average under 1.2).

Cases: plain (64 in flight, 0 and 50 ms), wide (256 in flight, 50 ms), refused (HTTP 429 without Retry-After), again
(the same command again, and again with a row edited), memory (20,000 and 200,000 rows), filter (filter_speed.py).
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.peers.install import PEERS, python_of, version_of
from tests.bench.peers.measure import measure, serving
from tests.bench.peers.rows import write_rows

RESULTS = Path(__file__).parent / "results" / "refine_speed.json"
OURS = ("refinery", "floor", "openai")
"""Measured with the interpreter that runs this."""
LABELS = {"floor": "bare loop (aiohttp)", "openai": "bare loop (openai client)", "refinery": "**Refinery**"}
FAST = ("refinery", "floor", "openai", "datatrove")
SLOW = ("curator", "designer", "distilabel")
IDLE = 1.2

Row = dict[str, Any]


class Bench:
    """What all cases share: where the peers are, how many passes, where the rows are written."""

    def __init__(self, peers: Path | None, passes: int, folder: Path):
        self.peers, self.passes, self.folder = peers, passes, folder

    def python(self, name: str) -> str | None:
        if name in OURS:
            return sys.executable
        found = python_of(self.peers, name) if self.peers else None
        return str(found.absolute()) if found and found.exists() else None

    def rows(self, count: int, words: int = 120) -> Path:
        path = self.folder / f"rows_{count}_{words}.jsonl"
        if not path.exists():
            write_rows(path, count, words)
        return path

    def each(self, names: Iterable[str], *, latency: int, rows: Path, flight: int, refuse: int = 0) -> list[Row]:
        """`passes` interleaved passes of every client that is here."""
        here = [name for name in names if self.python(name)]
        found = []
        options = ["--latency-ms", str(latency), "--refuse-every", str(refuse)]
        for number in range(self.passes):
            for name in random.Random(number).sample(here, len(here)):
                with serving(*options) as server:
                    one = measure(str(self.python(name)), name, rows, server, flight)
                setting = {"latency_ms": latency, "in_flight": flight, "refuse_every": refuse}
                found.append(told({**setting, **one.as_dict()}))
        return found


def told(row: Row) -> Row:
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


# ---- cases


def plain(bench: Bench) -> list[Row]:
    found = []
    for latency in (0, 50):
        found += bench.each((*FAST, *SLOW), latency=latency, rows=bench.rows(5000), flight=64)
        found += bench.each(FAST, latency=latency, rows=bench.rows(20000), flight=64)
    return found


def wide(bench: Bench) -> list[Row]:
    names = ("refinery", "floor", "datatrove")
    counts = (5000, 20000)
    return [row for n in counts for row in bench.each(names, latency=50, rows=bench.rows(n), flight=256)]


def refused(bench: Bench) -> list[Row]:
    names, rows = ("refinery", "curator"), bench.rows(2000)
    return [row for k in (50, 10) for row in bench.each(names, latency=50, rows=rows, flight=64, refuse=k)]


def again(bench: Bench) -> list[Row]:
    """The same command on what a run of 20,000 rows has left; then with one row edited."""
    found = []
    for _ in range(bench.passes):
        with tempfile.TemporaryDirectory() as name, serving() as server:
            work, rows = Path(name), Path(name, "rows.jsonl")
            rows.write_bytes(bench.rows(20000).read_bytes())
            for what in ("first", "again", "edited"):
                if what == "edited":
                    rows.write_text(rows.read_text().replace("#7777", "#7777 edited", 1))
                one = measure(sys.executable, "refinery", rows, server, 64, work=work)
                found.append(told({"what": what, **one.as_dict()}))
    return found


def memory(bench: Bench) -> list[Row]:
    """Rows of 30 words, so that ten times as many do not take ten times as long."""
    counts = (20000, 200000)
    return [row for n in counts for row in bench.each(["refinery"], latency=0, rows=bench.rows(n, 30), flight=64)]


def filter_(bench: Bench) -> list[Row]:
    command = [sys.executable, "-m", "tests.bench.filter_speed", "--passes", str(bench.passes)]
    return [told(json.loads(subprocess.check_output(command, text=True)))]


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "plain": plain,
    "wide": wide,
    "refused": refused,
    "again": again,
    "memory": memory,
    "filter": filter_,
}


# ---- the table


def middle(rows: Sequence[Row], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def spanned(rows: Sequence[Row], key: str, digits: int = 0) -> str:
    values = [row[key] for row in rows]
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def lines(heads: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (heads, rule, *body)]


def speed_table(rows: Iterable[Row]) -> list[str]:
    """One table for each setting, the fastest client first."""
    found: list[str] = []
    settings = ("latency_ms", "in_flight", "refuse_every", "rows")
    for (latency, flight, refuse, count), here in grouped(rows, *settings).items():
        ours = middle([row for row in here if row["name"] == "refinery"], "rows_s")
        every = f", every {refuse}th request refused" if refuse else ""
        heads = [f"{count:,} rows, {latency} ms, {flight} in flight{every}", "rows/s, whole process", "Refinery is"]
        heads += ["rows/s, first request to last", "most in flight", "peak memory, MB", "CPU, s", "passes"]
        body = []
        for (name,), passes in sorted(grouped(here, "name").items(), key=lambda pair: -middle(pair[1], "rows_s")):
            speed = middle(passes, "rows_s")
            body.append(
                [
                    LABELS.get(name, name),
                    spanned(passes, "rows_s"),
                    f"{ours / speed:.2f} x" if speed else "failed",
                    f"{middle(passes, 'window_rows_s'):,.0f}",
                    f"{middle(passes, 'peak_in_flight'):.0f}",
                    f"{middle(passes, 'pss_mb'):.0f}",
                    f"{middle(passes, 'cpu'):.1f}",
                    str(len(passes)),
                ]
            )
        found += [*lines(heads, body), ""]
    return found


def again_table(rows: Iterable[Row]) -> list[str]:
    heads = ["20,000 rows, 0 ms", "seconds, whole process", "requests", "peak memory, MB"]
    body = [
        [what, spanned(here, "wall", 2), f"{middle(here, 'requests'):,.0f}", f"{middle(here, 'pss_mb'):.0f}"]
        for (what,), here in grouped(rows, "what").items()
    ]
    return [*lines(heads, body), ""]


def memory_table(rows: Iterable[Row]) -> list[str]:
    heads = ["rows of 30 words, 0 ms", "peak memory, MB", "rows/s, whole process", "CPU, s"]
    body = [
        [f"{count:,}", spanned(here, "pss_mb"), f"{middle(here, 'rows_s'):,.0f}", f"{middle(here, 'cpu'):.0f}"]
        for (count,), here in grouped(rows, "rows").items()
    ]
    return [*lines(heads, body), ""]


def filter_table(found: Iterable[Row]) -> list[str]:
    heads = ["semantic_filter, 100 words a text", "filter, s", "encoder alone, s", "ratio"]
    body = [
        [f"{rows:,} rows", spanned(passes, "filter", 2), spanned(passes, "bare", 2), f"{ratio:.2f}"]
        for rows, passes, ratio in ((each["rows"], each["passes"], each["ratio"]) for each in found)
    ]
    return [*lines(heads, body), ""]


TABLES = {"again": again_table, "memory": memory_table, "filter": filter_table}


def table(results: Row) -> str:
    found = [line for case in results["cases"] for line in TABLES.get(case, speed_table)(results["cases"][case])]
    return "\n".join(found)


# ---- the command


def machine(peers: Path | None) -> Row:
    here = {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.machine()}
    versions = {name: version_of(peers, name) for name in PEERS if peers and python_of(peers, name).exists()}
    return {**here, "peers": versions}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    results: Row = json.loads(args.results.read_text()) if args.results.exists() else {"cases": {}}
    if not args.table:
        results["machine"] = machine(args.peers)
        for case in args.only:
            while args.wait and os.getloadavg()[0] > IDLE:
                time.sleep(5)
            with tempfile.TemporaryDirectory() as folder:
                results["cases"][case] = CASES[case](Bench(args.peers, args.passes, Path(folder)))
            args.results.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
