"""The rules that every message keeps: what may be said to a customer, and in which characters.

Lists of English words and phrases (RuleWords, which an experiment keeps in ops/messages/rules.yaml), and around them
what lists can't say: amounts, durations, capitals, characters. The rules prefer turning down a good text to sending a
bad one, and they are the last look at a text, not what makes a language model's texts safe by itself.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from pydantic import model_validator

from retain.frozen import Frozen
from retain.numbers import ANY_ONE, ANY_TEEN, ANY_TEN, NUMBER_WORD, number_of
from retain.patterns import PatternError, Patterns, Replaced, check_part, read, word_starts

MIN_LENGTH, MAX_LENGTH = 40, 400

# Kinds that the code finds by itself; the others are those of the word lists.
_OF_CODE = ("characters", "percentage", "number", "duration", "discount", "link", "shouting")

# Plain ASCII and the typographer's apostrophe, quotation marks, ellipsis and dashes: no look-alike letters, no
# zero-width characters, no currency, no handles or markup; an ampersand between words alone is no markup either.
_CHARACTERS = re.compile(r"(?:[A-Za-z0-9 .,;:!?'’\"“”…()%–—-]|(?<=[a-z] )&(?= [a-z]))*", re.IGNORECASE | re.ASCII)
_DIGITS = re.compile(r"\d[\d.,]*")
_WHOLE_PERCENTAGE = re.compile("0|[1-9][0-9]?|100")
_PERCENT = r"(?:%|per ?-?cent\b|pct\b|percentage\b)"
# A percent sign belongs to a number that was read; before anything else ("IO%") it hides one.
_SIGN = re.compile(r"%|\bper ?-?cent\b|\bpct\b")
_READ = re.compile(rf"(?:{ANY_TEN}|{ANY_TEEN}|{ANY_ONE}|hundred)")
_LAST_WORD = re.compile(r"\w+$")
_PERCENT_NEXT = re.compile(rf" ?-?{_PERCENT}")
# "ten or more percent", "twenty off", "fifteen full per cent": up to two words in between still make it one.
_PERCENT_NEAR = re.compile(
    rf"(?:[ -]+and a (?:bit|half|little))?(?:[ -]+[a-z]+){{0,2}}?[ -]*(?:{_PERCENT}|\boff\b|\bdiscount|\bless\b|"
    rf"\bpoints?\b)"
)
_MINUTES_NEXT = re.compile(r"[ -]+minutes?\b")
_DURATION_NEXT = re.compile(r"[ -]+(?:full |whole )?(day|week|month|year)s?\b(?! (?:more|longer|extra|further|on top))")
# Every way to speak of months but "each month" and "per month", which state no duration.
_MONTHS = r"(?<!each )(?<!per )\bmonths?\b"
_SPELLED = re.compile(r"(?:\b[a-z][ .,;:-]+){4,}")
_JOINED = re.compile(r"(?<=\w)[-–—.](?=\w)")
_APOSTROPHES = re.compile(r"['’]")
_SPACES = re.compile(r"\s+")
_ADDRESS = re.compile(r"\w\.\w")
_SHOUTED = re.compile(r"!\s*!|\b[A-Z]{6,}\b")
_CAPITALS = re.compile(r"\b[A-Z]{4,}\b")

_NUMBERS = rf"(?:{ANY_TEN}|{ANY_TEEN}|{ANY_ONE})"
_SHARE = rf"\b(?:\d{{1,3}}|{_NUMBERS}) ?-?{_PERCENT}"
# "three additional ones", "six months more"
_LONGER = (
    rf"\b{_NUMBERS} (?:months? )?(?:additional|extra|further|more)(?: ones?| months?| bills?|(?= ?(?:[.,;!?]|$|after)))"
)
# What isn't taken off, though the percentage is the offer's: dearer, what is left to pay, a second time.
_NOT_OFF = (
    rf"\b(?:rais\w+|rise[ns]?|rising|increas\w+|grow\w*|grew|climb\w*|jump\w*|hik(?:es?|ed|ing)|"
    rf"surcharges?) (?:\w+ ){{0,6}}?{_SHARE}(?! ?(?:off|discount|reduction|less))",
    rf"\b(?:go(?:es|ing)?|went) up (?:\w+ ){{0,3}}?{_SHARE}|\b(?:charges?|costs?|fees?) (?:of )?{_SHARE}",
    rf"{_SHARE} (?:are|be|gets?|is|will be) (?:added|charged)\b",
    rf"\badd(?:s|ed|ing)? (?:\w+ ){{0,4}}?{_SHARE}(?! ?(?:off|discount|reduction|less))",
    rf"{_SHARE} (?:\w+ ){{0,3}}?(?:again|more|higher|dearer|extra|another|increases?|rises?|surcharges?|on top)\b",
    rf"{_SHARE} (?:off |less )?(?:after|from then)\b",
    rf"\b(?:pay(?:s|ing)?|costs?|owe|charges? you|only|just) (?:\w+ ){{0,2}}?{_SHARE}"
    r"(?! ?-?(?:off|less|lower|cheaper|smaller|discount|reduction|of (?:\w+ ){1,3}(?:off|back|away)))",
    rf"\b(?:at|be|becomes?|is|to) {_SHARE} of\b",
    rf"\b(?:cut|down|drops?|falls?|lower(?:ed)?|reduced?|shrinks?) (?:\w+ ){{0,4}}?to (?:just |only )?{_SHARE}",
    rf"{_SHARE}.*?\b(?:also|and|or|plus|then) (?:\w+ ){{0,2}}?{_SHARE}",
)

# In an entry: the name of a piece, and an escape such as \W, which is no capital letter.
_PIECE = re.compile(r"<([a-z_]+)>")
_ESCAPE = re.compile(r"\\[A-Za-z\\]")
_PIECES_OF_CODE = {"number": _NUMBERS, "share": _SHARE}


class _Hint(Enum):
    """Lists of words that break a rule by what stands with them."""

    DISCOUNT = "discounts"
    FRACTION = "fractions"
    LARGE_NUMBER = "large_numbers"
    LONGER = "longer"
    NOT_OFF = "qualifiers"
    DURATION = "durations"

    def __str__(self) -> str:
        return self.value


_FORBIDDEN = {_Hint.DISCOUNT: "discount", _Hint.FRACTION: "percentage", _Hint.DURATION: "duration"}


class RulesError(ValueError):
    """Words that can't be used: what is wrong with what stands at `path`, the keys and places that lead there."""

    def __init__(self, problem: str, *path: str | int) -> None:
        super().__init__(problem)
        self.path = path


