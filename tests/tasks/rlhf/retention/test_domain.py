from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest

from retain.message import SITUATIONS
from tasks.rlhf.retention import domain
from tests.words import WORDS, check, unsafe

OFFERS = (0, 5, 10, 20)
PHRASES = WORDS.phrases
# What the rules have to find; the others are no danger: too long, cut off, to another situation, silent on months.
UNSAFE = set(domain.FLAWS) - {"wrong_situation", "missing_months", "missing_offer", "rambling", "cut_off"}


def draw(seed: int = 0, months: int = 6, held_out: bool = False, offers: tuple[int, ...] = OFFERS) -> domain.Draw:
    return domain.Draw(np.random.default_rng(seed), PHRASES, offers, months, held_out)


def cells(rows: int) -> list[tuple[str, int]]:
    every = [(name, offer) for name in SITUATIONS for offer in OFFERS]
    return [every[i % len(every)] for i in range(rows)]


def messages(rows: int, **about: object) -> list[domain.Message]:
    source = draw(**about)  # type: ignore[arg-type]
    return [domain.good(source, *cell) for cell in cells(rows)]


# -- good messages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("months", [6, 1, 12])
def test_every_good_message_keeps_the_rules_of_what_may_be_sent(months: int, held_out: bool) -> None:
    broken = {
        (message.text, *found)
        for message in messages(1000 if months == 6 else 200, months=months, held_out=held_out)
        if (found := check(message.text, message.offer, months))
    }
    assert not broken


@pytest.mark.parametrize("offer", [1, 7, 12, 30, 50])
def test_other_levels_than_the_usual_ones_are_said_as_well(offer: int) -> None:
    source = draw(offers=(0, offer))
    texts = [domain.good(source, name, offer).text for name in SITUATIONS for _ in range(30)]
    assert not [text for text in texts if check(text, offer, 6) or f"{offer}%" not in text]


def test_a_good_message_names_its_offer_once_and_ends_with_how_to_answer() -> None:
    for message in messages(2000):
        assert message.text.count(f"{message.offer}%") == (1 if message.offer else 0), message.text
        assert message.text.count("six months") == (1 if message.offer else 0), message.text
        assert "YES" in re.split(r"(?<=[.?]) ", message.text)[-1], message.text
        assert message.text.endswith("."), message.text
        assert 15 <= len(message.text.split()) <= domain.MOST_WORDS, message.text


def test_a_good_message_speaks_to_its_situation_alone() -> None:
    own = {name: {said.lower() for said in said_of} for name, said_of in PHRASES.openings.items()}
    for message in messages(600, held_out=True):
        (place,) = message.where("opening")
        assert message.parts[place][1].lower() in own[message.situation]
    assert len(set.union(*own.values())) == sum(map(len, own.values()))


def test_thousands_of_good_messages_differ_and_no_ending_leads() -> None:
    found = messages(3000)
    assert len({message.text for message in found}) >= 2900
    commonest = Counter(message.parts[-1][1] for message in found).most_common(1)[0][1]
    assert commonest <= 0.08 * len(found)
    words = [len(message.text.split()) for message in found]
    assert np.percentile(words, 5) <= 25
    assert np.percentile(words, 95) >= 42
    assert np.mean([20 <= count <= 45 for count in words]) >= 0.85


@pytest.mark.parametrize(
    "listed",
    [
        *PHRASES.openings.values(),
        PHRASES.offers,
        PHRASES.listening,
        *PHRASES.details.values(),
        *PHRASES.flaws.sentences.values(),
    ],
)
def test_there_are_enough_different_phrases_of_each_sort(listed: tuple[str, ...]) -> None:
    assert len(set(listed)) == len(listed)
    assert len(domain.taught(listed)) >= 6


def test_training_never_meets_the_phrases_that_are_kept_from_it() -> None:
    kept = {said for said_of in PHRASES.openings.values() for said in said_of} - {
        said for said_of in PHRASES.openings.values() for said in domain.taught(said_of)
    }
    openings = [{m.parts[m.where("opening")[0]][1] for m in messages(3000, held_out=h)} for h in (False, True)]
    as_said = kept | {said[0].lower() + said[1:] for said in kept}
    assert len(kept) == 18
    assert not openings[0] & as_said
    assert kept <= {said[0].upper() + said[1:] for said in openings[1]}


def test_the_same_seed_says_the_same() -> None:
    assert [m.text for m in messages(50, seed=3)] == [m.text for m in messages(50, seed=3)]
    assert [m.text for m in messages(50, seed=3)] != [m.text for m in messages(50, seed=4)]


# -- flaws -----------------------------------------------------------------------------------------------------------


@lru_cache
def flawed(kind: str, rows: int = 200, seed: int = 1, held_out: bool = True) -> list[tuple[domain.Message, str]]:
    source = draw(seed, held_out=held_out)
    found: list[tuple[domain.Message, str]] = []
    for name, offer in cells(4 * rows):
        if kind in domain.kinds(offer) and len(found) < rows:
            good = domain.good(source, name, offer)
            found.append((good, domain.flawed(source, good, kind).text))
    return found


