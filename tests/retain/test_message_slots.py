"""Names and numbers as slots, and what stands below a message."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain.message import SITUATIONS, MessageError, footer, render, slots
from retain.rules import MAX_LENGTH
from tests.names import BAD_NAMES, names
from tests.words import GUARD, RULES, best_message, check, clean_name, template_bank

BANK = template_bank((0, 5, 10, 20))


def said(situation: str, offer: int, months: int, name: str | None) -> str:
    """What goes out."""
    found = best_message(BANK, situation, offer, months, GUARD, name)
    assert found is not None
    return found.text


@pytest.mark.parametrize("name", BAD_NAMES)
def test_what_is_no_name_is_not_said(name: str) -> None:
    assert clean_name(name) is None
    for situation in SITUATIONS:
        for offer in (0, 10):
            assert said(situation, offer, 6, name) == said(situation, offer, 6, None)


@given(
    name=names(),
    situation=st.sampled_from(SITUATIONS),
    offer=st.sampled_from([0, 5, 10, 20]),
    months=st.integers(1, 12),
)
def test_what_goes_out_keeps_the_rules_whatever_the_name(name: str, situation: str, offer: int, months: int) -> None:
    plain, sent = said(situation, offer, months, None), said(situation, offer, months, name)
    assert check(sent, offer, months) == []
    known = clean_name(name)
    assert sent in (plain, f"Hello {known}. {plain}")
    assert known is not None or sent == plain


def test_the_rules_see_the_greeting_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is taken for a name, a text that breaks a rule with it goes out without it."""
    monkeypatch.setattr(GUARD.names, "clean", lambda name: name)
    plain = said("price", 10, 6, None)
    assert said("price", 10, 6, "Ann") == f"Hello Ann. {plain}"
    for name in (
        "Idiot",
        "Fu-Ck",
        "Hurry",
        "Christian",
        "A" * 200,
        "www.x.example",
        "Fifty",
        "<i>Ann</i>",
        "A\u200bnn",
    ):
        assert said("price", 10, 6, name) == plain


def test_a_message_that_would_be_too_long_goes_out_without_a_greeting() -> None:
    text = f"Take 10% off for six months. {'Thank you. ' * 33}"[: MAX_LENGTH - 12] + "."
    bank = type(BANK).from_json(
        [{"situation": "price", "offer": 10, "text": text, "source": "template", "score": 0.0, "tokens": None}]
    )
    messages = [best_message(bank, "price", 10, 6, GUARD, name) for name in ("Alexandra", "Al")]
    assert [message and message.text for message in messages] == [text, f"Hello Al. {text}"]


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("Ann", "Ann"), (" Ann ", "Ann"), ("ANN-MARIE O'NEIL", "Ann-Marie O'Neil"), ("O\u2019Neil", "O'Neil"),
        ("Jos\u00e9", "Jose"), ("Zo\u00eb van der Berg", "Zoe van der Berg"), ("Al", "Al"), ("JO", "Jo"),
        ("Jean-Luc McDonald", "Jean-Luc McDonald"), ("LUDWIG VAN BEETHOVEN", "Ludwig van Beethoven"),
        ("Danny DeVito", "Danny DeVito"), ("MacArthur", "MacArthur"), ("LaToya", "LaToya"), ("D'Angelo", "D'Angelo"),
        ("Toby Goodwin", "Toby Goodwin"), ("Morgan Freeman", "Morgan Freeman"), ("June", "June"),
    ],
)  # fmt: skip
def test_a_name_is_plain_letters(name: str, clean: str) -> None:
    assert clean_name(name) == clean
    assert re.match(f"Hello {clean}. Your bill", said("price", 10, 6, name))


@pytest.mark.parametrize("name", ["Christian", "Mark Young", "Faith", "Penny", "French", "Lucky", "JoAnn"])
def test_a_real_name_that_is_a_word_besides_is_not_said(name: str) -> None:
    assert said("price", 10, 6, name) == said("price", 10, 6, None)


