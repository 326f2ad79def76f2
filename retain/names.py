"""Names that a message may say: what is a name by its letters, and no word that says something else.

A name is data from outside, and "Hello you silly clown" is a message. So it has at most two words, each with a capital
(particles apart), and none of them an ordinary word or one that a rule of retain.rules turns down. A name is no
protected attribute by itself: Christian, Faith and Mark Young may be greeted. What isn't said costs little: a message
does without.
"""

from __future__ import annotations

import re
import unicodedata

from retain.rules import forbidden_words, numbers

MAX_NAME = 40
_PARTICLE_WORDS = "al bin da de del den der di dos du el ibn la le san ter van von y zu"
_PART = r"(?:[DOLM]')?[A-Z][a-z]*(?:[A-Z][a-z]+)?"  # Ann, O'Neil, McDonald, DeVito
_WORD = re.compile(rf"{_PART}(?:-{_PART}){{0,2}}")
# Names that a word list holds for another sense.
_ALSO_NAMES_LISTED = """
    arabella christian christiana christiane easter elder faith french german gay islam jewel jewell marriott penny
    sexton temple young church welsh dutch roman turk
"""
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
    these they thing think this those thousand time to today too total try unknown under up us use user very wait want
    was we welcome were what when where which while who why win with without work worse worst worth would write wrong
    year years yes yet you your yours
"""
_PARTICLES, _ALSO_NAMES, _ORDINARY = (
    frozenset(listed.split()) for listed in (_PARTICLE_WORDS, _ALSO_NAMES_LISTED, _ORDINARY_LISTED)
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
    parts = [part.lower() for word in said for part in word.split("-")]
    if not all(map(_WORD.fullmatch, said)) or all(len(part) == 1 for part in parts):
        return None
    low = [part for part in parts if part not in _ALSO_NAMES]
    spoken = " ".join(low).replace("'", "")
    if _ORDINARY & set(low) or numbers(" ".join(parts)) or "one" in low or forbidden_words(spoken):
        return None
    return bare
