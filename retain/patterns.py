"""Which of many patterns a text matches, found by the first letters of its words.

A safety rule is a list of a hundred patterns or more, of which an ordinary text can begin few: "free" can only be at
a word that begins with "fre". What the matches of a pattern can begin with is read off the pattern as Python parses
it, and the pattern is tried at words that begin like that. Whatever can't be told counts as possible, so the answer is
that of trying every pattern at every word (tests/retain/test_patterns.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import import_module
from itertools import groupby
from typing import Any, NamedTuple

_parser: Any = import_module("re._parser")  # Python has no public module that parses patterns

Match = Callable[[str, int], re.Match[str] | None]

DEPTH = 5  # characters of a word that are looked at
_WORD = re.compile(r"\w+")
_ZERO_WIDTH = {"AT", "ASSERT", "ASSERT_NOT"}
_REPEATS = {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}
_FLAGS = re.compile(r"\(\?[aiLmsux-]")
_ANY_OF_WORD, _DIGIT = r"\w", r"\d"  # as a class's character


class PatternError(ValueError):
    """A pattern that is no regular expression, or that a word can't begin."""


class Reading(NamedTuple):
    """`beginnings`: what a match can begin with, up to DEPTH characters each; "0" is any digit, "" any word. `needed`:
    parts of which a text that matches has one; none where that can't be told."""

    beginnings: frozenset[str]
    needed: tuple[str, ...]


class _Pattern(NamedTuple):
    """A pattern of the list `name`, and what read() says of it."""

    name: Hashable
    text: str
    beginnings: frozenset[str]
    needed: tuple[str, ...]


class Patterns:
    """Named lists of patterns, each of which is tried where a word begins; `lists`: their names."""

    def __init__(self, lists: Mapping[Hashable, Sequence[str]]) -> None:
        """Raises PatternError for a pattern that is broken, or that may match what begins no word."""
        self.lists = tuple(lists)
        patterns = [_pattern(name, text) for name, texts in lists.items() for text in texts]
        self._begun = _ByBeginning([pattern for pattern in patterns if all(pattern.beginnings)])
        self._anywhere = _Bucket([pattern for pattern in patterns if not all(pattern.beginnings)])

    def names(self, text: str, starts: Sequence[int]) -> set[Hashable]:
        """The names of the lists of which a pattern matches somewhere in the text. `starts`: word_starts(text)."""
        names = set[Hashable]()
        for start in starts:
            bucket = self._begun.bucket(text[start : start + DEPTH])
            if bucket is not None and bucket.match(text, start):
                names.update(name for name, match in bucket.by_name if match(text, start))
        for pattern, match in self._anywhere.by_pattern:
            if pattern.name not in names and (not pattern.needed or any(part in text for part in pattern.needed)):
                names.update(pattern.name for start in starts if match(text, start))
        return names


class Replaced:
    """Patterns whose matches are replaced by a word."""

    def __init__(self, patterns: Sequence[str], by: str) -> None:
        """Raises PatternError as Patterns does."""
        self._begun = _ByBeginning([_pattern("harmless", text) for text in patterns])
        self._by = by

    def __call__(self, text: str, starts: Sequence[int]) -> str:
        """The text with the word in place of what matches, from left to right as re.sub does."""
        parts, end = [], 0
        for start in starts:
            bucket = self._begun.bucket(text[start : start + DEPTH]) if start >= end else None
            if bucket is not None and (match := bucket.match(text, start)):
                parts += [text[end:start], self._by]
                end = match.end()
        return "".join([*parts, text[end:]]) if parts else text


def word_starts(text: str) -> list[int]:
    """Where a word begins."""
    return [word.start() for word in _WORD.finditer(text)]


class _Bucket:
    """Patterns that words of one beginning can begin; compiled when there is such a word."""

    def __init__(self, patterns: Sequence[_Pattern]) -> None:
        self.patterns = patterns

    @cached_property
    def match(self) -> Match:
        """Of the first pattern that matches."""
        return _compiled(self.patterns)

    @cached_property
    def by_name(self) -> list[tuple[Hashable, Match]]:
        groups = groupby(self.patterns, key=lambda pattern: pattern.name)
        return [(name, _compiled([*group])) for name, group in groups]

    @cached_property
    def by_pattern(self) -> list[tuple[_Pattern, Match]]:
        return [(pattern, _compiled([pattern])) for pattern in self.patterns]


class _ByBeginning:
    """Patterns by what their matches begin with."""

    def __init__(self, patterns: Sequence[_Pattern]) -> None:
        places: dict[str, list[int]] = {}
        for place, pattern in enumerate(patterns):
            for beginning in pattern.beginnings:
                places.setdefault(beginning, []).append(place)
        self._buckets = {}
        for key in places:
            shorter = {place for length in range(len(key) + 1) for place in places.get(key[:length], ())}
            self._buckets[key] = _Bucket([patterns[place] for place in sorted(shorter)])
        self.bucket = lru_cache(maxsize=4096)(self._bucket)

    def _bucket(self, begins: str) -> _Bucket | None:
        """The patterns, in their order, that a word which begins like that can begin; None if there are none."""
        key = "0" if begins[0].isdecimal() else begins
        while key not in self._buckets and key:
            key = key[:-1]
        return self._buckets.get(key)


