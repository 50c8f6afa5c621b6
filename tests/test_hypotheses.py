"""Which verdict follows from which figures, and that the committed pages are what the committed results give."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.bench import hypotheses
from tests.bench.hypotheses import HYPOTHESES, TABLES, Figure, decided, state, verdict
from tests.bench.table_lines import packed, read

GENERAL = ("lab_facts", "lab_sums")
ITEMS = tuple(str(n) for n in range(200))


def line(method, seed, domain, general, **more):
    """Of a checkpoint that gets these shares right; which ones is up to its name and seed, easy ones first."""
    rng = np.random.default_rng([sum(map(ord, method)), 99 if seed is None else seed])

    def scored(kind, share):
        ease = np.linspace(0, 1, len(ITEMS)) + 0.05 * rng.standard_normal(len(ITEMS))
        return packed(kind, ITEMS, (np.argsort(np.argsort(ease)) < share * len(ITEMS)).astype(float))

    right = {"lab_clinic": scored("domain", domain), **{name: scored("general", general) for name in GENERAL}}
    found = {"domain": "clinic", "method": method, "seed": seed, "checkpoint": f"{method}-{seed}", "chosen": {}}
    return {**found, "seconds": 1.0, "logged": {}, "right": right, **more}


def table(seeds=3, **methods):
    """Method to (domain, general), or to (domain, general, further parts of its lines)."""
    found = [line("base", None, 0.0, 1.0)]
    for name, (domain, general, *more) in methods.items():
        found += [line(name, seed, domain, general, **(more[0] if more else {})) for seed in range(seeds)]
    return found


def found(name, **tables):
    hypothesis = next(each for each in HYPOTHESES if each.name == name)
    return decided(hypothesis, {each: tables.get(each, []) for each in TABLES})[0]


@pytest.mark.parametrize(
    ("interval", "rule", "bound", "expected"),
    [
        ((0.01, 0.05), "above", 0.0, "holds"),
        ((-0.01, 0.05), "above", 0.0, "open"),
        ((-0.05, -0.01), "above", 0.0, "fails"),
        ((0.01, 0.05), "above", 0.05, "fails"),
        ((-0.05, -0.01), "below", 0.0, "holds"),
        ((-0.05, 0.01), "below", 0.0, "open"),
        ((0.01, 0.05), "below", 0.0, "fails"),
        ((-0.04, 0.04), "within", 0.05, "holds"),
        ((-0.04, 0.06), "within", 0.05, "open"),
        ((0.05, 0.09), "within", 0.05, "fails"),
        ((-0.09, -0.06), "within", 0.05, "fails"),
        ((float("nan"), float("nan")), "above", 0.0, "open"),
    ],
)
def test_a_test_is_decided_by_its_interval(interval, rule, bound, expected) -> None:
    figure = Figure(sum(interval) / 2, *interval, "", 3)
    assert state(figure, figure, rule, bound) == expected
    assert state(Figure(*([figure.value, *interval]), "", 2), figure, rule, bound) == "too few seeds"
    assert state(None, None, rule, bound) == "missing"


def test_it_fails_only_at_the_confidence_for_all_tests_together() -> None:
    narrow, wide = Figure(-0.03, -0.05, -0.01, "", 3), Figure(-0.03, -0.07, 0.01, "", 3)
    assert state(narrow, narrow, "above", 0.0) == "fails"
    assert state(narrow, wide, "above", 0.0) == "open"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (["holds", "holds"], "supported"),
        (["holds", "open"], "cannot decide"),
        (["holds", "too few seeds"], "cannot decide"),
        (["holds", "missing"], "not run"),
        (["missing", "fails"], "contradicted"),
        (["holds", "fails"], "contradicted"),
    ],
)
def test_the_verdict_of_several_tests(states, expected) -> None:
    assert verdict(states) == expected


def test_a_difference_in_scores() -> None:
    better, worse = (0.9, 0.9), (0.6, 0.7)
    assert found("H1", main=table(raft=better, sft_raw=worse)) == "supported"
    assert found("H1", main=table(raft=worse, sft_raw=better)) == "contradicted"
    assert found("H1", main=table(raft=(0.9, 0.7), sft_raw=(0.6, 0.7))) == "cannot decide"
    assert found("H1", main=table(raft=better, sft_raw=worse, seeds=2)) == "cannot decide"
    assert found("H1", main=table(sft_raw=worse)) == "not run"


def test_a_difference_of_differences() -> None:
    small, large = {"sft_raw": (0.5, 0.5), "sft_fused": (0.6, 0.6)}, {"raft": (0.95, 0.95)}
    assert found("H2", raft=table(**small, **large)) == "supported"
    assert found("H2", raft=table(**small, raft=(0.62, 0.62))) == "contradicted"


def test_an_order_with_a_placebo() -> None:
    rising = {"kl_fused": (0.4, 0.4), "shown_raw": (0.6, 0.6), "raft": (0.8, 0.8)}
    assert found("H3", raft=table(**rising, shown_shuffled=(0.1, 0.4))) == "supported"
    assert found("H3", raft=table(**rising, shown_shuffled=(0.6, 0.4))) == "contradicted"
    assert found("H3", raft=table(**rising)) == "not run"


def test_a_ratio_of_losses_and_not_being_worse() -> None:
    def balanced(ce):
        return {"logged": {"sft_loss": ce, "kl_loss": 0.1, "lambda": 5.0}}

    fixed = dict.fromkeys(("fixed_0.1", "fixed_1", "fixed_10"), (0.8, 0.8))
    assert found("H4", raft=table(**fixed, raft=(0.8, 0.8, balanced(0.5)))) == "supported"
    assert found("H4", raft=table(**fixed, raft=(0.8, 0.8, balanced(5.0)))) == "contradicted"
    assert found("H4", raft=table(**fixed, raft=(0.6, 0.6, balanced(0.5)))) == "contradicted"


def test_no_difference() -> None:
    same = {"k64_bucket": (0.8, 0.8), "k512_bucket": (0.8, 0.8)}
    assert found("H5", raft=table(**same)) == "supported"
    assert found("H5", raft=table(**{**same, "k512_bucket": (0.95, 0.8)})) == "contradicted"
    assert found("H5", raft=table(**{**same, "k512_bucket": (0.85, 0.8)})) == "cannot decide"


def test_both_presets_of_self_distillation() -> None:
    main = table(sft_raw=(0.9, 0.7), sdft_paper=(0.0, 0.98), sdft_released=(0.95, 0.95))
    others = {"sdft": table(sdft_blind=(0.0, 1.0)), "knowledge": table(sdft_answer=(0.95, 0.9), sdft_text=(0.3, 0.9))}
    assert found("H6 (paper)", main=main) == "contradicted"  # it keeps all and learns nothing
    assert found("H6 (released)", main=main, **others) == "supported"
    assert found("H6 (released)", main=main) == "not run"
    assert found("H6 (released)", main=main, **{**others, "sdft": table(sdft_blind=(0.4, 1.0))}) == "contradicted"


def test_likelihood_of_the_rows_at_equal_accuracy() -> None:
    """General skill falls by a tenth for each nat, and rises with domain accuracy: only the first is asked for."""

    def rows(slope):
        rng, made = np.random.default_rng(1), {}
        for number in range(10):
            nll, domain = 1 + number % 5, 0.5 + 0.04 * (number // 2)
            general = 0.6 + slope * nll + 0.3 * domain + 0.005 * rng.standard_normal()
            made[f"data_{number}"] = (domain, general, {"data": {"nll": nll}})
        return made

    def split(slope):
        made = list(rows(slope).items())
        return {"agent": table(**dict(made[:5])), "dart": table(**dict(made[5:]))}

    assert found("H7", **split(-0.1)) == "supported"
    assert found("H7", **split(0.03)) == "contradicted"
    assert found("H7", agent=table(**rows(-0.1))) == "not run"


def test_what_explains_forgetting() -> None:
    def tables(noise):
        rng, made = np.random.default_rng(3), []
        for number in range(24):
            kl = number / 8
            lost = 0.1 * kl * (1 - noise) + 0.3 * noise * rng.random()
            made.append((f"m{number}", (0.5, 1 - lost, {"logged": {"forward_kl": kl}})))
        return {name: table(**dict(made[8 * i : 8 * i + 8])) for i, name in enumerate(("main", "methods", "sdft"))}

    assert found("H8", **tables(0.0)) == "supported"
    assert found("H8", **tables(1.0)) == "contradicted"
    assert found("H8", main=tables(0.0)["main"]) == "not run"


def test_a_reward_that_does_nothing() -> None:
    def rows(bleu):
        return {"data": {"self_bleu": bleu}}

    assert found("H9", agent=table(agent=(0.8, 0.8, rows(60)), no_diversity=(0.8, 0.8, rows(61)))) == "supported"
    assert found("H9", agent=table(agent=(0.8, 0.8, rows(40)), no_diversity=(0.8, 0.8, rows(61)))) == "contradicted"


def test_a_rewriter_against_its_controls() -> None:
    controls = {"prompted": (0.7, 0.7), "best_of_n": (0.75, 0.75)}
    assert found("H10 (public)", dart=table(**controls, dart_public=(0.9, 0.9))) == "supported"
    assert found("H10 (public)", dart=table(**controls, dart_public=(0.7, 0.65))) == "contradicted"
    assert found("H10 (robust)", dart=table(**controls, dart_public=(0.9, 0.9))) == "not run"


def test_every_hypothesis_stands_there() -> None:
    numbers = [re.match(r"H\d+", each.name)[0] for each in HYPOTHESES]
    assert list(dict.fromkeys(numbers)) == [f"H{n}" for n in range(1, 11)]


@pytest.mark.parametrize(("path", "make"), [(hypotheses.PAGE, hypotheses.page), (hypotheses.INDEX, hypotheses.index)])
def test_the_committed_pages_are_of_the_committed_results(path: Path, make) -> None:
    """Word by word; numbers to a few units of their last digit, which resampling on another machine may move."""
    number = re.compile(r"[-+]?\d[\d,]*\.?\d*")
    there, wanted = path.read_text("utf-8"), make({name: read(name) for name in TABLES})
    assert number.sub("0", there) == number.sub("0", wanted), "run `python -m tests.bench.hypotheses`"
    pairs = zip(number.findall(there), number.findall(wanted), strict=True)
    assert all(abs(float(a.replace(",", "")) - float(b.replace(",", ""))) <= 0.3 for a, b in pairs)
