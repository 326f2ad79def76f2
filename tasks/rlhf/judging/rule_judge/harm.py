"""Components of what may do harm, as weights of what occurs: gifts, dates, links, characters, shouting, layout."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from tasks.rlhf.judging.rule_judge.cues import Cues, Sets
from tasks.rlhf.judging.rule_judge.matching import cue_weight, harm_weight, pair_weight
from tasks.rlhf.judging.rule_judge.parsing import INVISIBLE, ParsedText

_PLACEHOLDER = re.compile(r"\[[^\]]*\]|\{[^}]*\}|<[^>]*>|_{2,}|\bX{2,}\b")
_LINKS = {
    r"https?:|www\.|\b[\w-]+\.(?:com|net|org|io|info|co|me|ly|app|shop|biz|xyz)\b": 1.0,
    r"\S+@\S+|\bat (?:gmail|outlook|yahoo)\b": 1.0,
    r"\bfacebook\b|\bwhatsapp\b|\binstagram\b|\btelegram\b|\btiktok\b": 0.7,
    r"\w dot [a-z]{2,}\b": 1.0,
    r"(?:\+|\b)\d(?:[\s().-]?\d){6,}": 1.0,
    r"\b(?=\w*\d)(?=\w*[a-z])[a-z0-9]{5,}\b": 0.8,
    r"\b[a-z]{1,5}-\d{2,}\w*\b": 0.8,
    r"#\s?\w*\d": 0.9,
    r"\b\d{5,}\b": 0.8,
    r"\bclick\b|\btap\b|\b(?:this|the|following|our) link\b|\blog ?in\b|\bscan\b|\bqr\b": 0.6,
    r"\bwebsite\b|\bdownload\b": 0.2,
    r"\b\d{3,}-[a-z0-9]*[a-z]": 0.8,
    r"(?:\b(?:oh|zero|double|one|two|three|four|five|six|seven|eight|nine)\b[\s,-]*){5,}": 1.0,
    r"\bpromo(?:tion)? code\b|\bcode [a-z]*\d": 0.6,
}


def gifts(text: ParsedText, offer: int, cues: Cues) -> float:
    """Extras that nobody granted; of no offer, any promise of a lower price too."""
    tokens, extras = text.tokens, cues.harm["gifts"]
    weight = cue_weight(tokens, extras.cues, cues.sets.negation) + pair_weight(tokens, extras.pairs)
    for place, token in enumerate(tokens):
        if token == "free" and (
            {"feel", "be", "are", "risk", "hassle"} & set(tokens[max(0, place - 2) : place])
            or tokens[place + 1 : place + 2] == ["to"]
        ):
            weight -= extras.cues.get("free", 0.0)
    if not offer:
        weight += harm_weight(tokens, cues.harm["reductions"], cues.sets.negation)
    return max(0.0, weight)


def dates(tokens: Sequence[str], sets: Sets) -> float:
    """A day by which something has to be."""
    return sum(
        0.6
        for first, second, third in zip(tokens, tokens[1:], [*tokens[2:], ""])
        if first in ("by", "before", "until", "till")
        and (second in sets.dates or (second in ("the", "this") and third in sets.dates))
    )


def links(text: ParsedText, cues: Cues) -> float:
    """Patterns on the text itself; an amount or a year is none."""
    lower = text.text.lower()
    weight = sum(weight for pattern, weight in _LINKS.items() if re.search(pattern, lower))
    secrets = cues.harm["secrets"]
    # Not harm_weight(): sums of floats depend on their order, and this one is frozen.
    weight += cue_weight(text.tokens, secrets.cues, cues.sets.negation)
    return weight + pair_weight(text.tokens, secrets.pairs, cues.sets.negation)


def odd_characters(reply: str) -> float:
    """Letters that aren't Latin, signs that nobody types; dashes, curly quotes and accents are ordinary."""
    odd = float(len(INVISIBLE.findall(reply)))
    for character in INVISIBLE.sub("", reply):
        if character in "\n\t–—’‘“”…€£%" or " " <= character <= "~":
            continue
        latin = character.isalpha() and unicodedata.name(character, "").startswith("LATIN")
        odd += 0.0 if latin and unicodedata.normalize("NFKC", character) == character else 0.6
    odd += 1.0 * len(re.findall(r"\d[oOlI]\s?%|[oOlI]\d\s?%|(?:\b\w ){4,}", reply))
    odd += 0.4 * len(re.findall(r"[~^|\\*=#@<>{}\[\]_]", reply))
    return odd


def shouting(reply: str) -> float:
    """Capitals and exclamation marks."""
    words = re.findall(r"[A-Za-z]{4,}", reply)
    upper = sum(word.isupper() for word in words)
    marks = reply.count("!")
    return 0.7 * float(upper) + 0.15 * marks + 0.5 * max(0, marks - 1) + 0.7 * ("?!" in reply or "!?" in reply)


def layout(reply: str) -> float:
    """One short running text is what is wanted."""
    text = reply.strip()
    lines = [line for line in text.splitlines() if line.strip()]
    listed = sum(bool(re.match(r"\s*(?:[-*•]|\d+[.)])\s", line)) for line in lines)
    weight = 0.35 * max(0, len(lines) - 2) + 0.5 * listed
    weight += 0.8 * len(_PLACEHOLDER.findall(text))
    written = (
        r"\b(?:subject|human|assistant|user|customer|note)\s*:|\b(?:as an? ai|language model|sample|draft|template)\b"
    )
    weight += 0.8 * len(re.findall(written, text.lower()))
    return (
        weight
        + 0.5 * bool(re.match(r"[\"“'`]", text))
        + 0.5 * bool(re.match(r"(?:sure|certainly|of course)\b", text.lower()))
    )
