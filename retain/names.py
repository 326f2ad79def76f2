"""Names that a message may say: what is a name by its letters, and no word that says something else.

A name is data from outside, and "Hello you silly clown" is a message. So it has at most two words, each with a capital
(particles apart), and none of them an ordinary word, one that is no name, or one that a rule of retain.rules turns
down: as it stands, with hyphens and apostrophes left out ("Fu-Ck"), without what surnames begin with ("McFree"), and
taken apart ("Freegift"). Real names are among those (Christian, Faith, French). What isn't said costs little: a message
does without.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from pydantic import field_validator

from retain.frozen import Frozen
from retain.numbers import numbers_in
from retain.rules import Rules

MAX_NAME = 40
_PARTICLE_WORDS = "al bin da de del den der di dos du el ibn la le san ter van von y zu"
_PARTICLES = frozenset(_PARTICLE_WORDS.split())
# A capital within a word stands after one of these alone: O'Neil, McDonald, DeVito, LaToya.
_PREFIX = r"(?:Mc|Mac|Da|De|Del|Di|Du|Fitz|La|Le|San|St|Van|Ver|Von)"
_PART = rf"(?:[DOLM]')?(?:{_PREFIX}(?=[A-Z][a-z]))?[A-Z][a-z]*"
_WORD = re.compile(rf"{_PART}(?:-{_PART}){{0,2}}")
_CUT = re.compile(r"[-' ]|(?<=[a-z])(?=[A-Z])")
_LISTED = re.compile("[a-z]+(?:-[a-z]+)*")
_BEGINS = re.compile(r"(?:mc|mac|fitz)(?=[a-z]{3})")


class NameWords(Frozen):
    """What is no name: `ordinary` words, and those that are worse as a name (`no_names`), separated by spaces."""

    ordinary: str
    no_names: str

    @field_validator("ordinary", "no_names")
    @classmethod
    def _such_as_a_name_is_read(cls, words: str) -> str:
        if odd := [word for word in words.split() if not _LISTED.fullmatch(word)]:
            raise ValueError(f"holds {odd[0]!r}: wants words of small letters, separated by spaces alone")
        return words


class Names:
    """Which names may be said."""

    def __init__(self, words: NameWords, rules: Rules) -> None:
        self._no_names = frozenset(words.no_names.split())
        self._words = self._no_names | frozenset(words.ordinary.split())
        self._rules = rules

    def clean(self, name: str) -> str | None:
        """A name as it may be said, without accents; None for what isn't one, or says something else."""
        if len(name) > 2 * MAX_NAME:
            return None
        bare = "".join(c for c in unicodedata.normalize("NFD", name) if unicodedata.category(c) != "Mn")
        bare = bare.replace("\u2019", "'").strip()
        if bare.isupper():
            words = bare.title().split(" ")
            bare = " ".join(word.lower() if word.lower() in _PARTICLES else word for word in words)
        words = bare.split(" ")
        spoken = [word for word in words if word not in _PARTICLES]
        if len(bare) > MAX_NAME or not 1 <= len(spoken) <= 2 or len(words) > 4 or words[-1] in _PARTICLES:
            return None
        if not all(map(_WORD.fullmatch, spoken)) or all(len(part) == 1 for word in spoken for part in word.split("-")):
            return None
        return None if any(map(self._says_something, set(self._readings(bare, spoken)))) else bare

    def _readings(self, bare: str, spoken: list[str]) -> Iterator[str]:
        """The ways in which a name can be read: whole and joined, word by word, and each part of a word."""
        for text in (bare, " ".join(spoken), *spoken):
            low = text.lower()
            yield from (low.replace("'", ""), re.sub("[-']", " ", low), re.sub("[-' ]", "", low))
        for part in _CUT.split(" ".join(spoken)):
            low = part.lower()
            yield low
            yield _BEGINS.sub("", low)
            for cut in range(3, len(low) - 2):
                yield from self._two(low[:cut], low[cut:])

    def _two(self, first: str, second: str) -> Iterator[str]:
        """Two words written as one, if both are such as are no names and one of them is worse than ordinary."""
        if first in self._words and second in self._words and {first, second} & self._no_names:
            yield f"{first} {second}"

    def _says_something(self, text: str) -> bool:
        words = set(text.split(" "))
        return bool(words & self._words or "one" in words or numbers_in(text) or self._rules.forbidden_words(text))
