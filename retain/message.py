"""What a customer is told: situations, the bank of messages, and the rules that every message keeps.

A bank is a list of {situation, offer, text, source, score}: templates now, texts of a language model later, in the
same place. A text has slots ({offer}, {months}), so no amount is ever written by hand or by a model. check() runs
over a whole bank when it is released and again over each message when it is sent; it prefers turning down a good
text to sending a bad one. It is a list of English words and phrases, no more (its docstring says which): it is the
last look at texts that were written with care, not what makes a language model's texts safe by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

SITUATIONS = ("price", "support", "contract", "payment", "new", "default")

# Which role's column, when it is what raises the risk most, makes which situation.
SITUATION_OF_ROLE = {
    "monthly_charge": "price",
    "total_charge": "price",
    "internet": "support",
    "support": "support",
    "contract": "contract",  # its kind: when one ends, no table says so far
    "payment": "payment",
    "tenure": "new",
}
NEW_MONTHS = 3  # whoever came this recently is new, whatever the reasons say
SETTLED_MONTHS = 12  # beyond it a short tenure explains nothing to the customer

MIN_LENGTH, MAX_LENGTH = 40, 400


class MessageError(ValueError):
    """A bank or a text that can't be used: which entry, what is wrong."""


@dataclass(frozen=True)
class Entry:
    """One message of a bank; `offer` in percent, `score` ranks the entries of one situation and offer."""

    situation: str
    offer: int
    text: str
    source: str
    score: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "situation": self.situation,
            "offer": self.offer,
            "text": self.text,
            "source": self.source,
            "score": self.score,
        }


def situation(roles: Mapping[Any, str], reasons: Iterable[tuple[str, float]], values: Mapping[str, object]) -> str:
    """The situation of a customer: what raises the risk most, in terms that can be talked about.

    `roles` is the table's (role -> column), `reasons` are (column, contribution) largest first, `values` the row.
    """
    months = values.get(roles.get("tenure", ""))
    known = isinstance(months, int | float)
    if known and months <= NEW_MONTHS:  # type: ignore[operator]
        return "new"
    of_column = {roles[role]: name for role, name in SITUATION_OF_ROLE.items() if role in roles}
    for column, contribution in reasons:
        found = of_column.get(column)
        if contribution <= 0 or found is None:
            continue
        if found == "new" and not (known and months <= SETTLED_MONTHS):  # type: ignore[operator]
            continue
        return found
    return "default"


# -- the bank ------------------------------------------------------------------------------------------------------

_SLOT = re.compile(r"\{([^{}]*)\}")
_MONTHS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def render(text: str, offer: int, months: int) -> str:
    """The text with its slots filled. Raises MessageError for a slot that doesn't exist."""
    slots = {"offer": f"{offer}%", "months": "one month" if months == 1 else f"{_MONTHS[months]} months"}

    def fill(match: re.Match[str]) -> str:
        if match[1] not in slots:
            raise MessageError(f"slot {match[0][:20]!r} is none of {', '.join(slots)}")
        return slots[match[1]]

    return _SLOT.sub(fill, text)


