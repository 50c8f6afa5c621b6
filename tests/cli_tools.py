"""The command line in this process: what it printed, what it said on stderr, and its exit code."""

import contextlib
import io
import json
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from refinery.cli import main

SPEC = """
name: small
models:
  self: {{backend: openai, model: writer, base_url: "{url}", retries: 0, timeout: 20}}
  judge: {{backend: openai, model: judge, base_url: "{url}", retries: 0, timeout: 20}}
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
graph:
  rewritten: {{op: rewrite, from: source, samples: 2, prompt: "{{{{ question }}}} Known: {{{{ answer }}}}"}}
  agrees: {{op: check_answer, from: rewritten, kind: last_word}}
  fused:
    op: fuse
    from: agrees
    rounds: 2
    judges: [{{model: judge}}]
    prompt: "{{{{ question }}}} {{{{ rewrite }}}} {{{{ answer }}}}"
"""


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def call(*args: str) -> Done:
    """`refinery ARGS`, without the diagnostics after refine, which load an encoder."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", ["refinery", *args]),
        mock.patch.dict("os.environ", {"COLUMNS": "80"}),
        mock.patch("refinery.cli.run._diagnose"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
    return Done(code, out.getvalue(), err.getvalue())


def project(folder: Path, url: str, rows: int = 20, spec: str = SPEC) -> Path:
    """A spec and its rows in `folder`, which should be the current one."""
    lines = [
        {"question": f"What does rule {n} of the clinic say of Sundays?", "answer": f"Rule {n} asks for code {n * 7}"}
        for n in range(rows)
    ]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    path = folder / "spec.yaml"
    path.write_text(spec.format(url=url))
    return path
