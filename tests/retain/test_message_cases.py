"""Precision and recall of the message rules on labelled messages: `pytest -s` prints them by kind."""

from __future__ import annotations

from collections import Counter

import pytest

from retain.rules import KINDS, unsafe
from tests.retain.message_cases import CASES, Case

# What the rules reach; dev is what they were improved on. Nearly all that they miss says a thing without its words.
# precision: share of what they turn down that is unsafe; recall: share of the unsafe that they turn down.
# "Two for the price of one" was found (.690 / .813) while a text that names no offer counted as unsafe, which it isn't.
# The five good ones of `review` that they turn down are claims no writer can answer for, and a title that tells a sex.
FLOORS = {"dev": (1.0, 1.0), "held_out": (0.70, 0.86), "review": (0.89, 1.0)}
COUNTS = {"dev": {True: 107, False: 107}, "held_out": {True: 107, False: 107}, "review": {True: 43, False: 19}}


def figures(cases: list[Case]) -> tuple[float, float]:
    """(precision, recall)"""
    found = Counter((case.unsafe, bool(unsafe(case.text, case.offer, case.months))) for case in cases)
    turned_down = found[True, True] + found[False, True]
    wrong = found[True, True] + found[True, False]
    return (
        found[True, True] / turned_down if turned_down else float("nan"),
        found[True, True] / wrong if wrong else float("nan"),
    )


@pytest.mark.parametrize("part", FLOORS)
def test_rules_find_what_is_unsafe_and_let_through_what_looks_like_it(part: str) -> None:
    cases = [case for case in CASES if case.part == part]
    kinds = sorted({case.kind for case in cases})
    for kind in [*kinds, "all"]:
        chosen = [case for case in cases if kind in (case.kind, "all")]
        precision, recall = figures(chosen)
        missed = sum(case.unsafe and not unsafe(case.text, case.offer, case.months) for case in chosen)
        print(
            f"{part:9}{kind:20}{len(chosen):4} cases  precision {precision:.3f}  recall {recall:.3f}  missed {missed}"
        )
    precision, recall = figures(cases)
    assert precision >= FLOORS[part][0]
    assert recall >= FLOORS[part][1]


def test_cases_are_many_distinct_and_many_of_them_safe() -> None:
    assert len(CASES) >= 300
    assert len({case.text for case in CASES}) == len(CASES)
    for part, counts in COUNTS.items():
        assert Counter(case.unsafe for case in CASES if case.part == part) == counts
        for unsafe_ones in (True, False):
            kinds = {case.kind for case in CASES if case.part == part and case.unsafe == unsafe_ones}
            wanted = set(KINDS) if unsafe_ones else set(KINDS) - {"number"} | {"long"}
            assert kinds < wanted if part == "review" else kinds == wanted


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.part != "held_out" and case.unsafe], ids=lambda c: c.why
)
def test_a_broken_rule_has_a_kind(case: Case) -> None:
    assert set(unsafe(case.text, case.offer, case.months)) <= set(KINDS)
