"""A report's tables as LaTeX: one file to \\input, which needs the packages booktabs and graphicx.

Nothing in a cell is LaTeX: row texts and names come from strangers, and every character that means something to it is
written out. Characters beyond what pdflatex's usual fonts know are left to the document (utf8 input, or lualatex).
"""

import re
from collections.abc import Sequence

from reports.blocks import Block, Mono, Span, Strong, Text, spans
from reports.listing import Named, tables
from reports.text import clean

_SMALL = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi - pi rho varsigma sigma tau upsilon phi "
    "chi psi omega"
).split()
_CAPITAL = "- - Gamma Delta - - - Theta - - Lambda - - Xi - Pi - - Sigma - Upsilon Phi - Psi Omega".split()
_GREEK = {chr(first + n): rf"$\{name}$" for first, names in ((0x3B1, _SMALL), (0x391, _CAPITAL))
          for n, name in enumerate(names) if name != "-"}  # fmt: skip
"""Those that look Latin have no command."""

_SPECIAL = _GREEK | {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\char34{}", "`": r"\textasciigrave{}", "−": "$-$", "–": "--", "—": "---",
    "×": r"$\times$", "≤": r"$\leq$", "≥": r"$\geq$", "±": r"$\pm$", "→": r"$\rightarrow$", "∞": r"$\infty$",
    "…": r"\ldots{}", "’": "'", "“": "``", "”": "''", "²": r"\textsuperscript{2}",
}  # fmt: skip
_ANY = re.compile("|".join(map(re.escape, _SPECIAL)))
WIDE = 7
"""Columns from which on a table is scaled to the line's width."""


def render(title: str, blocks: Sequence[Block]) -> str:
    """Every table of the report, each in its own float with its label."""
    head = f"% Tables of: {_one_line(title)}\n% Needs: \\usepackage{{booktabs,graphicx}}\n"
    return head + "\n" + "\n".join(_table(named) for named in tables(blocks))


def escape(text: str) -> str:
    """Plain text that LaTeX sets as it stands, on one line."""
    return _ANY.sub(lambda found: _SPECIAL[found[0]], _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(clean(text).split())


def inline(text: Text) -> str:
    return "".join(_span(span) for span in spans(text))


def _span(span: Span) -> str:
    if isinstance(span, str):
        lead, tail = (" " if span[:1].isspace() else ""), (" " if span[-1:].isspace() and span.strip() else "")
        return lead + escape(span) + tail
    if isinstance(span, Mono):
        return rf"\texttt{{{escape(span.text)}}}"
    return rf"\textbf{{{escape(span.text)}}}" if isinstance(span, Strong) else escape(span.text)


def _table(named: Named) -> str:
    table = named.table
    align = "".join("r" if column.align == "right" else "l" for column in table.columns)
    lines = [" & ".join(_guarded(escape(column.title)) for column in table.columns) + r" \\", r"\midrule"]
    lines += [" & ".join(_guarded(inline(cell)) for cell in row) + r" \\" for row in table.rows]
    body = "\n".join([rf"\begin{{tabular}}{{{align}}}", r"\toprule", *lines, r"\bottomrule", r"\end{tabular}"])
    if len(table.columns) >= WIDE:
        body = f"\\resizebox{{\\linewidth}}{{!}}{{%\n{body}}}"
    caption = escape(": ".join(dict.fromkeys(filter(None, (named.section, named.title)))))
    note = f"\n\\par\\footnotesize {escape(table.note)}" if table.note else ""
    return (
        f"\\begin{{table}}\n\\centering\\small\n\\caption{{{caption}}}\n\\label{{tab:{named.name}}}\n{body}{note}\n"
        "\\end{table}\n"
    )


def _guarded(cell: str) -> str:
    """A bracket or star that opens a cell would be taken for an argument of the rule or row's end before it."""
    return f"{{}}{cell}" if cell.startswith(("[", "*")) else cell
