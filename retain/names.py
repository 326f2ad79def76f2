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

from retain.numbers import numbers_in
from retain.rules import forbidden_words

MAX_NAME = 40
_PARTICLE_WORDS = "al bin da de del den der di dos du el ibn la le san ter van von y zu"
# A capital within a word stands after one of these alone: O'Neil, McDonald, DeVito, LaToya.
_PREFIX = r"(?:Mc|Mac|Da|De|Del|Di|Du|Fitz|La|Le|San|St|Van|Ver|Von)"
_PART = rf"(?:[DOLM]')?(?:{_PREFIX}(?=[A-Z][a-z]))?[A-Z][a-z]*"
_WORD = re.compile(rf"{_PART}(?:-{_PART}){{0,2}}")
_CUT = re.compile(r"[-' ]|(?<=[a-z])(?=[A-Z])")
_BEGINS = re.compile(r"(?:mc|mac|fitz)(?=[a-z]{3})")
# Words of messages rather than of people; of those that are both (Mark, Will, May, Grace, Hope) none is here.
_ORDINARY_LISTED = """
    a about accept account after again all always am and another answer any are as ask at bad be because been before
    being best better big but buy by call can cannot cheap cheaper choose click clown come company could customer did
    discount do does done down each enough even every everybody everyone everything few first for friend from get give
    go good great had half happy has have he hello help her here hers hey hi him his how i idea if ignore in instead is
    it its just keep know large last less let like line listen little look lose lost lot low lower madam make many me
    message month months more most much must my name near need new next no nobody none not nothing now of off offer old
    on only open or other our ours out over pay percent percentage person phone plan please price quick quickly read
    ready real really refund reply right sad said sale save say see sell send she should show silly sir small some
    somebody someone something stop subscriber such take talk tell test than thank thanks that the their them then there
    these they thing think this those thousand time to today too total try unknown under up us use user very visit wait
    want was we welcome were what when where which while who why win with without work worse worst worth would write
    wrong year years yes yet you your yours
"""
# What stands in a column of names and is none: what systems fill in, what people are called, what sells or threatens.
# Slurs and abuse that the rules know are theirs alone.
_NO_NAMES_LISTED = """
    absent admin administrator anonymous blank client dead deceased default demo dummy empty error estate example false
    guest household info invalid legal late masked missing mister missus na nan nil null occupant owner purchaser
    recipient redacted removed resident root sample sender string support system tba tbc tbd temp tenant tester testing
    true undefined unnamed username value void
    abuser addict alcoholic arrested assassin bankrupt beggar burglar cheat cheater con conman convict corpse creep
    criminal crook debt debtor defaulter delinquent demon devil drunk drunkard enemy evil failure felon fraud fraudster
    freak gangster goebbels goner hitler inmate jihad junkie killer liar loony lucifer lunatic maniac monster murder
    murderer nazi nazis offender outlaw paedo paedophile parasite peasant pedo pedophile pervert prisoner prostitute
    psycho psychopath racist rape rapist rat robber satan savage scoundrel sinner slave slime spy suspect swindler
    terror terrorist thief thieves thug traitor troll villain victim virus weirdo witch
    alarm alert amazon apple attention award bargain bill billing bitcoin bonus buyer cash cashback casino charge cheap
    claim confirm congrats congratulations contract coupon credit crypto deal delivery dollar euro facebook fee fine
    free gift google gratis important instagram invoice jackpot lawsuit lottery lucky microsoft money netflix notice
    official parcel password pay payer payment payments paypal pin pound premium prize promo refund reward scam scammer
    sex sexy spam suspended telegram tiktok twitter update verify viagra voucher warrant whatsapp winner winning
    bankruptcy court disease lawyer overdue police prison slow unpaid wanted
    annoying careless clumsy crazy daft difficult dim hopeless incapable incompetent insane mad naive poor rude selfish
    sick smelly thick
    bye dear end exit goodbye leave link login quit remove subscribe yep
    ass bum butt cock crap dick fart fool hurry idiot loser moron piss poo porn pussy stupid tits urgent
"""
_PARTICLES, _ORDINARY, _NO_NAMES = (
    frozenset(listed.split()) for listed in (_PARTICLE_WORDS, _ORDINARY_LISTED, _NO_NAMES_LISTED)
)


def clean_name(name: str) -> str | None:
    """A name as it may be said, without accents; None for what isn't one, or says something else."""
    if len(name) > 2 * MAX_NAME:
        return None
    bare = "".join(c for c in unicodedata.normalize("NFD", name) if unicodedata.category(c) != "Mn")
    bare = bare.replace("\u2019", "'").strip()
    if bare.isupper():
        words = bare.title().split(" ")
        bare = " ".join(word.lower() if word.lower() in _PARTICLES else word for word in words)
    words = bare.split(" ")
    said = [word for word in words if word not in _PARTICLES]
    if len(bare) > MAX_NAME or not 1 <= len(said) <= 2 or len(words) > 4 or words[-1] in _PARTICLES:
        return None
    if not all(map(_WORD.fullmatch, said)) or all(len(part) == 1 for word in said for part in word.split("-")):
        return None
    return None if any(map(_says_something, set(_read(bare, said)))) else bare


def _read(bare: str, said: list[str]) -> Iterator[str]:
    """The ways in which a name can be read: whole and joined, word by word, and each part of a word."""
    for text in (bare, " ".join(said), *said):
        low = text.lower()
        yield from (low.replace("'", ""), re.sub("[-']", " ", low), re.sub("[-' ]", "", low))
    for part in _CUT.split(" ".join(said)):
        low = part.lower()
        yield low
        yield _BEGINS.sub("", low)
        for at in range(3, len(low) - 2):
            yield from _two(low[:at], low[at:])


def _two(first: str, second: str) -> Iterator[str]:
    """Two words written as one, if both are such as are no names and one of them is worse than ordinary."""
    known = _ORDINARY | _NO_NAMES
    if first in known and second in known and {first, second} & _NO_NAMES:
        yield f"{first} {second}"


def _says_something(text: str) -> bool:
    words = set(text.split(" "))
    return bool(words & (_ORDINARY | _NO_NAMES) or "one" in words or numbers_in(text) or forbidden_words(text))
