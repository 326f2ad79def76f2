"""Patterns that are found by the first letters of words are those that are found when each is tried everywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain.patterns import PatternError, Patterns, Replaced, word_starts
from retain.rules import with_pieces
from tests.retain.message_cases import CASES
from tests.words import WORDS

RULES = WORDS.rules
LISTS: Mapping[str, Sequence[str]] = {
    name: [rf"(?:{with_pieces(entry, RULES.pieces)})\b" for entry in entries]
    for name, entries in {**RULES.words, "discounts": RULES.discounts, "fractions": RULES.fractions}.items()
}
HARMLESS = [rf"(?:{with_pieces(entry, RULES.pieces)})\b" for entry in RULES.harmless]
PATTERNS, REPLACED = Patterns({**LISTS}), Replaced(HARMLESS, " so ")
EVERYWHERE = {name: re.compile(rf"\b(?:{'|'.join(patterns)})") for name, patterns in LISTS.items()}
HARMLESS_EVERYWHERE = re.compile(rf"\b(?:{'|'.join(HARMLESS)})")

# The plain words of all entries, whole and cut, and what stands between words.
SPOKEN = sorted(
    {word for texts in (*LISTS.values(), HARMLESS) for text in texts for word in re.findall("[a-z]+", text)}
)
PART = st.sampled_from(SPOKEN) | st.sampled_from(SPOKEN).map(lambda word: word[:3])
GAP = st.sampled_from([" ", " ", " ", "", "-", ".", ", ", "  ", " \u2014 ", "!", "_", "'"])
TEXT = st.lists(st.tuples(PART, GAP), max_size=25).map(lambda parts: "".join(word + gap for word, gap in parts))


def check(text: str) -> None:
    starts = word_starts(text)
    assert PATTERNS.names(text, starts) == {name for name, pattern in EVERYWHERE.items() if pattern.search(text)}
    assert REPLACED(text, starts) == HARMLESS_EVERYWHERE.sub(" so ", text)


@settings(max_examples=400)
@given(TEXT | st.text(max_size=120) | st.text("abehmnorstu \u0661\u00df1-.", max_size=60))
def test_the_rules_lists_find_what_they_find_everywhere(text: str) -> None:
    check(text)


def test_the_same_of_every_labelled_message() -> None:
    for case in CASES:
        check(case.text.lower().replace("'", ""))


@pytest.mark.parametrize(
    "pattern",
    [
        "cat", "cats?", "(?:big )?cat", "(?:c|d|(?:ca)+)at", "[cd]og", "[a-z]og", r"\d+ ?cat", "[0-9]x", "c{2}at",
        r"\w*cat", r"\w+ cat", "(?<!no )cat", r"(?=ca)\w+t", "(?:cat|dog){2,}", "c.t", "c[^a]t", "(?:a|ab)(?:c|bcd)",
        "x(?:y?){3}z", "(c)at", "ca(?:t|r(?:s|t))", "[a-z]{2,3}t", r"o?n", "a|b", "(?:c*)a",
    ],
)  # fmt: skip
@settings(max_examples=60)
@given(text=st.text("abcdogtrsnxyz 19\u0662-_", max_size=25))
def test_any_pattern_finds_what_it_finds_at_every_word(pattern: str, text: str) -> None:
    everywhere, starts = re.compile(rf"\b(?:{pattern})"), word_starts(text)
    assert bool(Patterns({"it": [pattern]}).names(text, starts)) == bool(everywhere.search(text))
    assert Replaced([pattern], "!")(text, starts) == everywhere.sub("!", text)


@pytest.mark.parametrize("pattern", [" cat", "a?", "(?:a?) cat", ".cat", "[^a]b", "", r"\Wcat", "(?:x| y)", r"(a)?\1b"])
def test_what_begins_no_word_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError, match="can match what begins with no letter or digit"):
        Patterns({"it": [pattern]})


@pytest.mark.parametrize("pattern", ["(cat", "cat)", "c[", "*", "(?<=a*)b", "(?i)cat", "(?x:c at)", "a{2,1}"])
def test_a_broken_pattern_is_named(pattern: str) -> None:
    with pytest.raises(PatternError) as error:
        Patterns({"pets": ["dog", pattern]})
    assert str(error.value).startswith(f"pets: {pattern!r} is no regular expression: ")
