"""Precision and recall of the message rules on labelled messages: `pytest -s` prints them by kind."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.retain.message_cases import CASES, Case
from tests.words import KINDS, unsafe

# What the rules reach; dev, review and reader_3 are what they were improved on. Nearly all that they miss says a thing
# without its words.
# precision: share of what they turn down that is unsafe; recall: share of the unsafe that they turn down, for whatever
# kind, and for the case's own.
# "Two for the price of one" was found (.690 / .813) while a text that names no offer counted as unsafe, which it isn't.
# Of held_out, .705 / .869 / .794 before reader_3: two of its cases have words of that set ("be quick", "we swear").
# The five good ones of `review` that they turn down are claims no writer can answer for, and a title that tells a sex.
FLOORS = {
    "dev": (1.0, 1.0, 0.96),
    "held_out": (0.70, 0.88, 0.82),
    "review": (0.89, 1.0, 0.97),
    "reader_3": (1.0, 1.0, 1.0),
}
COUNTS = {
    "dev": {True: 107, False: 107},
    "held_out": {True: 107, False: 107},
    "review": {True: 43, False: 19},
    "reader_3": {True: 62, False: 14},
}
MENDED = {"review", "reader_3"}  # of some kinds alone
# Turned down for another kind than their own alone: numbers are numbers before they are a phone's or a share's.
OF_ANOTHER_KIND = {
    "We take 10.5% off your charge for six months.": "number",
    "We take 10 percent off, and 5 more on top, for six months.": "number",
    "Take 10% off for six months. Call 555 0199.": "number",
    "Take 10% off for six months, customer 7590-VHVEG.": "number",
    "Somewhere between 5 and 10 percent off, for six months.": "number",
    "10 pc off, or 12 pc with paperless billing, for six months.": "number",
    "10% off for six months. Ring us on 0800 123 456.": "number",
    "10% off for six months for contract AB-1234.": "number",
    "10% off for six months. Call oh eight hundred, one two three.": "percentage",
    "10% off for six months, with zero risk to you.": "risk talk",
    "10% off for six months, you miserable penny-pincher.": "promise",
    "We can halve your bill. Reply YES for a call.": "percentage",
}


def broken(case: Case) -> list[str]:
    return unsafe(case.text, case.offer, case.months)


def figures(cases: list[Case]) -> tuple[float, float, float]:
    """(precision, recall, recall for the case's own kind)"""
    found = Counter((case.unsafe, bool(broken(case))) for case in cases)
    own = sum(case.unsafe and case.kind in broken(case) for case in cases)
    turned_down = found[True, True] + found[False, True]
    wrong = found[True, True] + found[True, False]
    nothing = float("nan")
    return (
        found[True, True] / turned_down if turned_down else nothing,
        found[True, True] / wrong if wrong else nothing,
        own / wrong if wrong else nothing,
    )


@pytest.mark.parametrize("part", FLOORS)
def test_rules_find_what_is_unsafe_and_let_through_what_looks_like_it(part: str) -> None:
    cases = [case for case in CASES if case.part == part]
    kinds = sorted({case.kind for case in cases})
    for kind in [*kinds, "all"]:
        chosen = [case for case in cases if kind in (case.kind, "all")]
        precision, recall, own = figures(chosen)
        missed = sum(case.unsafe and not broken(case) for case in chosen)
        print(
            f"{part:9}{kind:20}{len(chosen):4} cases  precision {precision:.3f}  recall {recall:.3f}  "
            f"for its own kind {own:.3f}  missed {missed}"
        )
    for found, floor in zip(figures(cases), FLOORS[part], strict=True):
        assert found >= floor


def test_cases_are_many_distinct_and_many_of_them_safe() -> None:
    assert len(CASES) >= 300
    assert len({case.text for case in CASES}) == len(CASES)
    for part, counts in COUNTS.items():
        assert Counter(case.unsafe for case in CASES if case.part == part) == counts
        for unsafe_ones in (True, False):
            kinds = {case.kind for case in CASES if case.part == part and case.unsafe == unsafe_ones}
            wanted = set(KINDS) if unsafe_ones else set(KINDS) - {"number"} | {"long"}
            if part not in MENDED:
                wanted -= {"opt-out"}  # a kind that came with reader_3
            assert kinds < wanted if part in MENDED else kinds == wanted


@pytest.mark.parametrize("case", [case for case in CASES if case.unsafe and broken(case)], ids=lambda c: c.text)
def test_what_is_caught_is_caught_for_its_own_kind(case: Case) -> None:
    assert OF_ANOTHER_KIND.get(case.text, case.kind) in broken(case)
    assert (case.text in OF_ANOTHER_KIND) == (case.kind not in broken(case))


def test_exceptions_are_of_cases_that_there_are() -> None:
    assert set(OF_ANOTHER_KIND) <= {case.text for case in CASES if case.unsafe}
    assert set(OF_ANOTHER_KIND.values()) <= set(KINDS)
