"""Proper names and quoted texts, by a plain rule made for English, to see whether a rewrite kept them.

- A quoted text is what stands between “ ”, " ", « », „ “ or backticks on one line, up to 100 characters.
- A name is a run of capitalised words; of, de, von and the like may stand inside it. A function word that opens the
  run ("In Paris", "The Hague") is not part of it. A single word that opens a sentence or line is a name only where it
  has a capital or digit inside (NASA, GPT-4) or stands capitalised within a sentence elsewhere in the text.

So a one-word name that only ever opens sentences is missed, a headline in Title Case counts as one long name, German
nouns all count, and scripts without capitals have quoted texts alone.
"""

import re

_QUOTED = re.compile(r"“([^”\n]{1,100})”|\"([^\"\n]{1,100})\"|«([^»\n]{1,100})»|„([^“\n]{1,100})“|`([^`\n]{1,100})`")
_WORD = re.compile(r"[^\W_][\w'’&.-]*[^\W_]|[^\W_]")
_INSIDE = frozenset("of the de la le du des del da di van von der den".split())
_FUNCTION = frozenset(
    "a an the this that these those it its he she they we you i his her their our your my in on at by for from to of "
    "with as and or but if when while after before since because although though so then there here what who which "
    "where why how is are was were be do does did has have had can could will would should may might must not no yes "
    "also however therefore thus first second third finally next once both each every all some many most more one two "
    "three let's let please note answer question".split()
)


def read(text: str) -> frozenset[tuple[str, ...]]:
    """Every name and quoted text, as words."""
    quoted = [next(group for group in match if group) for match in _QUOTED.findall(text)]
    found = {tuple(_words(piece)) for piece in [*quoted, *_names(text)]}
    return frozenset(found - {()})


def shares(candidate: str, reference: str) -> tuple[float | None, float | None]:
    """(recall, precision): the share of one text's names whose words stand in a row, in any case, in the other text;
    None where it has none."""
    return _share(reference, candidate), _share(candidate, reference)


def _share(of: str, within: str) -> float | None:
    found = read(of)
    line = f" {' '.join(_words(within))} "
    return sum(f" {' '.join(name)} " in line for name in found) / len(found) if found else None


def _words(text: str) -> list[str]:
    """Casefolded, without a possessive 's."""
    return [re.sub(r"['’]s$", "", word.casefold()) for word in _WORD.findall(text)]


def _names(text: str) -> list[str]:
    runs = _runs(text)
    inside = {word for run, opens in runs for word in run[opens:]}
    names = []
    for run, opens in runs:
        while run and run[0].casefold() in _FUNCTION and not _is_marked(run[0]):
            run, opens = run[1:], False
        certain = len(run) > 1 or (run and (not opens or _is_marked(run[0]) or run[0] in inside))
        if certain and (len(run) > 1 or len(run[0]) > 1):
            names.append(" ".join(run))
    return names


def _is_marked(word: str) -> bool:
    """A capital or digit after the first letter."""
    return any(char.isupper() or char.isdigit() for char in word[1:])


def _runs(text: str) -> list[tuple[list[str], bool]]:
    """Runs of capitalised words, each with whether its first word opens a sentence or line."""
    runs: list[tuple[list[str], bool]] = []
    run: list[str] = []
    waiting: list[str] = []
    opens, end, marked = False, 0, False
    for match in _WORD.finditer(text):
        word, gap = match.group(), text[end : match.start()]
        starts = end == 0 or marked or any(mark in gap for mark in "\n.!?:") or gap[-1:] in '“"«„*'
        marked = starts and word.isdigit()  # "1) Cost of living": the number of a list opens nothing
        if run and (starts or gap.strip()):
            runs.append((run, opens))
            run, waiting = [], []
        if word[0].isupper():
            opens = starts if not run else opens
            run, waiting = [*run, *waiting, word], []
        elif run and word in _INSIDE:
            waiting.append(word)
        elif run:
            runs.append((run, opens))
            run, waiting = [], []
        end = match.end()
    return [*runs, (run, opens)] if run else runs