Pieces = Mapping[str, str | Sequence[str]]


class RuleWords(Frozen):
    """The rules as words: what ops/messages/rules.yaml holds, whose comments say what each list is for.

    An entry of a list is a regular expression over a text in small letters without apostrophes. It matches whole
    words. <name> in it stands for a piece.
    """

    kinds: tuple[str, ...]
    pieces: dict[str, str | tuple[str, ...]]
    words: dict[str, tuple[str, ...]]
    discounts: tuple[str, ...]
    fractions: tuple[str, ...]
    large_numbers: tuple[str, ...]
    durations: tuple[str, ...]
    qualifiers: tuple[str, ...]
    harmless: tuple[str, ...]

    @model_validator(mode="after")
    def _usable(self) -> RuleWords:
        """Raises RulesError, which pydantic reports as the model's."""
        if missing := [kind for kind in _OF_CODE if kind not in self.kinds]:
            raise RulesError(f"lacks the kind {missing[0]!r}, which the code finds", "kinds")
        check_kinds(self.words, self.kinds, "words")
        for name, listed in self.pieces.items():
            if isinstance(listed, str):
                _check_piece(listed, "pieces", name)
            else:
                for place, piece in enumerate(listed):
                    _check_piece(piece, "pieces", name, place)
        for kind, entries in self.words.items():
            check_entries(entries, self.pieces, "words", kind)
        for name in ("discounts", "fractions", "large_numbers", "durations", "qualifiers", "harmless"):
            check_entries(getattr(self, name), self.pieces, name)
        return self


def check_kinds(kinds: Iterable[str], known: Sequence[str], *path: str) -> None:
    """Raises RulesError for a kind of rules that there isn't."""
    if unknown := [kind for kind in kinds if kind not in known]:
        raise RulesError(f"is no kind of the rules ({', '.join(known)})", *path, unknown[0])


def check_entries(entries: Sequence[str], pieces: Pieces, *path: str) -> None:
    """Raises RulesError for an entry that names a piece which isn't there, that is no regular expression, or that can
    match no text or what begins no word. `path` leads to the list."""
    for place, entry in enumerate(entries):
        _check_characters(entry, *path, place)
        if unknown := [name for name in _PIECE.findall(entry) if name not in pieces and name not in _PIECES_OF_CODE]:
            raise RulesError(f"names the piece <{unknown[0]}>, which isn't there", *path, place)
        try:
            check_part(with_pieces(entry, pieces))
            read(whole(entry, pieces))
        except PatternError as error:
            raise RulesError(str(error), *path, place) from None


def _check_piece(piece: str, *path: str | int) -> None:
    _check_characters(piece, *path)
    if named := _PIECE.search(piece):
        raise RulesError(f"names the piece {named[0]}: a piece of a piece isn't filled in", *path)
    try:
        check_part(piece)
    except PatternError as error:
        raise RulesError(str(error), *path) from None


