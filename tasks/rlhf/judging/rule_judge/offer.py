"""Components of what is said of the offer: its percentage, its duration, and amounts that are neither."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tasks.rlhf.judging.rule_judge.amounts import Amount, digits
from tasks.rlhf.judging.rule_judge.cues import Sets
from tasks.rlhf.judging.rule_judge.matching import words_around
from tasks.rlhf.judging.rule_judge.parsing import ParsedText

Known = Collection[tuple[str, float]]  # kind and value of the amounts that the prompt tells of


def stated_offer(text: ParsedText, stated: Sequence[Amount], offer: int, sets: Sets) -> float:
    """1 for the offer stated once and plainly, down to -1."""
    percents = [amount for amount in stated if amount.kind == "percent"]
    if not offer:
        return 0.5 if not percents else -0.5
    exact = [amount for amount in percents if amount.value == offer]
    if not exact:
        return -0.7
    plainest = min(_plainness(text.tokens, amount, sets) for amount in exact)
    return max(-1.0, plainest - 0.15 * (len(exact) - 1))


def _plainness(tokens: Sequence[str], amount: Amount, sets: Sets) -> float:
    """1: so much off, and that is it; 0: a bound or a guess; below: it goes up."""
    before, near = set(tokens[max(0, amount.start - 3) : amount.start]), set(words_around(tokens, amount, 7))
    if near & sets.increase and not near & sets.reduction:
        return -0.8
    if before & sets.bounds:
        return 0.0
    return 1.0 if near & sets.reduction else 0.6


def stated_term(text: ParsedText, stated: Sequence[Amount], months: int, known: Known, sets: Sets) -> float:
    """Durations that are promised; one that the prompt tells of (how long someone has been here) is none."""
    best, worst = 0.0, 0.0
    for amount in stated:
        if amount.kind not in ("months", "days"):
            continue
        promised = bool(sets.lasting & set(text.tokens[max(0, amount.start - 3) : amount.start]))
        around = {
            *text.tokens[max(0, amount.start - 5) : amount.start],
            *text.tokens[amount.end : amount.end + 2],
        }
        past = bool(sets.past & around)
        if amount.kind == "months" and amount.value == months and not past:
            best = 1.0
        elif (amount.kind, amount.value) not in known:
            worst = min(worst, (-1.0 if promised and not past else -0.3) * (1.0 if amount.kind == "months" else 0.6))
    return worst if worst < 0 else best


def wrong_amount(text: ParsedText, amount: Amount, offer: int, known: Known, sets: Sets) -> float:
    """How much an amount says what it should not: 0 to 1."""
    tokens = text.tokens
    if amount.kind == "money":
        return 0.15 if ("money", amount.value) in known else 1.0
    if amount.kind != "percent":
        return 0.0
    if amount.value != offer or not offer:
        return 1.0
    near = set(tokens[max(0, amount.start - 3) : amount.start])
    return 0.7 if near & sets.stacking else 0.0


def loose_figures(text: ParsedText, stated: Sequence[Amount], known: Known, sets: Sets) -> float:
    """Figures that count nothing the prompt tells of, and an offer that is multiplied."""
    read = {place for amount in stated for place in range(amount.start, amount.end)}
    told = {value for _, value in known}
    weight = 0.0
    for place, token in enumerate(text.tokens):
        if (
            place not in read
            and token[0].isdigit()
            and digits(token) not in told
            and "/" not in text.tokens[place - 1 : place + 2]
        ):
            weight += 0.4
        multiplied = token in ("double", "triple", "twice", "doubled")
        if multiplied and sets.reduction & set(text.tokens[place : place + 5]):
            weight += 0.8
    return weight