class Bank:
    """Messages by situation and offer, best first."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._found: dict[tuple[str, int], list[Entry]] = {}
        for entry in sorted(entries, key=lambda entry: -entry.score):
            self._found.setdefault((entry.situation, entry.offer), []).append(entry)

    @classmethod
    def from_json(cls, content: object, where: str = "messages.json") -> Bank:
        if not isinstance(content, list):
            raise MessageError(f"{where}: is no list of messages")
        return cls([_entry(item, f"{where}: message {i}") for i, item in enumerate(content)])

    def to_json(self) -> list[dict[str, Any]]:
        return [entry.as_dict() for entry in self.entries]

    def message(self, situation: str, offer: int, months: int) -> tuple[str, str] | None:
        """(situation, text) of the best message that keeps the rules; the default situation's when there is none.

        None only for an offer that the bank doesn't cover.
        """
        for name in (situation, "default"):
            for entry in self._found.get((name, offer), ()):
                text = render(entry.text, offer, months)
                if not check(text, offer, months):
                    return name, text
        return None

    def problems(self, offers: Sequence[int], months: int) -> list[str]:
        """Everything that keeps this bank from being released: broken rules, and what it has no message for."""
        found = []
        for i, entry in enumerate(self.entries):
            where = f"message {i} ({entry.situation}, {entry.offer} %)"
            try:
                broken = check(render(entry.text, entry.offer, months), entry.offer, months)
            except MessageError as error:
                broken = [str(error)]
            found += [f"{where}: {rule}" for rule in broken]
        for name in SITUATIONS:
            missing = [str(offer) for offer in offers if (name, offer) not in self._found]
            if missing:
                found.append(f"situation {name}: no message for {', '.join(missing)} %")
        return found


def _entry(item: object, where: str) -> Entry:
    if not isinstance(item, dict) or set(item) != {"situation", "offer", "text", "source", "score"}:
        raise MessageError(f"{where}: wants situation, offer, text, source, score")
    if item["situation"] not in SITUATIONS:
        raise MessageError(f"{where}: situation is none of {', '.join(SITUATIONS)}")
    if type(item["offer"]) is not int or not 0 <= item["offer"] <= 100:
        raise MessageError(f"{where}: offer is no whole percentage")
    if type(item["text"]) is not str or type(item["source"]) is not str:
        raise MessageError(f"{where}: text and source are texts")
    if type(item["score"]) not in (int, float) or item["score"] != item["score"]:
        raise MessageError(f"{where}: score is no number")
    return Entry(item["situation"], item["offer"], item["text"], item["source"], float(item["score"]))


# Two texts a situation: with a discount, and with nothing but an open ear.
TEMPLATES = {
    "price": (
        "Your bill should feel right for what you get. We would like to take {offer} off your monthly charge for"
        " {months}; nothing else about your plan changes. Reply YES and we will set it up for you.",
        "Your bill should feel right for what you get. We are happy to go through your plan with you and see whether"
        " another one suits you better. Reply YES and we will call you at a time that you choose.",
    ),
    "support": (
        "Good help should be easy to reach. One of our specialists would be glad to check that your service runs as"
        " it should, and we would like to take {offer} off your monthly charge for {months}. Reply YES to have both.",
        "Good help should be easy to reach. One of our specialists would be glad to check that your service runs as"
        " it should and to answer your questions. Reply YES and we will call you at a time that you choose.",
    ),
    # For every kind of contract: of the 711 customers of exp_001_mvp whom it concerns, none has one with a term.
    "contract": (
        "Your plan should fit the way you live. We would be glad to go through its terms with you, and to take {offer}"
        " off your monthly charge for {months} whichever terms suit you. Reply YES to have both.",
        "Your plan should fit the way you live. We would be glad to go through its terms with you and explain the"
        " choices in plain words. Reply YES and we will call you at a time that you choose.",
    ),
    "payment": (
        "Paying your bill should take no effort. We can help you find the way to pay that suits you, and we would"
        " like to take {offer} off your monthly charge for {months}. Reply YES and we will set up both.",
        "Paying your bill should take no effort. We can help you find the way to pay that suits you, in a short call."
        " Reply YES and we will ring you at a time that you choose.",
    ),
    "new": (
        "Welcome, and thank you for choosing us. To help you settle in, we would like to take {offer} off your"
        " monthly charge for {months}. Reply YES and we will add it to your account.",
        "Welcome, and thank you for choosing us. If something about your service is not yet as you would like it, we"
        " are glad to help. Reply YES and someone from our team will be in touch.",
    ),
    "default": (
        "Thank you for being with us. As a small sign of our thanks, we would like to take {offer} off your monthly"
        " charge for {months}. Reply YES and we will add it to your account.",
        "Thank you for being with us. If there is something that we could do better, we would be glad to hear it."
        " Reply YES and someone from our team will be in touch.",
    ),
}


def template_bank(offers: Sequence[int]) -> Bank:
    """A checked template for every situation and offer."""
    return Bank(
        [
            Entry(name, offer, TEMPLATES[name][0 if offer else 1], "template", 0.0)
            for name in SITUATIONS
            for offer in offers
        ]
    )


# -- the rules -----------------------------------------------------------------------------------------------------

# Plain ASCII and the typographer's apostrophe and dashes: no look-alike letters, no zero-width characters, no
# currency, no handles or markup.
_CHARACTERS = re.compile(r"[A-Za-z0-9 .,;:!?'’()%–—-]*")
_ONES = dict(zip(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"], range(10)))
_TEENS = dict(
    zip(
        ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"],
        range(10, 20),
    )
)
_TENS = dict(zip(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], range(20, 100, 10)))
_ANY_ONE, _ANY_TEEN, _ANY_TEN = ("|".join(words) for words in (_ONES, _TEENS, _TENS))
_NUMBER_WORD = re.compile(
    rf"\b(?:(?P<tens>{_ANY_TEN})(?:[ -]+(?P<unit>{_ANY_ONE}))?|(?P<small>{_ANY_TEEN}|{_ANY_ONE})|(?P<many>hundred))\b"
)
_DIGITS = re.compile(r"\d[\d.,]*")
_PERCENT = r"(?:%|per ?-?cent\b|pct\b|percentage\b)"
_PERCENT_NEXT = re.compile(rf" ?-?{_PERCENT}")
# "ten or more percent", "twenty off", "fifteen full per cent": up to two words in between still make it one.
_PERCENT_NEAR = re.compile(rf"(?:[ -]+[a-z]+){{0,2}}?[ -]*(?:{_PERCENT}|\boff\b|\bdiscount|\bless\b|\bpoints?\b)")
_DURATION_NEXT = re.compile(r"[ -]+(?:full |whole )?(day|week|month|year)s?\b(?! (?:more|longer|extra|further|on top))")
# Every other way to speak of a time that an offer runs; "each month" and "per month" state none.
_DURATION = re.compile(
    r"(?<!each )(?<!per )\bmonths?\b|\b(?:days|weeks?|fortnight\w*|years?|yearly|annual\w*|quarterly|decades?|"
    r"centur\w+|dozens?|couple|several|a few|summer|winter|autumn|seasons?)\b"
)
_QUALIFIED = re.compile(
    r"\b(?:up to|as much as|at least|at most|more than|less than|over|under|above|another|extra|additional|further|"
    r"nearly|almost|about|around|roughly|minus|plus)\b[ a-z]{0,12}?[ (]*(?:\d|" + rf"(?:{_ANY_TEEN}|{_ANY_TEN})\b)"
)
_OTHER_DURATION = "names a duration that is not the offer's"
_SPELLED = re.compile(r"(?:\b[a-z][ .,;:-]+){4,}")
_JOINED = re.compile(r"(?<=\w)[-–—'’.](?=\w)")


def _words(*patterns: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b")


_FRACTION = _words(
    r"hal(?:f|ves)", r"thirds?", r"quarters?", r"fifths?", r"tenths?", r"twentieths?", "double", "twice", "triple",
    r"(?:out of|in) (?:ten|twenty|a hundred)",
)  # fmt: skip
_WORD_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "promises something besides the offer",
        _words(
            r"(?<!feel )free", r"gifts?", r"vouchers?", r"coupons?", r"refund\w*", r"rebate\w*", r"cash ?back",
            r"credit(?! card)\w*", r"waive\w*", r"complimentary", r"bonus\w*",
            r"(?:no|without|zero) (?:\w+ )?(?:charge|cost|fee|payment)s?", r"prizes?", r"rewards?", r"on the house",
            r"(?<!count )(?<!rely )on us", r"our treat", r"ourselves",
            r"we(?: will|ll| can| would|d| shall)? (?:\w+ ){0,2}(?:pay|cover|settle)",
            r"(?:pay|pays|paying|cost|costs|charge|charged|owe) (?:\w+ ){0,2}nothing", r"nothing (?:more )?to pay",
            r"present", r"surprise", r"upgrade\w*", r"money", r"cash", r"dollars?", r"euros?", r"pounds?", r"cents",
            r"pence", r"penn(?:y|ies)", r"bucks?", r"quid", r"tenners?", r"fivers?", r"grand", r"usd", r"eur",
            r"gbp",
        ),
    ),
    (
        "guarantees something",
        _words(
            r"guarant\w*", r"promis\w*", "always", "never", r"life ?time", r"for life", r"ever again",
            r"no matter what", r"definitely", r"certainly", r"assured?", r"no strings\w*", r"no catch", r"riskfree",
            r"(?:best|lowest|cheapest) (?:price|rate|deal|offer)s?", "cheapest", r"permanent\w*", r"for ?ever\w*",
            r"(?:for )?as long as", r"while you are", r"for good", r"indefinite\w*", r"until further", r"unlimited",
            r"rest of your", r"you have our word", r"rest assured", r"without fail", r"no end",
        ),
    ),
    (
        "presses the customer",
        _words(
            r"hurry", r"urgen\w*", "immediately", r"act (?:now|fast|today|quickly)", r"right (?:now|away)",
            r"last chance", r"final\w*", r"(?:only|just) today", r"today only", r"only (?:\w+ ){0,2}left",
            r"limited", r"expir\w*", r"deadlines?", r"miss(?:ing)? out", r"(?:dont|do not|cant|never) miss",
            r"too late", r"ends? (?:soon|today|tonight)", r"while (?:it|stocks?|supplies) lasts?", r"must",
            r"or lose", r"losing", r"regret\w*", r"running out", r"once in a", r"now or never",
            r"before (?:its|it is) gone", r"asap", r"warning", r"penalt\w*", r"today", r"tonight", r"tomorrow",
            r"midnight", r"noon", r"soon(?:est|er)", r"(?:mon|tues|wednes|thurs|fri|satur|sun)days?", r"weekends?",
            r"this (?:week|month|year|morning|evening)", r"within (?:\w+ ){0,2}(?:hour|day|week)s?", r"by the end",
            r"end of", r"until", r"instant\w*", r"at once", r"straight away", r"only (?:now|until|for)",
            r"(?:reply|call|act|answer|decide|respond|accept) (?:now|by)", r"dont (?:wait|delay|hesitate)",
            r"do not (?:wait|delay)", r"without delay", r"time is", r"exclusive\w*",
        ),
    ),
    (
        "holds a link",
        _words(
            r"https?", r"www", r"click\w*", r"links?", r"dot com", r"tap here", r"web ?sites?", r"download\w*",
            r"qr", r"dot", r"slash", r"url", r"home ?pages?", r"portal", r"online at", r"scan",
            r"e?mails? (?:us|me)", r"[a-z]+(?:dotcom)",
        ),
    ),
    (
        "names an identifier",
        _words(
            r"(?:customer|account|contract|phone|card|reference) (?:number|no|id|code)s?", r"passwords?", r"pin",
            r"iban", r"social security", r"date of birth", r"your ids?",
        ),
    ),
    (
        "talks about risk or about how it was chosen",
        _words(
            r"predict\w*", r"forecast\w*", r"churn\w*", r"risk\w*", r"likel(?:y|ihood)", r"probab\w*",
            r"algorithm\w*", r"models?", r"scores?", r"scored", r"profil\w*", r"analy[sz]\w*", r"machine learning",
            r"artificial\w*", r"our (?:data|records|systems?)", r"leav(?:e|es|ing)", r"left us", r"stay\w*",
            r"remain(?:ing)? (?:with|a|our)", r"quit\w*", r"about to", r"you(?:r)? go(?:ing)?", r"los(?:e|ing) you",
            r"keep(?:ing)? you", r"part ways", r"departure", r"depart", r"farewell", r"good ?bye\w*", r"elsewhere",
            r"mov(?:e|ing) (?:on|away)", r"other providers?", r"loyal\w*", r"retain\w*", r"retention",
            r"terminat\w*", r"unsubscrib\w*", r"win you back", r"cancel\w*", r"switch\w*", r"notic(?:ed|ing)",
            r"we (?:have )?(?:seen?|saw|know) (?:that )?you", r"monitor\w*", r"track\w*", r"competitors?",
            r"selected",
        ),
    ),
    (
        "mentions a protected attribute",
        _words(
            r"genders?", r"sex\w*", r"males?", r"females?", r"man", r"men", r"wom[ae]n", r"lad(?:y|ies)",
            r"gentlem[ae]n", "sir", "madam", "maam", r"mr", r"mrs", r"ms", r"miss", r"boys?", r"girls?",
            r"husbands?", r"wi(?:fe|ves)", r"spouses?", r"partners?", r"marri\w*", r"divorc\w*", r"widow\w*",
            r"singles?", r"senior\w*", r"elder\w*", r"old", r"older", r"oldest", r"young\w*", r"age", r"aged",
            r"ages", r"retire\w*", r"pension\w*", r"child\w*", r"kids?", r"famil(?:y|ies)", r"dependa?ents?",
            r"dependants?", r"pregnan\w*",
            r"(?:grand|step|god)?(?:mother|father|parent|son|daughter)(?:s|ly|al|hood)?",
            r"(?:grand|step|god)child\w*", r"grand(?:ma|pa)s?", r"gran(?:ny|nies|dad)?", r"mom(?:s|my)?",
            r"mum(?:my|s)?", r"dad(?:dy|s)?", r"aunts?", r"uncles?", r"brothers?", r"sisters?", r"bab(?:y|ies)",
            r"teen\w*", r"adults?", r"youth\w*", r"boyfriends?", r"girlfriends?", r"fianc\w*", r"unmarried",
            r"bachelor\w*", r"bride\w*", r"birthdays?", r"middle aged", r"rac(?:e|ial)", r"ethnic\w*", r"religi\w*",
            r"christian\w*", r"muslims?", r"islam\w*", r"jew\w*", r"catholic\w*", r"protestant\w*", r"orthodox",
            r"evangelical\w*", r"mormon\w*", r"hindu\w*", r"buddhis\w*", r"sikh\w*", r"atheis\w*", r"god",
            r"faith\w*", r"church\w*", r"mosques?", r"temples?", r"synagogues?", r"pray\w*", r"christmas", r"easter",
            r"ramadan", r"black", r"white", r"asian\w*", r"african\w*", r"hispanic\w*", r"latin\w*", r"arab\w*",
            r"queer", r"(?:bi|homo|hetero|trans)sexual\w*", r"transgender\w*", r"wheelchair\w*", r"blind", r"deaf",
            r"handicap\w*", r"illness\w*", r"disease\w*", r"politic\w*", r"migrants?", r"refugees?", r"disab\w*",
            r"gay", r"lesbian\w*", r"national\w*", r"immigra\w*", r"citizen\w*", r"foreign\w*",
        ),
    ),
    (
        "insults the customer",
        _words(
            r"stupid\w*", r"idiot\w*", r"damn\w*", r"dumb\w*", r"moron\w*", r"imbecile\w*", r"fool\w*", r"hell",
            r"(?:bull)?shit\w*", r"\w*fuck\w*", r"crap\w*", r"bastard\w*", r"bitch\w*", r"ass", r"arse\w*",
            r"asshole\w*", r"bloody", r"piss\w*", r"suck\w*", r"losers?", r"shut up", r"hat(?:e|es|ed)", r"lazy",
            r"ugly", r"pathetic", r"ridiculous\w*", r"ignoran\w*", r"worthless", r"useless", r"scum\w*", r"kill\w*",
            r"die",
        ),
    ),
)  # fmt: skip
_DISCOUNT = _words(
    r"discount\w*", r"money off", r"off your", r"reduc\w*", r"cheaper", r"sav(?:e|es|ing|ings)", r"deals?",
    r"special (?:price|rate|offer)s?", r"lower (?:price|rate|charge|bill)s?", r"less per month",
)  # fmt: skip


def check(text: str, offer: int, months: int | None = None) -> list[str]:
    """The rules that a rendered message breaks; empty for one that may be sent.

    `offer` is the chosen percentage, which must be the only number of the text; 0 means that no discount may be
    mentioned. `months` is how long an offer runs, the only duration that may be named (None: none may be).

    Checked: length and characters; numbers in digits, and in English words up to a hundred, fractions and multiples;
    durations; and, by the word lists above, promises besides the offer, guarantees, pressure, links, identifiers, talk
    of risk, of selection and of staying or leaving, protected attributes, insults; capitals and spelled-out letters.
    Not checked: meaning. The same thought in words that no list has, a misspelling, another language, irony, a false
    claim about the service, a tone that is unkind without an insult: all of these pass.
    """
    return list(broken_rules(text, offer, months))


# 170 us of regular expressions; a bank is small, so what is sent was nearly always judged before.
@lru_cache(maxsize=4096)
def broken_rules(text: str, offer: int, months: int | None) -> tuple[str, ...]:
    broken = []
    if not MIN_LENGTH <= len(text) <= MAX_LENGTH:
        broken.append(f"is {len(text)} characters long, not {MIN_LENGTH} to {MAX_LENGTH}")
    if not _CHARACTERS.fullmatch(text):
        broken.append("holds a character that no message needs (look-alike, invisible, currency, markup, slot)")
    low = re.sub(r"\s+", " ", text.lower())
    broken += _amounts(low, offer, months)
    joined = _JOINED.sub("", low)
    for says, pattern in _WORD_RULES:
        if pattern.search(low) or pattern.search(joined):
            broken.append(says)
    if offer == 0 and _DISCOUNT.search(low):
        broken.append("hints at a discount that isn't offered")
    if re.search(r"\w\.\w", low) and "holds a link" not in broken:
        broken.append("holds a link")
    if text.count("!") > 1 or re.search(r"\b[A-Z]{4,}\b", text) or _SPELLED.search(low):
        broken.append("shouts or spells out letters")
    return tuple(broken)


def _amounts(low: str, offer: int, months: int | None) -> list[str]:
    percentages, broken, spans = set(), [], []
    for match in _DIGITS.finditer(low):
        number = match[0].rstrip(".,")
        follows = low[match.start() + len(number) :]
        apart = match.start() == 0 or low[match.start() - 1] in " ("
        if apart and re.fullmatch("0|[1-9][0-9]?|100", number) and _PERCENT_NEXT.match(follows):
            percentages.add(int(number))
        else:
            broken.append("holds a number that is not the offer")
    for match in _NUMBER_WORD.finditer(low):
        value = _value(match)
        follows = low[match.end() :]
        duration = _DURATION_NEXT.match(follows)
        if duration:
            if months is None or duration[1] != "month" or value != months:
                broken.append(_OTHER_DURATION)
            spans.append((match.start(), match.end() + duration.end()))
        elif _PERCENT_NEAR.match(follows) or (value >= 5 and value % 5 == 0):
            percentages.add(value)
    rest = low
    for start, end in spans:
        rest = rest[:start] + "_" * (end - start) + rest[end:]
    if _DURATION.search(rest):
        broken.append(_OTHER_DURATION)
    if percentages != ({offer} if offer else set()) or _FRACTION.search(low) or _QUALIFIED.search(low):
        wanted = f"{offer} %" if offer else "none"
        broken.append(f"the only percentage must be the chosen one ({wanted})")
    return list(dict.fromkeys(broken))


def _value(match: re.Match[str]) -> int:
    if match["many"]:
        return 100
    if match["tens"]:
        return _TENS[match["tens"]] + (_ONES[match["unit"]] if match["unit"] else 0)
    return (_ONES | _TEENS)[match["small"]]