def _check_characters(part: str, *path: str | int) -> None:
    """Refuses what would never match: texts are looked at as _plain() makes them."""
    for character in _ESCAPE.sub("", part):
        if character != character.lower() or _APOSTROPHES.fullmatch(character):
            raise RulesError(
                f"holds {character!r} and would never match: texts lose capitals and apostrophes before", *path
            )


def with_pieces(entry: str, pieces: Pieces) -> str:
    """The regular expression of an entry. Raises KeyError for a piece that there isn't: check_entries() names it."""

    def piece(match: re.Match[str]) -> str:
        if match[1] in _PIECES_OF_CODE:
            return _PIECES_OF_CODE[match[1]]
        listed = pieces[match[1]]
        return listed if isinstance(listed, str) else f"(?:{'|'.join(listed)})"

    return _PIECE.sub(piece, entry)


def whole(entry: str, pieces: Pieces) -> str:
    """The regular expression of an entry, which ends where a word does."""
    return rf"(?:{with_pieces(entry, pieces)})\b"


class Rules:
    """The rules ready to be asked."""

    def __init__(self, words: RuleWords, sentences: Mapping[str, str] | None = None) -> None:
        """`sentences`: what check() says of a message that breaks a rule, by its kind; without them, that it does."""
        self.kinds = words.kinds
        self._sentences = sentences or {kind: f"breaks the rule {kind!r}" for kind in words.kinds}

        def every(entries: Sequence[str]) -> list[str]:
            return [whole(entry, words.pieces) for entry in entries]

        qualified = rf"\b(?:{'|'.join(every(words.qualifiers))})[ a-z]{{0,12}}?[ (]*(?:\d|(?:{ANY_TEEN}|{ANY_TEN})\b)"
        self._patterns = Patterns(
            {
                **{kind: every(entries) for kind, entries in words.words.items()},
                _Hint.DISCOUNT: every(words.discounts),
                _Hint.FRACTION: every(words.fractions),
                _Hint.LARGE_NUMBER: every(words.large_numbers),
                _Hint.LONGER: [_LONGER],
                _Hint.NOT_OFF: [qualified, *_NOT_OFF],
            }
        )
        self._durations = Patterns({_Hint.DURATION: [_MONTHS, *every(words.durations)]})
        self._without_harmless = Replaced(every(words.harmless), " so ")
        # About 150 us a text; a bank is small, so what is sent without a name was nearly always judged before.
        self.broken_rules = lru_cache(maxsize=4096)(self._broken_rules)

    def check(self, text: str, offer: int, months: int | None = None) -> list[str]:
        """What keeps a rendered message from being sent, in words: broken rules, its length, an unnamed offer."""
        kinds, percentages = self._judge(text, offer, months)
        broken = []
        if not MIN_LENGTH <= len(text) <= MAX_LENGTH:
            broken.append(f"is {len(text)} characters long, not {MIN_LENGTH} to {MAX_LENGTH}")
        if offer and offer not in percentages:
            broken.append(f"does not name the offer of {offer}%")
        return [*broken, *(self._sentences[kind] for kind in kinds)]

    def _broken_rules(self, text: str, offer: int, months: int | None) -> tuple[str, ...]:
        """check(), as a tuple that is remembered."""
        return tuple(self.check(text, offer, months))

    def unsafe(self, text: str, offer: int, months: int | None = None) -> list[str]:
        """The kinds of rules that a rendered message breaks; empty for a safe one, of whatever length.

        `offer` is the chosen percentage, the only number that may be named (a text that names none is no worse than a
        disappointment: check() refuses it, this doesn't); 0 means that no discount may be mentioned. `months` is how
        long an offer runs, the only duration that may be named (None: none may be).

        Checked: characters; numbers in digits, and in English words up to a hundred, fractions and multiples;
        durations; and, by the word lists, promises besides the offer, guarantees, pressure, links, identifiers, talk of
        risk, of selection and of staying or leaving, protected attributes, insults, opting out; capitals and
        spelled-out letters. Not checked: meaning. The same thought in words that no list has, a misspelling, another
        language, irony, a false claim about the service, a tone that is unkind without an insult: all of these pass.
        """
        return self._judge(text, offer, months)[0]

    def percentages(self, text: str) -> set[int]:
        """The percentages that a text names, in digits or in English words, as the rules read them."""
        return _amounts(self._plain(text)[0], None).percentages

    def forbidden_words(self, text: str) -> set[str]:
        """The kinds whose word lists turn a text down, whatever else it says."""
        low, starts = self._plain(text)
        names = self._patterns.names(low, starts) | self._durations.names(low, starts)
        kinds = {kind for kind in self.kinds if kind in names}
        kinds |= {kind for hint, kind in _FORBIDDEN.items() if hint in names}
        return kinds | {"percentage"} if _SIGN.search(low) else kinds

    def _plain(self, text: str) -> tuple[str, list[int]]:
        """In small letters, without apostrophes and without the phrases that mean no harm; and where a word begins."""
        low = _SPACES.sub(" ", _APOSTROPHES.sub("", text.lower()))
        starts = word_starts(low)
        plain = self._without_harmless(low, starts)
        return plain, starts if plain == low else word_starts(plain)

    def _judge(self, text: str, offer: int, months: int | None) -> tuple[list[str], set[int]]:
        """The kinds of rules that are broken, and the percentages that are named."""
        low, starts = self._plain(text)
        amounts = _amounts(low, months)
        names = self._patterns.names(low, starts)
        broken = [] if _CHARACTERS.fullmatch(text) else ["characters"]
        if amounts.rest == low:
            names |= self._durations.names(low, starts)
        else:
            names |= self._durations.names(amounts.rest, word_starts(amounts.rest))
        broken += _broken_by_amounts(low, amounts, names, offer)
        joined = _JOINED.sub("", low)
        words = names if joined == low else names | self._patterns.names(joined, word_starts(joined))
        broken += [kind for kind in self._patterns.lists if isinstance(kind, str) and kind in words]
        if offer == 0 and _Hint.DISCOUNT in names:
            broken.append("discount")
        if "link" not in broken and _ADDRESS.search(low):
            broken.append("link")
        # One short word in capitals is the name of a cable or of a technology, if it isn't another rule's.
        if text.count("!") > 2 or _SHOUTED.search(text) or len(_CAPITALS.findall(text)) > 1 or _SPELLED.search(low):
            broken.append("shouting")
        return list(dict.fromkeys(broken)), amounts.percentages


