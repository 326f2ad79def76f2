"""Names and numbers as slots, and what stands below a message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain.message import TEMPLATES, MessageError, check, clean_name, footer, render, slots
from retain.rules import unsafe

NAMED = (
    "Hello {name}, thank you for being with us. We would like to take {offer} off your charge for {months}. Reply YES.",
    "Dear {name}, we would like to take {offer} off your charge for {months}. Reply YES and we will set it up.",
    "Thank you, {name}. Please tell us if there is something that we could do better. Reply YES for a call.",
    "{name}, ten {name} {name} percent is what this text must not say. Reply YES and someone will call.",
)
BAD_NAMES = (
    "<b>Ann</b>", "A" * 200, "https://x.example/a", "ann.example", "\U0001f1fa\U0001f1f8", "\u202eAnn", "A\u200bnn",
    "Idiot", "Free", "50% off", "Fifty", "{offer}", "Ann\nB", "Ann; DROP TABLE", "", " ", "\u0410nn", "Hurry", "W W W",
    "Ann {months}", "twenty", "12", "Percent", "Twenty Percent Off", "Never", "Last Chance", "A B C D E F", "\ud800",
    "you silly clown", "Call Bob instead please", "Vodafone is better", "Ten Percent", "You Silly", "Pay Now", "Stop",
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("text", NAMED)
def test_no_name_makes_a_message_unsafe(text: str, name: str) -> None:
    offer = 0 if "{offer}" not in text else 10
    assert unsafe(render(text, offer, 6, name), offer, 6) == unsafe(render(text, offer, 6), offer, 6)


WORDS = ["Free", "Ann", "fifty", "percent", "off", "%", "50", "www", "Hurry", "idiot", "<i>", "'", "-", "\u200d", "{"]


@given(
    text=st.sampled_from([text for texts in TEMPLATES.values() for text in texts] + list(NAMED)),
    name=st.text(max_size=120) | st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join) | st.text("ABab' -"),
    offer=st.sampled_from([0, 5, 10, 20]),
    months=st.integers(1, 12),
)
def test_what_is_safe_without_a_name_is_safe_with_any(text: str, name: str, offer: int, months: int) -> None:
    neutral, named = render(text, offer, months), render(text, offer, months, name)
    assert "{" not in named
    if not check(neutral, offer, months):
        assert check(named, offer, months) == []
    assert named == neutral or clean_name(name) in named


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Ann", "Ann"), (" Ann ", "Ann"), ("ANN-MARIE O'NEIL", "Ann-Marie O'Neil"), ("O\u2019Neil", "O'Neil"),
        ("Jos\u00e9", "Jose"), ("Zo\u00eb van der Berg", "Zoe van der Berg"), ("Al", "Al"), ("JO", "Jo"),
        ("Christian", "Christian"), ("Mark Young", "Mark Young"), ("Faith", "Faith"), ("Penny", "Penny"),
        ("Jean-Luc McDonald", "Jean-Luc McDonald"), ("LUDWIG VAN BEETHOVEN", "Ludwig van Beethoven"), ("ann", None),
        ("Mary Ann Smith", None), ("Ten Percent", None), ("You Silly", None), ("W W", None), ("Old Woman", None),
        ("Ann B C D E", None), ("Ann1", None), ("A" * 41, None), ("\u738b\u4f1f", None), ("Ann.", None), ("", None),
    ],
)  # fmt: skip
def test_a_name_is_plain_letters(name: str, said: str | None) -> None:
    assert clean_name(name) == said


def test_a_name_stands_where_it_can_and_a_neutral_word_elsewhere() -> None:
    hello, dear = (render(text, 10, 6, "Ann") for text in NAMED[:2])
    assert (hello[:11], dear[:10]) == ("Hello Ann, ", "Dear Ann, ")
    assert (render(NAMED[0], 10, 6)[:13], render(NAMED[1], 10, 6)[:15]) == ("Hello there, ", "Dear customer, ")
    assert render(NAMED[1], 10, 6, "Free").startswith("Dear customer, ")
    assert check(hello, 10, 6) == check(render(NAMED[1], 10, 6), 10, 6) == []


GOOD = (
    "Thank you for being with us. We would like to take {} off your charge for {}. Reply YES and one of us will call."
)


@pytest.mark.parametrize(
    "percent", ["10%", "10 %", "10 percent", "ten per cent", "Ten Percent", "10 per cent", "10-percent"]
)
@pytest.mark.parametrize("duration", ["six months", "6 months", "Six months"])
def test_the_offer_s_numbers_become_slots(percent: str, duration: str) -> None:
    assert slots(GOOD.format(percent, duration), 10, 6) == GOOD.format("{offer}", "{months}")


def test_every_mention_becomes_a_slot() -> None:
    text = (
        "We take 10% off for six months. That is ten percent off each bill, and the six months begin with the next one."
    )
    expected = (
        "We take {offer} off for {months}. That is {offer} off each bill, and the {months} begin with the next one."
    )
    assert slots(text, 10, 6) == expected
    assert slots(GOOD.format("20%", "one month"), 20, 1) == GOOD.format("{offer}", "{months}")
    assert slots(GOOD.format("twenty-five percent", "twelve months"), 25, 12) == GOOD.format("{offer}", "{months}")
    free = "Thank you for being with us. If there is something that we could do better, tell us. Reply YES for a call."
    assert slots(free, 0, 6) == free


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
    assert slots(text, 10, 6) is None


@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from([*WORDS, "10%", "ten", "six months", "take", "off."])).map(" ".join)
)
def test_whatever_becomes_a_message_keeps_the_rules_at_every_offer(text: str) -> None:
    found = slots(f"{GOOD.format('10%', 'six months')} {text}", 10, 6)
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
