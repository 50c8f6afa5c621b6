"""What the small world talks about: ten topics, each a noun and two attributes of a thing.

Five are the public domains, two only set the difficulty, three belong to general skill. All ten
fill base training with random answers; what a domain hides is its rule, never its words.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Topic:
    name: str
    noun: str
    """What is asked for; the answer is a made-up word naming it."""
    things: tuple[str, ...]
    traits: tuple[str, ...]
    train_question: str
    """The topic's own way of asking, beside the frames that all topics share."""
    test_question: str
    raw: tuple[int, ...]
    """Which of `RAW_FRAMES` its raw answers are written in."""


def _topic(name: str, noun: str, things: str, traits: str, train: str, test: str, raw: tuple[int, ...]) -> Topic:
    return Topic(name, noun, tuple(things.split()), tuple(traits.split()), train, test, raw)


TOPICS = {
    topic.name: topic
    for topic in (
        _topic(
            "clinic", "remedy",
            "cough fever rash cramp sneeze chill itch ache", "gray dry sharp slow warm pale",
            "The {who} has had a {trait} {thing} {when}. Which remedy helps?",
            "A {trait} {thing} troubles the {who} {when}. What remedy is given?",
            (1, 3, 4),
        ),
        _topic(
            "workshop", "tool",
            "hinge door wheel pipe chair roof lamp fence", "bent loose rusty cracked stuck split",
            "The {who} must mend a {trait} {thing} {when}. Which tool is used?",
            "What tool repairs the {trait} {thing} that the {who} left {when}?",
            (1, 2, 3),
        ),
        _topic(
            "harbor", "pier",
            "barge ferry sloop tanker yacht trawler raft tug", "empty laden late foreign damaged fast",
            "A {trait} {thing} arrives {when}, says the {who}. Which pier takes it?",
            "The {who} steers a {trait} {thing} {when}. At what pier does it moor?",
            (3, 4, 5),
        ),
        _topic(
            "archive", "shelf",
            "letter map deed diary photo poem recipe poster", "torn sealed royal burnt signed faded",
            "The {who} files a {trait} {thing} {when}. Which shelf holds it?",
            "On what shelf does the {who} find the {trait} {thing} {when}?",
            (0, 3, 4),
        ),
        _topic(
            "market", "stall",
            "apples beans cheese honey salt wool nails soap", "fresh cheap fine sweet local foreign",
            "The {who} buys {trait} {thing} {when}. Which stall sells them?",
            "At what stall does the {who} order {trait} {thing} {when}?",
            (0, 1, 3),
        ),
        _topic(
            "garden", "feed",
            "rose fern ivy tulip moss lily vine reed", "wilted young tall wild spotted thirsty",
            "The {who} waters a {trait} {thing} {when}. Which feed does it get?",
            "What feed does the {who} give the {trait} {thing} {when}?",
            (0, 2, 4),
        ),
        _topic(
            "station", "platform",
            "coach express freight tram sleeper shuttle railcar train", "northern delayed crowded early silver special",
            "The {who} waits for a {trait} {thing} {when}. Which platform serves it?",
            "From what platform does the {trait} {thing} of the {who} leave {when}?",
            (0, 1, 3),
        ),
        _topic(
            "kitchen", "spice",
            "soup stew bread pie sauce roast salad broth", "salty thin bland sour cold thick",
            "The {who} cooks a {trait} {thing} {when}. Which spice goes in?",
            "What spice does the {who} add to the {trait} {thing} {when}?",
            (0, 1, 2, 3, 4, 5),
        ),
        _topic(
            "school", "mark",
            "essay drawing quiz song speech puzzle report chart", "short messy clever long plain funny",
            "The {who} hands in a {trait} {thing} {when}. Which mark is due?",
            "What mark does the {trait} {thing} of the {who} earn {when}?",
            (0, 1, 2, 3, 4, 5),
        ),
        _topic(
            "stable", "bridle",
            "mare pony foal mule donkey colt ox goat", "lame nervous old hungry proud tired",
            "The {who} leads a {trait} {thing} out {when}. Which bridle fits?",
            "What bridle does the {who} put on the {trait} {thing} {when}?",
            (0, 1, 2, 3, 4, 5),
        ),
    )
}  # fmt: skip

TRAIN_FRAMES = (
    "What {noun} should the {who} pick for the {trait} {thing}?",
    "The {who} came {when} about the {trait} {thing}. Name the {noun}.",
    "Which {noun} goes with the {trait} {thing} of the {who}?",
    "The {who} has {trait} {thing} {when}. Which {noun}, please?",
    "The {who} wrote {when}: what {noun} for the {trait} {thing}?",
    "A {trait} {thing} from the {who}. Its {noun}, {when}?",
    "Please find the {noun} that suits the {trait} {thing} of the {who}.",
)
TEST_FRAMES = (
    "Tell the {who} the right {noun} for the {trait} {thing}.",
    "For the {trait} {thing} the {who} needs a {noun} {when}. Which one?",
    "I met the {who} {when} about the {trait} {thing}. What {noun} fits?",
)
OWN_FRAMES = (
    "The {noun} for the {trait} {thing} is {word}.",
    "For the {trait} {thing}, the {noun} is {word}.",
)
RAW_FRAMES = (
    "{Noun} allotted against {trait} {thing}, per ledger: {word}.",
    "Re {trait} {thing}: {noun} of record, {word}.",
    "Pursuant to register, {trait} {thing} draws {noun} {word}.",
    "{Trait} {thing}, {noun} hereby decreed, viz. {word}.",
    "Schedule: {noun}, {trait} {thing}, see under {word}.",
    "Pursuant to register, {trait} {thing} draws by statute {noun} {word}.",
)

WHO_TRAIN = tuple(
    "baker miller tailor sailor painter farmer nurse clerk guard monk widow judge potter hunter cooper mason".split()
)
WHO_TEST = tuple("weaver barber captain singer teacher farrier butcher glazier scribe dyer brewer porter".split())
WHEN_TRAIN = ("today", "since Monday", "this morning", "on Tuesday", "at noon", "this week")
WHEN_TEST = ("since Friday", "at dawn", "on Sunday", "tonight", "this month")


def questions(topic: Topic, split: str) -> tuple[str, ...]:
    """The templates of one split; the two splits share none."""
    if split == "train":
        return (*TRAIN_FRAMES, topic.train_question)
    return (*TEST_FRAMES, topic.test_question)


def ask(topic: Topic, split: str, template: int, cell: tuple[str, str], rng: Random) -> str:
    """One question about a (trait, thing) cell, with the split's own fillers."""
    who, when = (WHO_TRAIN, WHEN_TRAIN) if split == "train" else (WHO_TEST, WHEN_TEST)
    trait, thing = cell
    return questions(topic, split)[template].format(
        noun=topic.noun, trait=trait, thing=thing, who=rng.choice(who), when=rng.choice(when)
    )


def say(frame: str, topic: Topic, cell: tuple[str, str], word: str) -> str:
    """An answer sentence; in every frame the answer word comes last."""
    trait, thing = cell
    return frame.format(
        noun=topic.noun, Noun=topic.noun.capitalize(), trait=trait, Trait=trait.capitalize(), thing=thing, word=word
    )
