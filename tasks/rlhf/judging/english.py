"""Whether a message is English and says one thing: asked of what a model wrote, before a person reads it.

A small model writes half words ("fking"), doubled sentences, and sentences melted into one another ("Your contract
should from our team"). Sentence by sentence: is every word one of the pinned list; do two neighbours stand together at
least as often as chance would put them; has each clause one verb, in its right form; is nothing missing at the end, and
nothing there twice. Words and pairs are those of symspellpy (82,765 words and 243,342 pairs of Google Books, counted);
the small words that grammar hangs on are the experiment's (ops/messages/english.yaml). It knows no meaning: what passes
can still be nonsense, which is why a person reads it. docs/WORDS.md says how much of it is found.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import RetainError

if TYPE_CHECKING:
    from tasks.words import EnglishConfig

PACKAGE = "symspellpy"
WORD_COUNTS, PAIR_COUNTS = "frequency_dictionary_en_82_765.txt", "frequency_bigramdictionary_en_243_342.txt"

# The log of how much more often two words stand together than chance would put them. On the labelled texts for
# development the pairs of good ones begin at 0.7; "your we" has -0.5, "we for" -1.6. "Should and", which is fine, 0.2.
LEAST_TOGETHER = 0.0
# A pair that the list lacks is rarer than its rarest; half of that one's count is taken for it.
UNLISTED = 0.5
LONGEST_REPEAT = 4  # words
# What a word is, by what it follows in the list of pairs: the counts of the pairs over the word's own (the two lists
# are of corpora of different size, so it can be above 1). Behind a modal or "to": listen 12.8, call 6.5, fair 1.2.
# Behind "it" or "who": takes 14.9, suits 5.8, plans 0.8; behind "the" or "your": takes 0, suits 0.9, plans 3.5.
BASE_FORM, THIRD_PERSON = 5.0, 2.5

_TOKEN = re.compile(r"\{[a-z]+\}|\d[\d.,%]*|[A-Za-z]+(?:['-][A-Za-z]+)*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_PART = re.compile(r"[.!?,:;()\"“”…—–]|\s-\s")


class English:
    """The words of one experiment with the pinned lists."""

    def __init__(self, words: EnglishConfig) -> None:
        self._counts, self._pairs = _counts()
        self._total, self._least = sum(self._counts.values()), UNLISTED * min(self._pairs.values())
        self._lists = {name: frozenset(line.split()) for name, line in words}
        self._known = (self._counts.keys() | self._lists["words"]) - self._lists["no_words"]

    def faults(self, text: str) -> list[str]:
        """What is wrong with a message, which may hold slots; [] for one that a person may read."""
        plain = text.replace("’", "'")
        sentences = [tokens for part in _SENTENCE.split(plain) if (tokens := _TOKEN.findall(part))]
        parts = [_lower(_TOKEN.findall(part)) for part in _PART.split(plain)]
        faults = [fault for tokens in sentences for fault in self._in_sentence(tokens)]
        faults += _twice(sentences, self._lists["capitals"])
        faults += [fault for words in parts for fault in self._in_part(words)]
        return list(dict.fromkeys(faults))

    def _in_sentence(self, tokens: Sequence[str]) -> Iterator[str]:
        words, lists = _lower(tokens), self._lists
        for word in words:
            if not _is_amount(word) and not self._is_word(word):
                yield f"{word} is no word"
        if tokens[0][0].islower():
            yield f"begins with a small letter: {tokens[0]}"
        for place, token in enumerate(tokens):
            inner = token[1:] if place == 0 else token
            if inner != inner.lower() and not {token, token.split("'")[0]} & lists["capitals"]:
                yield f"a capital within a sentence: {token}"
        # "It works as it should" and "we hope you will" end in a modal; "A contract should" lacks its verb.
        answers = (lists["connectors"] | lists["clause_verbs"]) & set(words)
        if words[-1] in lists["dangling"] or (words[-1] in lists["modals"] and not answers):
            yield f"ends in: {words[-1]}"
        for length in range(1, LONGEST_REPEAT + 1):
            for start in range(len(words) - 2 * length + 1):
                first, second = words[start : start + length], words[start + length : start + 2 * length]
                if first == second:
                    yield f"twice: {' '.join(first)}"

    def _in_part(self, words: Sequence[str]) -> Iterator[str]:
        """Of what stands between two signs of punctuation."""
        lists = self._lists
        inner = [word for word in words if not self._is_adverb(word)]
        for pair in (*pairwise(words), *pairwise(inner)):
            if self._together(*pair) < LEAST_TOGETHER:
                yield f"no pair of words: {' '.join(pair)}"
        for three in zip(["", *inner], inner, inner[1:]):
            if self._lacks_a_verb(*three) or self._has_a_verb_too_many(*three):
                yield f"the verb is wrong: {' '.join(three).strip()}"
        for subject, between, again in zip(words, words[1:], words[2:]):
            joined = between in lists["connectors"] or between in lists["clause_verbs"]
            if subject == again and subject in lists["subjects"] and not joined:
                yield f"twice: {subject} {between} {again}"
        if len(words) > 2 and words[0] in lists["articles"] and words[2] in lists["plural_verbs"]:
            of_many = words[1].endswith("s") or words[1] in lists["plurals"]
            if not of_many:
                yield f"one and many: {' '.join(words[:3])}"
        yield from self._melted(inner)

    def _lacks_a_verb(self, before: str, word: str, after: str) -> bool:
        """After `word`, which stands behind `before` ("" at the start)."""
        lists = self._lists
        if before and word in lists["modals"]:  # a question begins with its modal
            return after in lists["not_after_modal"]
        if word == "to":
            return after in lists["finite"] or (before in lists["before_to"] and after in lists["articles"])
        return after == "be" and word in lists["subjects"] and before not in lists["modals"]

    def _has_a_verb_too_many(self, before: str, word: str, after: str) -> bool:
        lists = self._lists
        if word in lists["articles"]:
            share = self._share("before_verb", after)
            return share >= BASE_FORM and self._share("before_noun", after) == 0
        unlisted = (word, after) not in self._pairs
        wanted = (
            (word in lists["auxiliaries"] and unlisted and before != "do")  # "all you need to do is reply"
            or (word in lists["wanting"] and unlisted)
            or (word in lists["objects"] and before not in lists["before_object"])
        )
        return wanted and self._share("before_base", after) >= BASE_FORM

    def _melted(self, words: Sequence[str]) -> Iterator[str]:
        """A second verb without a clause of its own."""
        lists = self._lists
        last, spare = None, 0  # the place of the verb before in this clause; verbs that nouns with a clause still want
        for place, word in enumerate(words):
            spare += word in lists["relatives"]
            if word in lists["connectors"]:
                last = None
            elif word in lists["finite"] or self._third_person(word):
                begun = words[place - 1] in lists["subjects"] or lists["clause_verbs"] & set(words[:place])
                if last is not None and last < place - 1 and not begun:
                    if spare == 0:
                        yield f"two verbs of one clause: {' '.join(words[last : place + 1])}"
                    spare -= 1
                last = place

    def _is_adverb(self, word: str) -> bool:
        return word in self._lists["adverbs"] or (word.endswith("ly") and word not in self._lists["not_adverbs"])

    def _is_word(self, word: str) -> bool:
        """Whether it is in the list, one of it with 's, or such words with hyphens. Of single letters two are words."""
        if word in self._known:
            return len(word) > 1 or word in "ai"
        return all(part in self._known for part in word.removesuffix("'s").split("-"))

    def _third_person(self, word: str) -> bool:
        """Whether it is a verb such as "takes"."""
        if not word.endswith("s"):
            return False
        share = self._share("before_third_person", word)
        return share >= THIRD_PERSON and share >= 2 * self._share("before_noun", word)

    def _share(self, before: str, word: str) -> float:
        """How often it follows one of that list, by the counts of pairs."""
        return sum(self._pairs.get((other, word), 0) for other in self._lists[before]) / self._counts.get(word, 1)

    def _together(self, first: str, second: str) -> float:
        """How much more often than by chance, as a log; 0 where the list can't tell: amounts, YES, unknown words."""
        if any(word.upper() in self._lists["capitals"] or word not in self._counts for word in (first, second)):
            return 0.0
        expected = self._counts[first] * self._counts[second] / self._total
        return math.log(self._pairs.get((first, second), self._least) / expected)


