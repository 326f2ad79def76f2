"""How easy a text is to read: Flesch's reading ease (1948), with syllables counted by rule."""

from __future__ import annotations

import re

_WORD = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)?")
_SENTENCE = re.compile(r"[^.!?]+")
_VOWELS = re.compile(r"[aeiouy]+")


def reading_ease(text: str) -> float:
    """206.835 - 1.015 words a sentence - 84.6 syllables a word. Plain English is 60 to 70; 0 for a text of no words."""
    words = _WORD.findall(text)
    if not words:
        return 0.0
    sentences = sum(1 for part in _SENTENCE.findall(text) if _WORD.search(part))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)


def syllables(word: str) -> int:
    """Groups of vowels, without a silent e at the end; right for nine common words of ten."""
    low = re.sub(r"[^a-z]", "", word.lower())
    found = len(_VOWELS.findall(low))
    silent = re.search(r"[^aeiouy]e$", low) and not re.search(r"[^aeiouy]le$", low)
    ed = re.search(r"[^aeiouytd]ed$", low)
    return max(1, found - bool(silent or ed))