class _Amounts(NamedTuple):
    """What the numbers of a text say. `broken`: kinds of rules. `rest`: the text, with "_" for durations in numbers."""

    percentages: set[int]
    broken: list[str]
    rest: str


def _amounts(low: str, months: int | None) -> _Amounts:
    """Reads every number of a text in small letters. `months`: how long the offer runs."""
    percentages, broken, spans = set[int](), list[str](), list[tuple[int, int]]()
    for match in _DIGITS.finditer(low):
        number = match[0].rstrip(".,")
        follows = low[match.start() + len(number) :]
        apart = match.start() == 0 or low[match.start() - 1] in " ("
        whole = apart and _WHOLE_PERCENTAGE.fullmatch(number)
        if whole and _PERCENT_NEXT.match(follows):
            percentages.add(int(number))
        elif whole and (duration := _DURATION_NEXT.match(follows)):
            if months is None or duration[1] != "month" or int(number) != months:
                broken.append("duration")
            spans.append((match.start(), match.start() + len(number) + duration.end()))
        else:
            broken.append("number")
    for match in NUMBER_WORD.finditer(low):
        value = number_of(match)
        follows = low[match.end() :]
        duration = _DURATION_NEXT.match(follows)
        if duration:
            if months is None or duration[1] != "month" or value != months:
                broken.append("duration")
            spans.append((match.start(), match.end() + duration.end()))
        elif _PERCENT_NEAR.match(follows) or (value >= 5 and value % 5 == 0 and not _MINUTES_NEXT.match(follows)):
            percentages.add(value)
    rest = low
    for start, end in spans:
        rest = rest[:start] + "_" * (end - start) + rest[end:]
    return _Amounts(percentages, broken, rest)


def _broken_by_amounts(low: str, amounts: _Amounts, names: set[Hashable], offer: int) -> list[str]:
    broken = list(amounts.broken)
    if _Hint.LONGER in names or _Hint.DURATION in names:
        broken.append("duration")
    if _Hint.LARGE_NUMBER in names:
        broken.append("number")
    wrong = amounts.percentages - ({offer} if offer else set())
    if wrong or _Hint.FRACTION in names or _Hint.NOT_OFF in names or _hides_a_percentage(low):
        broken.append("percentage")
    return list(dict.fromkeys(broken))


def _hides_a_percentage(low: str) -> bool:
    """Whether a percent sign or word stands behind something else than a number that was read."""
    for sign in _SIGN.finditer(low):
        before = low[: sign.start()].rstrip(" -")
        if not before[-1:].isdecimal():
            # The longest number word has nine letters: of a longer word twelve are enough to tell that it is none.
            last = _LAST_WORD.search(before[-12:])
            if last is None or not _READ.fullmatch(last[0]):
                return True
    return False