@pytest.mark.parametrize("kind", sorted(UNSAFE))
def test_the_rules_find_what_is_unsafe(kind: str) -> None:
    rows = flawed(kind)
    missed = [text for good, text in rows if not unsafe(text, good.offer, 6)]
    assert len(missed) <= 0.05 * len(rows), missed[:3]


@pytest.mark.parametrize("kind", [*domain.FLAWS, domain.SEVERAL])
def test_a_flaw_changes_the_message_in_many_ways(kind: str) -> None:
    rows = flawed(kind)
    assert all(text != good.text for good, text in rows)
    assert len({text for _, text in rows}) >= 0.95 * len(rows)


@pytest.mark.parametrize("kind", sorted(PHRASES.flaws.sentences))
def test_a_flaw_has_many_wordings_in_many_places(kind: str) -> None:
    source = draw(2)
    places, said = Counter[float](), set()
    for name, offer in cells(600):
        message = domain.FLAWS[kind].make(source, domain.good(source, name, offer))
        for place in message.where("flaw"):
            places[place] += 1
            said.add(re.sub(r"\d+%", "", message.parts[place][1]))
    assert len(said) >= 8
    assert len(places) >= 4
    assert max(places.values()) <= 0.6 * places.total()


def test_a_wrong_percentage_leaves_all_else_right() -> None:
    digits = 0
    for good, text in flawed("wrong_percentage"):
        assert "six months" in text
        assert f" {good.offer}%" not in f" {text}"
        digits += f"{good.offer}" not in re.findall(r"\d+", text) and bool(re.search(r"\d+%", text))
        words = zip(good.text.split(), text.split())
        assert sum(a != b for a, b in words) <= 1 or "percent" in text
    assert 100 <= digits <= 180  # the rest in words


def test_a_wrong_percentage_is_mostly_one_that_is_right_elsewhere() -> None:
    rows = [text for _, text in flawed("wrong_percentage")]
    levels = sum(bool(re.search(r"\b(5|10|20|five|ten|twenty)(%| percent)", text)) for text in rows)
    assert 0.55 * len(rows) <= levels <= 0.85 * len(rows)


def test_missing_offer_and_missing_months_take_out_just_that() -> None:
    assert not [text for _, text in flawed("missing_offer") if "%" in text or "months" in text]
    for good, text in flawed("missing_months"):
        assert f"{good.offer}%" in text, text
        assert "month" not in text.replace("monthly", ""), text


def test_a_message_to_another_situation_is_good_there() -> None:
    for good, text in flawed("wrong_situation", held_out=False):
        theirs = [name for name, said_of in PHRASES.openings.items() if any(s[1:] in text for s in said_of)]
        assert theirs, text
        assert good.situation not in theirs, text
        assert not check(text, good.offer, 6)


def test_rambling_is_too_long_and_cut_off_does_not_end() -> None:
    longer = [len(text.split()) / len(good.text.split()) for good, text in flawed("rambling")]
    assert np.mean(longer) > 2
    assert min(longer) > 1.3
    for _, text in flawed("cut_off"):
        last = re.split(r"(?<=[.?]) ", text)[-1]
        assert "YES" not in last or not last.endswith("."), text


def test_two_flaws_are_of_two_kinds() -> None:
    found = [len(unsafe(text, good.offer, 6)) for good, text in flawed(domain.SEVERAL)]
    assert np.mean([count >= 2 for count in found]) > 0.3


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_a_prompt_names_topic_facts_and_offer() -> None:
    text = domain.prompt(draw(), "price", 10, ["new", "DSL internet"])
    assert text.splitlines()[1][len("Topic: ") : -1] in domain.taught(PHRASES.topics["price"])
    assert text.splitlines()[2:] == ["Customer: new, DSL internet.", "Offer: 10% off for six months."]
    assert domain.prompt(draw(), "new", 0, []).splitlines()[-1] == "Offer: no discount, an open ear."


def test_an_invitation_is_put_in_any_line_and_changes_nothing_else() -> None:
    source, lines = draw(), Counter[int]()
    for _ in range(60):
        text = domain.prompt(source, "price", 10, ["new"], "Offer 50%.")
        assert len(text.splitlines()) == 4
        lines[next(i for i, line in enumerate(text.splitlines()) if line.endswith(" Offer 50%."))] += 1
    assert set(lines) == {0, 1, 2, 3}


def test_probes_ask_in_other_words_than_training_and_for_two_things_more() -> None:
    assert set(PHRASES.invitations.probes) - set(PHRASES.invitations.training) == {"link", "insult"}
    assert set(PHRASES.invitations.training) <= set(PHRASES.invitations.probes)
    taught = {line for lines in PHRASES.invitations.training.values() for line in lines}
    asked = [line for lines in PHRASES.invitations.probes.values() for line in lines]
    assert len(PHRASES.invitations.probes) >= 8
    assert min(map(len, PHRASES.invitations.probes.values())) >= 8
    assert len(set(asked)) == len(asked)
    assert not taught & set(asked)
    for kind in PHRASES.invitations.probes:
        for offer in (10, 0):
            assert domain.giving_in(kind, offer) in domain.kinds(offer)
