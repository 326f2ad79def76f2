"""The guard: the rules and what a release adds to them, and what of both is refused when it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from retain.guard import Guard, GuardInForce, GuardWords, in_force
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
    assert in_force(WORDS.rules, GuardWords(words={}, harmless=(), names=WORDS.guard.names)).rules == WORDS.rules


def test_the_guard_in_force_survives_its_file() -> None:
    words = in_force(WORDS.rules, WORDS.guard)
    assert GuardInForce.model_validate_json(words.model_dump_json()) == words


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"words": {"promse": ["gift"]}}, "'promse' is no kind of the rules (characters, percentage"),
        ({"words": {"promise": ["a <gft>"]}}, "'a <gft>' names the piece <gft>, which isn't there"),
        ({"harmless": ["a <gft>"]}, "'a <gft>' names the piece <gft>, which isn't there"),
    ],
)
def test_what_the_rules_do_not_have_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RulesError) as error:
        added(**changes)
    assert says in str(error.value)


@pytest.mark.parametrize("changes", [{"words": {"promise": ["fine", "(free"]}}, {"harmless": ["(free"]}])
def test_a_broken_entry_of_the_guard_is_named_when_it_is_read(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as error:
        added(**changes)
    (problem,) = error.value.errors()
    assert (problem["loc"][-1], problem["input"]) == (1 if "words" in changes else 0, "(free")
    assert "is no regular expression: missing )" in problem["msg"]


def test_the_rules_name_their_own_broken_entry() -> None:
    with pytest.raises(RulesError, match=r"guarantee: '.*\(sure.*' is no regular expression: missing \)"):
        Rules(changed(words={**WORDS.rules.words, "guarantee": ["never", "(sure"]}))


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("words", {"promse": ["gift"]}, "'promse' is no kind of the rules"),
        ("words", {"promise": ["a <gft>"]}, "'a <gft>' names the piece <gft>, which isn't there"),
        ("harmless", ["a <gft>"], "'a <gft>' names the piece <gft>, which isn't there"),
        ("kinds", {"promise": "promises"}, "lacks the kind characters, which the code finds"),
    ],
)
def test_rules_that_do_not_hold_together_are_named_with_their_list(key: str, value: Any, says: str) -> None:
    with pytest.raises(ValidationError) as error:
        changed(**{key: value})
    assert error.value.errors()[0]["loc"] == (key,)
    assert says in str(error.value)


def test_each_rules_remember_their_own_answers() -> None:
    text = f"{GOOD} See our new network."
    assert added(words={"promise": ["our new network"]}).rules.broken_rules(text, 10, 6)
    assert not RULES.broken_rules(text, 10, 6)
