"""The rules that a message keeps, the templates under them, and which situation a customer is in."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain.dataset import Role
from retain.message import (
    SITUATION_OF_ROLE,
    SITUATIONS,
    Bank,
    Entry,
    Message,
    MessageError,
    render,
    situation,
)
from tests.words import GUARD, RULES, WORDS, best_message, check, found_message, template_bank, unsafe

OFFERS = (0, 5, 10, 20)
GOOD = "Thank you for being with us. We would like to take 10% off your monthly charge for six months. Reply YES."
GOOD_WITHOUT = "Thank you for being with us. If there is something that we could do better, please tell us. Reply YES."


def test_every_situation_has_a_good_template_for_every_offer() -> None:
    bank = template_bank(OFFERS)
    assert bank.problems(6, RULES) + bank.gaps(OFFERS) == []
    assert {(entry.situation, entry.offer) for entry in bank.entries} == {(s, o) for s in SITUATIONS for o in OFFERS}
    for name in SITUATIONS:
        for offer in OFFERS:
            found = best_message(bank, name, offer, 6, GUARD)
            assert found is not None
            assert (found.situation, found.source) == (name, "template")
            assert (f"{offer}%" in found.text) == (offer > 0)
            assert "{" not in found.text


@pytest.mark.parametrize("months", range(1, 13))
def test_templates_state_the_offer_s_own_duration(months: int) -> None:
    assert template_bank(OFFERS, months).problems(months, RULES) == []
    assert check(render(WORDS.templates["price"].offer, 10, months), 10, months % 12 + 1) != []


def test_good_texts_pass() -> None:
    assert check(GOOD, 10, 6) == []
    assert check(GOOD.replace("10%", "ten percent"), 10, 6) == []
    assert check(GOOD_WITHOUT, 0) == []


@pytest.mark.parametrize("offer", [0, 5, 20, 1, 100])
def test_the_percentage_is_the_chosen_one(offer: int) -> None:
    assert any("percentage" in rule for rule in check(GOOD, offer, 6))


@pytest.mark.parametrize(
    "phrase",
    [
        "20%", "10% or 20%", "10 % or 15 per cent", "5-10%", "10.5%", "10,5 %", "110%", "1 0%", "010%", "10%5",
        "twenty percent", "10% (twenty percent with a friend)", "twenty-five per cent", "ten and a half percent",
        "10%, or even fifteen off", "half", "10%, a quarter in summer,", "10%, one in ten,", "double our usual 10%",
        "up to 10%", "at least 10%", "more than ten percent", "another 10%", "an extra 10%", "over 10%",
        "10% and then a hundred percent", "one-hundred percent", "10", "ten", "10%, twenty if you ask,",
        "10 dollars", "10%, 2 times", "10\u066a", "\uff11\uff10%", "10%, 15pct",
    ],
)  # fmt: skip
def test_any_other_amount_is_turned_down(phrase: str) -> None:
    text = GOOD.replace("10%", phrase)
    broken = check(text, 10, 6)
    if phrase == "ten":  # "ten off your monthly charge" is the chosen amount, in other words
        assert broken == []
    else:
        assert broken != []


@pytest.mark.parametrize(
    ("phrase", "says"),
    [
        ("We guarantee it.", "guarantees"),
        ("We guar-antee it.", "guarantees"),
        ("This is the lowest price of all.", "guarantees"),
        ("It will never change.", "guarantees"),
        ("It is yours for life.", "guarantees"),
        ("Hurry!", "presses"),
        ("This is your last chance.", "presses"),
        ("Don't miss it.", "presses"),
        ("The offer expires soon.", "presses"),
        ("You must answer.", "presses"),
        ("It is now or never.", "presses"),
        ("See www.retain.example for more.", "link"),
        ("See https://retain.example for more.", "link"),
        ("See retain.example/offer for more.", "link"),
        ("Click below to take it.", "link"),
        ("Write to us at retain@mail for more.", "character"),
        ("Your account number is with us.", "identifier"),
        ("This is for customer 7590-VHVEG alone.", "number"),
        ("Call us on 555 0100 for more.", "number"),
        ("We predict that you will go.", "risk"),
        ("You are at risk.", "risk"),
        ("We know you are thinking of leaving.", "risk"),
        ("Please do not cancel.", "risk"),
        ("Our model chose you.", "risk"),
        ("It is for our senior customers.", "protected"),
        ("It is for you and your partner.", "protected"),
        ("It is for women.", "protected"),
        ("It suits your age.", "protected"),
        ("It is good for your children.", "protected"),
        ("One month is free.", "besides the offer"),
        ("You also get a voucher.", "besides the offer"),
        ("We waive your fee.", "besides the offer"),
        ("It holds for two years.", "duration"),
        ("It holds for twelve months.", "duration"),
        ("It holds all year.", "duration"),
        ("It comes at no extra charge.", "besides the offer"),
        ("Installation is on the house.", "besides the offer"),
        ("We will pay your first bill ourselves.", "besides the offer"),
        ("You will pay nothing for six months.", "besides the offer"),
        ("You get a tenner each time.", "besides the offer"),
        ("It is yours if you reply by Friday.", "presses"),
        ("Reply today, this week only.", "presses"),
        ("Answer before midnight.", "presses"),
        ("We hate to see you go.", "risk"),
        ("You seem about to quit.", "risk"),
        ("Please stay on.", "risk"),
        ("We would be sad to lose you.", "risk"),
        ("It is nice for a grandmother.", "protected"),
        ("Every grandson likes it.", "protected"),
        ("Whether you are catholic or hindu, it fits.", "protected"),
        ("See acme dot org for more.", "link"),
        ("It may run a dozen months more.", "duration"),
        ("It may run a fortnight longer.", "duration"),
        ("It may run six more months.", "duration"),
        ("It may run six months more.", "duration"),
        ("It may run a few months.", "duration"),
        ("It holds as long as you are with us.", "guarantees"),
        ("It is yours for good.", "guarantees"),
        ("You stupid idiot, damn you.", "insults"),
        ("DEAR CUSTOMER.", "shouts"),
        ("Really! Truly! Yes!", "shouts"),
        ("h u r r y to us.", "spells out"),
        ("Take it, {name}.", "character"),
        ("Pay $ less.", "character"),
        ("We gu\u0430rantee it.", "character"),  # a Cyrillic a
        ("We guar\u200bantee it.", "character"),  # zero width
        ("Dear \u202ereversed.", "character"),
        ("Two lines\nof text.", "character"),
    ],
)
def test_each_rule_turns_down_what_it_is_about(phrase: str, says: str) -> None:
    broken = check(f"{GOOD} {phrase}", 10, 6)
    assert any(says in rule for rule in broken), broken


@pytest.mark.parametrize(
    "phrase", ["a discount", "10% off", "money off your bill", "a lower price", "a special offer", "ways to save"]
)
def test_without_an_offer_none_is_hinted_at(phrase: str) -> None:
    assert check(f"{GOOD_WITHOUT} There may be {phrase} too.", 0) != []


@pytest.mark.parametrize(
    "phrase",
    [
        "Feel free to ask.",
        "You can pay by credit card.",
        "We’re happy to help – any time.",
        "A real person.",
        "You can pay your bill in one step.",
        "It comes off each month.",
        "A specialist will be glad to talk it over.",
        "Hello from all of us, whenever you have a moment for a song or a film.",
        "There is help within your plan, and our support department is glad to give it.",
    ],
)
def test_harmless_words_are_let_through(phrase: str) -> None:
    assert check(f"{GOOD} {phrase}", 10, 6) == []


def test_length_is_limited() -> None:
    assert any("characters long" in rule for rule in check("Take 10%.", 10))
    assert any("characters long" in rule for rule in check(f"{GOOD} {'We are glad. ' * 40}", 10, 6))
    assert any("characters long" in rule for rule in check("", 0))


@given(st.text(max_size=500), st.sampled_from(OFFERS))
def test_no_text_breaks_the_check_itself(text: str, offer: int) -> None:
    assert all(isinstance(rule, str) for rule in check(text, offer, 6))


@given(st.integers(0, 200))
def test_no_other_number_gets_through(number: int) -> None:
    allowed = check(GOOD.replace("10%", f"{number}%"), 10, 6) == []
    assert allowed == (number == 10)


@pytest.mark.parametrize("slot", ["{amount}", "{name}", "{offer.__class__}", "{0}", "{}", "{offer!r}", "{offer:>9}"])
def test_a_slot_that_does_not_exist_is_refused(slot: str) -> None:
    with pytest.raises(MessageError, match=r"is none of offer, months$"):
        render(f"Take {slot} off.", 10, 6)


def entry(text: str, score: float = 0.0, situation: str = "price", offer: int = 10) -> Entry:
    return Entry(situation, offer, text, "test", score)


def told(message: Message | None) -> tuple[str, str, str] | None:
    """Situation, text and source."""
    return message and (message.situation, message.text, message.source)


def test_the_best_message_that_keeps_the_rules_is_sent() -> None:
    better = GOOD.replace("Thank you", "Many thanks to you")
    bad = GOOD.replace("10%", "20%")
    bank = Bank([entry(GOOD, 0.1), entry(bad, 0.9), entry(better, 0.5)])
    assert told(best_message(bank, "price", 10, 6, GUARD)) == ("price", better, "test")
    assert any("message 1 (price, 10 %): the only percentage" in problem for problem in bank.problems(6, GUARD.rules))


def test_a_situation_without_a_good_message_speaks_as_by_default() -> None:
    bank = Bank([entry(GOOD.replace("10%", "20%")), entry(GOOD, situation="default")])
    assert best_message(bank, "price", 10, 6, GUARD) is None
    assert told(found_message([bank], "price", 10, 6, GUARD)) == ("default", GOOD, "test")
    assert told(found_message([bank], "support", 10, 6, GUARD)) == ("default", GOOD, "test")
    assert found_message([bank], "support", 5, 6, GUARD) is None


def test_the_first_bank_that_has_a_message_speaks() -> None:
    first, second = Bank([entry(GOOD)]), Bank([entry(GOOD), entry(GOOD, situation="support")])
    other = Bank([Entry("price", 10, GOOD, "other", 9.0), Entry("new", 10, GOOD, "other", 0.0)])
    assert told(found_message([first, other], "price", 10, 6, GUARD)) == ("price", GOOD, "test")
    assert told(found_message([first, second, other], "support", 10, 6, GUARD)) == ("support", GOOD, "test")
    assert told(found_message([Bank([]), other], "new", 10, 6, GUARD)) == ("new", GOOD, "other")


def test_other_scores_order_a_bank_anew() -> None:
    better = GOOD.replace("Thank you", "Many thanks to you")
    unknown = GOOD.replace("Thank you", "Our thanks to you")
    bank = Bank([entry(GOOD, 0.9), entry(better, 0.1), entry(unknown, 50.0)])
    ranked = bank.ranked({("price", 10): {GOOD: -7.0, better: 3.0, "another": 99.0}})
    assert sorted((one.score, one.text) for one in ranked.entries) == [(-8.0, unknown), (-7.0, GOOD), (3.0, better)]
    assert told(best_message(ranked, "price", 10, 6, GUARD)) == ("price", better, "test")


def test_a_text_of_two_cells_is_ranked_in_each_by_that_cell_s_score() -> None:
    other = GOOD.replace("Thank you", "Many thanks to you")
    cells = ("price", "support")
    bank = Bank([entry(text, situation=name) for name in cells for text in (GOOD, other)])
    scores = {("price", 10): {GOOD: 2.0, other: 1.0}, ("support", 10): {GOOD: 2.0, other: 3.0}}
    best = [best_message(bank.ranked(scores), name, 10, 6, GUARD) for name in cells]
    assert [found.text for found in best if found] == [GOOD, other]


def test_what_a_bank_lacks_is_named() -> None:
    problems = Bank([entry(GOOD)]).gaps([0, 10])
    assert "situation price: no message for 0 %" in problems
    assert "situation new: no message for 0, 10 %" in problems


def test_a_bank_survives_its_file() -> None:
    bank = template_bank(OFFERS)
    assert {entry.tokens for entry in bank.entries} == {None}
    written = Bank([*bank.entries, replace(bank.entries[0], source="sft", score=-1.5, tokens=31)])
    assert Bank.from_json(written.to_json()).entries == written.entries


def test_a_message_carries_what_is_recorded_of_it_and_answers_with_the_text() -> None:
    bank = Bank([Entry("price", 10, GOOD.replace("10%", "{offer}").replace("six", "6"), "sft", 1.5, 31)])
    message = found_message([bank], "price", 10, 6, GUARD, "Ann")
    assert message is not None
    assert (message.source, message.score, message.tokens) == ("sft", 1.5, 31)
    assert message.text.startswith("Hello Ann. ")
    assert message.characters == len(message.text.removeprefix("Hello Ann. "))
    assert message.answer() == {"situation": "price", "text": message.text, "source": "sft"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "no list"),
        ([1], "message 0: wants situation"),
        ([{"situation": "price"}], "message 0: wants situation"),
        ([entry(GOOD).as_dict() | {"situation": "war"}], "situation is none of"),
        ([entry(GOOD).as_dict() | {"offer": 10.0}], "offer"),
        ([entry(GOOD).as_dict() | {"offer": True}], "offer"),
        ([entry(GOOD).as_dict() | {"text": None}], "texts"),
        ([entry(GOOD).as_dict() | {"score": float("nan")}], "score"),
        ([{key: value for key, value in entry(GOOD).as_dict().items() if key != "tokens"}], "source, score, tokens"),
        ([entry(GOOD).as_dict() | {"tokens": 0}], "tokens is no number from 1, nor null"),
        ([entry(GOOD).as_dict() | {"tokens": 7.0}], "tokens is no number from 1, nor null"),
        ([entry(GOOD).as_dict() | {"tokens": True}], "tokens is no number from 1, nor null"),
    ],
)
def test_a_broken_bank_is_refused_in_one_line(content: object, says: str) -> None:
    with pytest.raises(MessageError, match=r"^messages\.json") as error:
        Bank.from_json(content)
    assert says in str(error.value)


ROLES = {"monthly_charge": "Charge", "contract": "Contract", "payment": "Pay", "support": "Help", "tenure": "Months"}


@pytest.mark.parametrize(
    ("reasons", "months", "expected"),
    [
        ([("Contract", 0.9), ("Charge", 0.8)], 30, "contract"),
        ([("Contract", -0.9), ("Charge", 0.8)], 30, "price"),  # what lowers the risk is no reason to talk
        ([("Colour", 0.9), ("Help", 0.1)], 30, "support"),
        ([("Pay", 0.1)], 30, "payment"),
        ([("Months", 0.9), ("Pay", 0.1)], 30, "payment"),
        ([("Months", 0.9), ("Pay", 0.1)], 8, "new"),
        ([("Contract", 0.9)], 2, "new"),
        ([("Contract", 0.9)], 0, "new"),
        ([("Contract", 0.9)], None, "contract"),
        ([("Contract", -0.9)], 30, "default"),
        ([], 30, "default"),
    ],
)
def test_a_situation_is_what_raises_the_risk_most(
    reasons: list[tuple[str, float]], months: int | None, expected: str
) -> None:
    assert situation(ROLES, reasons, months) == expected


def test_every_situation_but_the_default_comes_from_a_role_that_a_table_can_have() -> None:
    assert set(SITUATION_OF_ROLE) <= set(get_args(Role))
    assert {*SITUATION_OF_ROLE.values(), "default"} == set(SITUATIONS)


def test_what_the_templates_say_of_contracts_is_true_of_every_kind() -> None:
    for _, text in WORDS.templates["contract"]:
        assert not re.search(r"\b(?:end\w*|expir\w*|renew\w*|stay\w*|leav\w*|your contract)\b", text)


def test_a_table_without_roles_has_one_situation() -> None:
    assert situation({}, [("Contract", 1.0)], None) == "default"


@pytest.mark.parametrize(
    "text",
    [
        "Your charge goes up by 10% for six months.", "10% is added to your charge for six months.",
        "A fee of 10% applies for six months.", "We raise your charge by ten percent.", "You pay just 10% of it.",
        "Your charge drops to 10% for six months.", "10% off. And 10% off your bill.", "10% off again for six months.",
    ],
)  # fmt: skip
def test_the_offer_s_percentage_is_what_is_taken_off_once(text: str) -> None:
    assert "percentage" in unsafe(text, 10, 6)


@pytest.mark.parametrize(
    "text",
    [
        "We take 10% off for six months. Reply YES and we will take 10% off.", "You pay just 10% less for six months.",
        "We add 10% off to your plan for six months.", "10% of your charge comes off for six months.",
        "A 10% discount is added to your account.", "We take 10% off for 6 months.",
    ],
)  # fmt: skip
def test_the_offer_may_be_said_in_other_ways(text: str) -> None:
    assert unsafe(text, 10, 6) == []


@pytest.mark.parametrize(
    "text", ["for 7 months", "for 6 weeks", "for 6 months more", "for 06 months", "for 6.5 months"]
)
def test_months_in_digits_are_the_offer_s(text: str) -> None:
    assert "duration" in unsafe(f"We take 10% off your charge {text}.", 10, 6)
    assert "duration" in unsafe("We take 10% off your charge for 6 months.", 10, None)