def _twice(sentences: Sequence[Sequence[str]], once: Collection[str]) -> Iterator[str]:
    """Sentences that stand there again, and what a message says once: slots, and words in capitals such as YES."""
    seen = set[tuple[str, ...]]()
    for tokens in sentences:
        words = tuple(_lower(tokens))
        if len(words) > 1 and words in seen:
            yield f"twice: {' '.join(words)}"
        seen.add(words)
    every = [token for tokens in sentences for token in tokens]
    for token in dict.fromkeys(every):
        if every.count(token) > 1 and (_is_amount(token) or (len(token) > 2 and token in once)):
            yield f"twice: {token}"


def _is_amount(word: str) -> bool:
    """A slot, or digits."""
    return not word[0].isalpha()


def _lower(tokens: Sequence[str]) -> list[str]:
    return [token.lower() for token in tokens]


@lru_cache(maxsize=1)
def _counts() -> tuple[dict[str, int], dict[tuple[str, ...], int]]:
    """Of words, and of pairs of words: the pinned lists."""
    folder = _package()
    words = {word: count for (word,), count in _rows(folder / WORD_COUNTS, 1)}
    return words, dict(_rows(folder / PAIR_COUNTS, 2))


def _rows(path: Path, words: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Words and their count, a line each; the files begin with a byte order mark."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RetainError(f"{path}: can't be read ({error.strerror}); install {PACKAGE} again") from None
    for line in content.splitlines():
        *listed, count = line.split()
        if len(listed) == words:
            yield tuple(listed), int(count)


def _package() -> Path:
    """Its folder; nothing of it is imported, since its data alone are wanted."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RetainError(f"{PACKAGE} is not installed: `make setup` installs it")
    return Path(found.origin).parent
