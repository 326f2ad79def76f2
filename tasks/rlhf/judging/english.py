"""Whether a message is English and says one thing: asked of what a model wrote, before a person reads it.

A small model writes half words ("fking"), doubled sentences, and sentences melted into another ("Your contract should
from our team"). Sentence by sentence: is every word one of the pinned list; do people put two neighbours together at
least about as often as chance would; has a clause one verb; is nothing missing at the end and nothing there twice. The
words and pairs are those of symspellpy (82,765 words and 243,342 pairs of Google Books and SCOWL, counted); the small
words that grammar hangs on are the experiment's (ops/messages/english.yaml). It knows no meaning: a text that passes
can still be nonsense, which is why a person reads it. On 40 + 80 labelled texts
(tests/tasks/rlhf/english_cases.jsonl) docs/WORDS.md says what it finds.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import RetainError

if TYPE_CHECKING:
    from tasks.words import EnglishConfig

PACKAGE = "symspellpy"
WORD_COUNTS, PAIR_COUNTS = "frequency_dictionary_en_82_765.txt", "frequency_bigramdictionary_en_243_342.txt"

# The log of how much more often two words stand together than chance would put them. On the labelled texts for
# development the pairs of good ones began at 0.7; "your we" -0.5, "we for" -1.6. "As we should and", which is fine: 0.2.
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
        folder = _package()
        self._counts = {word: count for (word,), count in _rows(folder / WORD_COUNTS, 1)}
        self._pairs = dict(_rows(folder / PAIR_COUNTS, 2))
        self._total, self._least = sum(self._counts.values()), UNLISTED * min(self._pairs.values())
        self._known = {*self._counts, *words.words.split()} - set(words.no_words.split())
        self._capitals = set(words.capitals.split())
        self._dangling = set(words.dangling.split())
        self._adverbs, self._not_adverbs = set(words.adverbs.split()), set(words.not_adverbs.split())
        self._modals, self._not_after_modal = set(words.modals.split()), set(words.not_after_modal.split())
        self._finite, self._connectors = set(words.finite.split()), set(words.connectors.split())
        self._auxiliaries, self._before_base = set(words.auxiliaries.split()), words.before_base.split()
        self._before_third_person, self._before_noun = words.before_third_person.split(), words.before_noun.split()
        self._objects, self._before_object = set(words.objects.split()), set(words.before_object.split())
        self._articles, self._before_verb = set(words.articles.split()), words.before_verb.split()
        self._relatives, self._subjects = set(words.relatives.split()), set(words.subjects.split())
        self._clause_verbs = set(words.clause_verbs.split())
        self._plural_verbs, self._plurals = set(words.plural_verbs.split()), set(words.plurals.split())

    def faults(self, text: str) -> list[str]:
        """What is wrong with a message, which may hold slots; [] for one that a person may read."""
        plain = text.replace("’", "'")
        sentences = [tokens for part in _SENTENCE.split(plain) if (tokens := _TOKEN.findall(part))]
        return list(
            dict.fromkeys(
                [
                    *(fault for tokens in sentences for fault in self._in_sentence(tokens)),
                    *_twice(sentences, self._capitals),
                    *(fault for part in _PART.split(plain) for fault in self._in_part(_lower(_TOKEN.findall(part)))),
                ]
            )
        )

    def _in_sentence(self, tokens: Sequence[str]) -> Iterator[str]:
        words = _lower(tokens)
        for word in words:
            if not _is_amount(word) and not self._is_word(word):
                yield f"{word} is no word"
        if tokens[0][0].islower():
            yield f"begins with a small letter: {tokens[0]}"
        for place, token in enumerate(tokens):
            inner = token[1:] if place == 0 else token
            if inner != inner.lower() and not {token, token.split("'")[0]} & self._capitals:
                yield f"a capital within a sentence: {token}"
        if words[-1] in self._dangling or (words[-1] in self._modals and not self._connectors.intersection(words)):
            yield f"ends in: {words[-1]}"
        for length in range(1, LONGEST_REPEAT + 1):
            for start in range(len(words) - 2 * length + 1):
                first, second = words[start : start + length], words[start + length : start + 2 * length]
                if first == second:
                    yield f"twice: {' '.join(first)}"

    def _in_part(self, words: Sequence[str]) -> Iterator[str]:
        """Of what stands between two signs of punctuation."""
        inner = [word for word in words if not self._is_adverb(word)]
        for pair in (*zip(words, words[1:]), *zip(inner, inner[1:])):
            if not any(_is_amount(word) or word.upper() in self._capitals for word in pair):
                if self._together(*pair) < LEAST_TOGETHER:
                    yield f"no pair of words: {' '.join(pair)}"
        for place, (word, after) in enumerate(zip(inner, inner[1:])):
            if place and word in self._modals and after in self._not_after_modal:  # a question begins with its modal
                yield f"no verb after {word}: {after}"
            if word == "to" and after in self._finite:
                yield f"no verb after to: {after}"
            before = inner[place - 1] if place else ""
            if word in self._auxiliaries and before != "do" and (word, after) not in self._pairs:
                if self._share(self._before_base, after) >= BASE_FORM:
                    yield f"no form of a verb after {word}: {after}"
            if word in self._objects and before not in self._before_object:
                if self._share(self._before_base, after) >= BASE_FORM:
                    yield f"a verb of nothing: {word} {after}"
            if word in self._articles and self._share(self._before_noun, after) == 0:
                if self._share(self._before_verb, after) >= BASE_FORM:
                    yield f"no noun after {word}: {after}"
        for subject, between, again in zip(words, words[1:], words[2:]):
            if subject == again and subject in self._subjects and between not in self._connectors | self._clause_verbs:
                yield f"twice: {subject} {between} {again}"
        if len(words) > 2 and words[2] in self._plural_verbs and words[0] in ("a", "our", "the", "this", "your"):
            if not words[1].endswith("s") and words[1] not in self._plurals:
                yield f"one and many: {' '.join(words[:3])}"
        yield from self._melted(inner)

    def _melted(self, words: Sequence[str]) -> Iterator[str]:
        """A second verb without a clause of its own."""
        last, spare = None, 0
        for place, word in enumerate(words):
            if word in self._relatives:
                spare += 1
            if word in self._connectors:
                last = None
            elif word in self._finite or self._third_person(word):
                own = (
                    last == place - 1
                    or words[place - 1] in self._subjects
                    or any(verb in self._clause_verbs for verb in words[:place])
                )
                if last is not None and not own:
                    if spare == 0:
                        yield f"two verbs of one clause: {' '.join(words[last : place + 1])}"
                    spare -= 1
                last = place

    def _is_adverb(self, word: str) -> bool:
        return word in self._adverbs or (word.endswith("ly") and word not in self._not_adverbs)

    def _is_word(self, word: str) -> bool:
        """Whether it is in the list, or put together of such words by hyphens. Of single letters two are words."""
        if word in self._known:
            return len(word) > 1 or word in "ai"
        return "-" in word and all(part in self._known for part in word.split("-"))

    def _third_person(self, word: str) -> bool:
        """Whether it is a verb such as "takes"."""
        if not word.endswith("s"):
            return False
        share = self._share(self._before_third_person, word)
        return share >= THIRD_PERSON and share >= 2 * self._share(self._before_noun, word)

    def _share(self, before: Collection[str], word: str) -> float:
        """How often it follows one of these, by the list of pairs."""
        return sum(self._pairs.get((other, word), 0) for other in before) / self._counts.get(word, 1)

    def _together(self, first: str, second: str) -> float:
        """How much more often than by chance, as a log; 0 where one of them isn't in the list of words at all."""
        counts = self._counts.get(first), self._counts.get(second)
        if counts[0] is None or counts[1] is None:
            return LEAST_TOGETHER
        expected = counts[0] * counts[1] / self._total
        return math.log(self._pairs.get((first, second), self._least) / expected)


def _twice(sentences: Sequence[Sequence[str]], once: set[str]) -> Iterator[str]:
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