def _compiled(patterns: Sequence[_Pattern]) -> Match:
    return re.compile("|".join(f"(?:{pattern.text})" for pattern in patterns)).match


# -- what a pattern says of its matches ----------------------------------------------------------------------------


@lru_cache(maxsize=8192)  # the lists of rules have some 850 entries, which are read when they are checked and when used
def read(text: str) -> Reading:
    """What a pattern says of its matches. Raises PatternError for one that is broken, or that a word can't begin."""
    parsed = _parsed(text)
    ended, unfinished = _beginnings(parsed, {""})
    beginnings = ended | unfinished
    if "" in unfinished or not all(_begins_a_word(beginning) for beginning in beginnings):
        raise PatternError("can match what begins with no letter or digit")
    return Reading(frozenset(beginnings), () if all(beginnings) else _needed(parsed))


@lru_cache(maxsize=8192)
def check_part(text: str) -> None:
    """Raises PatternError for a text that can't be a part of a pattern: broken by itself, or with a numbered group."""
    if _parsed(text).state.groups > 1:
        raise PatternError("has a group that is numbered, which others would shift: write (?:...)")


def _pattern(name: Hashable, text: str) -> _Pattern:
    try:
        return _Pattern(name, text, *read(text))
    except PatternError as error:
        raise PatternError(f"{name}: {text!r} {error}") from None


def _parsed(text: str) -> Any:
    try:
        if _FLAGS.search(text):
            raise re.error("flags are not used here")
        parsed = _parser.parse(text)
        if "(?<" in text:
            re.compile(text)  # that what stands behind is of one length is seen here alone
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"is no regular expression: {error}") from None
    return parsed


def _begins_a_word(beginning: str) -> bool:
    return not beginning or _WORD.match(beginning) is not None


def _beginnings(parsed: Any, before: set[str]) -> tuple[set[str], set[str]]:
    """What can stand at the begin of a match after any of `before`: (known as far as it goes, may go on)."""
    ended, unfinished = set[str](), set(before)
    for operator, value in parsed:
        name = str(operator)
        if name in _ZERO_WIDTH:
            continue
        if name in ("SUBPATTERN", "BRANCH", *_REPEATS):
            known, longer = _of_parts(name, value, unfinished)
        else:
            known, longer = _of_character(name, value, unfinished)
        full = {beginning for beginning in longer if len(beginning) >= DEPTH}
        ended |= known | full
        unfinished = longer - full
        if not unfinished:
            break
    return ended, unfinished


def _of_parts(name: str, value: Any, before: set[str]) -> tuple[set[str], set[str]]:
    """As _beginnings, of a group, of alternatives or of what is repeated."""
    known, longer = set[str](), set[str]()
    for part in value[1] if name == "BRANCH" else [value[-1]]:
        ended, unfinished = _beginnings(part, before)
        known |= ended
        longer |= unfinished
    if name in _REPEATS:
        least, most, _ = value
        if most > 1:  # the same may follow, or what comes next
            known |= longer - {""}
            longer &= {""}
        if least == 0:
            longer |= before
    return known, longer


def _of_character(name: str, value: Any, before: set[str]) -> tuple[set[str], set[str]]:
    """As _beginnings, of one character, or of what isn't known here: that counts as a space, which begins no word."""
    characters = _characters(name, value)
    if characters is None:
        return {beginning or " " for beginning in before}, set()
    known, longer = set[str](), set[str]()
    for beginning in before:
        for character in characters:
            if character == _ANY_OF_WORD:
                known.add(beginning)
            elif character == _DIGIT or (character.isdecimal() and not beginning):
                known.add(beginning or "0")
            else:
                longer.add(beginning + character)
    return known, longer


def _characters(name: str, value: Any) -> set[str] | None:
    """The characters of a literal or a class; None for a class that takes others than those of words."""
    if name == "LITERAL":
        return {chr(value)}
    if name != "IN":
        return None
    characters = set[str]()
    for operator, inner in value:
        what = f"{operator} {inner}" if str(operator) == "CATEGORY" else str(operator)
        if what == "LITERAL":
            characters.add(chr(inner))
        elif what == "CATEGORY CATEGORY_WORD" or (what == "RANGE" and all(map(_WORD.match, map(chr, _codes(*inner))))):
            characters.add(_ANY_OF_WORD)
        elif what == "CATEGORY CATEGORY_DIGIT":
            characters.add(_DIGIT)
        else:
            return None
    return characters


def _codes(first: int, last: int) -> range:
    return range(first, last + 1)


def _needed(parsed: Any) -> tuple[str, ...]:
    """Parts of which every match has one: of all that can be told the longest; none where nothing can."""
    best: tuple[str, ...] = ()
    literal = ""
    for operator, value in [*parsed, ("END", None)]:
        name = str(operator)
        if name == "LITERAL":
            literal += chr(value)
            continue
        parts: list[tuple[str, ...]] = [(literal,)]
        literal = ""
        if name == "SUBPATTERN" or (name in _REPEATS and value[0] > 0):
            parts.append(_needed(value[-1]))
        elif name == "BRANCH":
            each = [_needed(part) for part in value[1]]
            parts.append(tuple(part for of_one in each for part in of_one) if all(each) else ())
        best = max(best, *parts, key=lambda parts: min(map(len, parts), default=0))
    return best if all(best) else ()
