"""The guard: the rules and what a release adds to them, and what of both is refused when it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from retain.guard import Guard, GuardInForce, GuardWords, in_force
from retain.names import NameWords
from retain.rules import Rules, RulesError, RuleWords
from tests.words import GUARD, RULES, WORDS

GOOD = "Thank you for being with us. We would like to take 10% off your monthly charge for six months. Reply YES."


def added(**changes: Any) -> Guard:
    words = WORDS.guard.model_dump(mode="json") | changes
    return Guard(in_force(WORDS.rules, GuardWords.model_validate_json(json.dumps(words))))


def changed(**changes: Any) -> RuleWords:
    return RuleWords.model_validate_json(json.dumps(WORDS.rules.model_dump(mode="json") | changes))


def test_a_word_of_the_guard_is_refused_by_the_service_and_not_by_the_reward() -> None:
    guard = added(words={"promise": ["our new network", "a <gift>"]})
    for text in (f"{GOOD} See our new network.", f"{GOOD} See a console."):
        assert (guard.rules.unsafe(text, 10, 6), RULES.unsafe(text, 10, 6)) == (["promise"], [])
    assert guard.rules.check(GOOD, 10, 6) == []


def test_a_harmless_phrase_of_the_guard_is_let_pass() -> None:
    text = f"{GOOD} You never walk alone."
    assert RULES.unsafe(text, 10, 6) == ["guarantee"]
    assert added(harmless=["you never walk alone"]).rules.unsafe(text, 10, 6) == []


def test_a_list_of_names_is_the_guard_s() -> None:
    assert GUARD.names.clean("Ann") == "Ann"
    assert added(names={"ordinary": "we ann", "no_names": ""}).names.clean("Ann") is None


def test_a_word_of_the_guard_is_no_name_either() -> None:
    assert added(words={"insult": ["wombats?"]}).names.clean("Ann Wombat") is None
    assert GUARD.names.clean("Ann Wombat") == "Ann Wombat"


def test_an_empty_guard_is_the_rules() -> None:
    assert in_force(WORDS.rules, WORDS.guard.model_copy(update={"words": {}, "harmless": ()})).rules == WORDS.rules


def test_the_guard_in_force_survives_its_file() -> None:
    words = in_force(WORDS.rules, WORDS.guard)
    assert GuardInForce.model_validate_json(words.model_dump_json()) == words


def test_a_word_of_the_guard_for_a_kind_of_the_code_is_told_once() -> None:
    text = GOOD.replace("10%", "20%") + " See our new network."
    assert added(words={"percentage": ["our new network"]}).rules.unsafe(text, 10, 6) == ["percentage"]


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"words": {"promse": ["gift"]}}, ("words", "promse"), "is no kind of the rules (characters, percentage"),
        ({"words": {"promise": ["a <gft>"]}}, ("words", "promise", 0), "names the piece <gft>, which isn't there"),
        ({"harmless": ["fine", "a <gft>"]}, ("harmless", 1), "names the piece <gft>, which isn't there"),
        ({"harmless": ["(free"]}, ("harmless", 0), "is no regular expression: missing )"),
        ({"words": {"promise": ["fine", "(free"]}}, ("words", "promise", 1), "is no regular expression: missing )"),
        ({"sentences": {}}, ("sentences",), "lacks a sentence for the kind 'characters'"),
        (
            {"sentences": {**WORDS.guard.sentences, "promse": "lies"}},
            ("sentences", "promse"),
            "is no kind of the rules",
        ),
    ],
)
def test_what_of_the_guard_does_not_go_with_the_rules_is_named(
    changes: dict[str, Any], path: tuple[str | int, ...], says: str
) -> None:
    with pytest.raises(RulesError) as error:
        added(**changes)
    assert error.value.path == path
    assert says in str(error.value)


UNUSABLE = [
    ("(sure", "is no regular expression: missing )"),
    ("sure)(?:not", "is no regular expression: unbalanced parenthesis"),
    ("(?i)network", "is no regular expression: flags are not used here"),
    ("(?<=a*)b", "is no regular expression: look-behind requires fixed-width pattern"),
    ("", "can match what begins with no letter or digit"),
    (" of", "can match what begins with no letter or digit"),
    (".*netflix", "can match what begins with no letter or digit"),
    (r"\Wnetflix", "can match what begins with no letter or digit"),
    (r"(a)\1", "has a group that is numbered"),
    ("Network", "holds 'N' and would never match"),
    ("[A-Z]+", "holds 'A' and would never match"),
    ("caf\u00c9", "holds '\u00c9' and would never match"),
    ("don't", 'holds "\'" and would never match'),
    (r"don\'t", 'holds "\'" and would never match'),
    ("don\u2019t", "holds '\u2019' and would never match"),
    ("a <gft>", "names the piece <gft>, which isn't there"),
]


def refused_by_the_rules(**changes: Any) -> RulesError:
    with pytest.raises(ValidationError) as error:
        changed(**changes)
    (problem,) = error.value.errors()
    cause = problem["ctx"]["error"]
    assert isinstance(cause, RulesError)
    assert len(problem["msg"]) < 200  # not the pieces, which may be hundreds of characters
    return cause


@pytest.mark.parametrize(("entry", "says"), UNUSABLE, ids=[repr(entry) for entry, _ in UNUSABLE])
def test_an_entry_that_could_never_match_or_not_be_read_is_refused_wherever_it_stands(entry: str, says: str) -> None:
    for name in ("discounts", "fractions", "large_numbers", "durations", "qualifiers", "harmless"):
        error = refused_by_the_rules(**{name: ["fine", entry]})
        assert (error.path, str(error)[: len(says)]) == ((name, 1), says)
    error = refused_by_the_rules(words={"promise": ["fine", entry]})
    assert (error.path, str(error)[: len(says)]) == (("words", "promise", 1), says)
    with pytest.raises(RulesError) as guards:
        added(words={"promise": ["fine", entry]})
    assert (guards.value.path, str(guards.value)[: len(says)]) == (("words", "promise", 1), says)


def test_escapes_are_no_capitals() -> None:
    words = changed(words={"promise": [r"best\Wever", r"a\S+b", r"in\B\w+"]})
    assert Rules(words).forbidden_words("our best-ever plan") == {"promise"}


@pytest.mark.parametrize(
    ("pieces", "path", "says"),
    [
        ({"gift": ["games?", "iPads?"]}, ("pieces", "gift", 1), "holds 'P' and would never match"),
        ({"gift": "games?)|(?:x"}, ("pieces", "gift"), "is no regular expression"),
        ({"gift": ["<price>"]}, ("pieces", "gift", 0), "names the piece <price>: a piece of a piece isn't filled in"),
    ],
)
def test_a_piece_that_can_not_be_used_is_refused(pieces: Any, path: tuple[str | int, ...], says: str) -> None:
    error = refused_by_the_rules(pieces=WORDS.rules.model_dump(mode="json")["pieces"] | pieces)
    assert (error.path, str(error)[: len(says)]) == (path, says)


def test_a_kind_that_is_not_there_is_refused() -> None:
    error = refused_by_the_rules(words={"promse": ["gift"]})
    assert (error.path, str(error)[:23]) == (("words", "promse"), "is no kind of the rules")
    error = refused_by_the_rules(kinds=["promise"])
    assert (error.path, str(error)) == (("kinds",), "lacks the kind 'characters', which the code finds")


@pytest.mark.parametrize("words", ["ann, bob", "Ann", "ann o'neil", "ann; bob", "caf\u00e9"])
def test_names_are_listed_as_they_are_read(words: str) -> None:
    for field in ("ordinary", "no_names"):
        with pytest.raises(ValidationError, match="wants words of small letters, separated by spaces alone"):
            NameWords.model_validate({"ordinary": "we", "no_names": "us", field: words})
    assert NameWords(ordinary="mary-ann  we\n", no_names="").ordinary


def test_each_rules_remember_their_own_answers() -> None:
    text = f"{GOOD} See our new network."
    assert added(words={"promise": ["our new network"]}).rules.broken_rules(text, 10, 6)
    assert not RULES.broken_rules(text, 10, 6)