GOOD = (
    "Thank you for being with us. We would like to take {} off your charge for {}. Reply YES and one of us will call."
)


@pytest.mark.parametrize(
    "percent", ["10%", "10 %", "10 percent", "ten per cent", "Ten Percent", "10 per cent", "10-percent"]
)
@pytest.mark.parametrize("duration", ["six months", "6 months", "Six months"])
def test_the_offer_s_numbers_become_slots(percent: str, duration: str) -> None:
    assert slots(GOOD.format(percent, duration), 10, 6, RULES) == GOOD.format("{offer}", "{months}")


def test_every_mention_becomes_a_slot() -> None:
    text = (
        "We take 10% off for six months. That is ten percent off each bill, and the six months begin with the next one."
    )
    expected = (
        "We take {offer} off for {months}. That is {offer} off each bill, and the {months} begin with the next one."
    )
    assert slots(text, 10, 6, RULES) == expected
    assert slots(GOOD.format("20%", "one month"), 20, 1, RULES) == GOOD.format("{offer}", "{months}")
    assert slots(GOOD.format("twenty-five percent", "twelve months"), 25, 12, RULES) == GOOD.format(
        "{offer}", "{months}"
    )
    free = "Thank you for being with us. If there is something that we could do better, tell us. Reply YES for a call."
    assert slots(free, 0, 6, RULES) == free


@pytest.mark.parametrize(
    "text",
    [
        GOOD.format("15%", "six months"), GOOD.format("10%", "twelve months"), GOOD.format("ten", "six months"),
        GOOD.format("10%", "six months") + " Call 555.", GOOD.format("10%", "six months") + " Two of us are here.",
        GOOD.format("10% (fifteen at most)", "six months"), GOOD.format("110%", "six months"),
        GOOD.format("10%", "six-month bills"), GOOD.format("{offer}", "six months"),
        GOOD.format("10%", "six months") + " {name}", GOOD.format("10.10%", "six months"),
        GOOD.format("5-10%", "six months"),
        GOOD.format("10%", "six months") + " Hurry.", "Take 10% off.",
        GOOD.format("one hundred ten percent", "six months"),
        GOOD.format("a hundred and ten percent", "six months"), GOOD.format("half of it, or 10%,", "six months"),
    ],
)  # fmt: skip
def test_a_text_with_another_number_is_no_message(text: str) -> None:
    assert slots(text, 10, 6, RULES) is None


@given(
    st.text(max_size=200)
    | st.lists(
        st.sampled_from(
            [
                "Free",
                "Ann",
                "fifty",
                "%",
                "50",
                "Hurry",
                "<i>",
                "'",
                "-",
                "\u200d",
                "{",
                "10%",
                "ten",
                "six months",
                "take",
                "off.",
            ]
        )
    ).map(" ".join)
)
def test_whatever_becomes_a_message_keeps_the_rules_at_every_offer(text: str) -> None:
    found = slots(f"{GOOD.format('10%', 'six months')} {text}", 10, 6, RULES)
    if found is not None:
        assert check(render(found, 10, 6), 10, 6) == []
        assert check(render(found, 20, 3), 20, 3) == []


def test_the_footer_says_how_to_opt_out_and_who_writes() -> None:
    assert footer("Toy Telecom", "1 Example Street") == "Reply STOP to opt out. Toy Telecom, 1 Example Street"


@pytest.mark.parametrize("bad", ["", " Toy", "A" * 121, "a\nb", "a\u202eb", "a\u200bb", "<b>", "{name}", 7])
def test_a_sender_that_can_not_be_shown_is_refused(bad: object) -> None:
    for sender in ((bad, "1 Example Street"), ("Toy", bad)):
        with pytest.raises(MessageError, match=r"^the sender's"):
            footer(*sender)  # type: ignore[arg-type]
