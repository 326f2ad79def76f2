"""A text as tokens, words and sentences."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufe00-\ufe0f]")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*|[%$€£/.!?,;:]")


@dataclass(frozen=True)
class ParsedText:
    """Lower-case tokens (words, numbers, signs), the words alone, and sentences of words."""

    text: str
    tokens: list[str]
    words: list[str]
    sentences: list[list[str]]


def parse(text: str) -> ParsedText:
    """Without invisible characters; full-width letters and typographer's apostrophes as plain ones."""
    plain = unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).replace("⁄", "/")
    plain = plain.replace("’", "'").replace("‘", "'")
    tokens = _TOKEN.findall(plain.lower())
    sentences: list[list[str]] = [[]]
    for token in tokens:
        if token in ".!?":
            sentences.append([])
        elif token not in "%$€£/,;:":
            sentences[-1].append(token)
    whole = [sentence for sentence in sentences if sentence]
    return ParsedText(plain.strip(), tokens, [word for sentence in whole for word in sentence], whole)
