"""How easy a text is to read: Flesch's reading ease (1948), with syllables counted by rule.

The code is the frozen judge's: a change of it is a change of the judge. `messages` measures its banks by the same code,
so its metric reading_ease follows the judge's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.rlhf.judging.rule_judge.parsing import parse


def reading_ease(text: str) -> float:
    """Flesch's figure for a text; 0 for one of no words. Figures and digits count as words, a syllable a digit."""
    parsed = parse(text)
    return flesch(parsed.words, len(parsed.sentences)) if parsed.words else 0.0


def flesch(words: Sequence[str], sentences: int) -> float:
    """206.835 - 1.015 words a sentence - 84.6 syllables a word: about 100 is very easy, 60 to 70 plain English, 30
    hard. `words` is not empty."""
    return 206.835 - 1.015 * len(words) / max(1, sentences) - 84.6 * sum(map(syllables, words)) / len(words)


def syllables(word: str) -> int:
    """By groups of vowels, less a silent ending; at least one. The word is in lower case."""
    if word[0].isdigit():
        return max(1, len(word))
    bare = word.replace("'", "")
    count = len(re.findall(r"[aeiouy]+", bare))
    silent_ed = bare.endswith("ed") and not bare.endswith(("ted", "ded"))
    silent_e = bare.endswith("e") and not bare.endswith(("le", "ee", "ie", "ye"))
    silent_es = bare.endswith("es") and not bare.endswith(("ses", "ces", "xes", "zes", "shes", "ches", "ges", "ies"))
    apart = len(re.findall(r"i[ao](?!u)|[^p]eo|ua[lt]|[iy]ing|..ea$", bare)) - len(re.findall(r"[tcs]io|[tc]ia", bare))
    return max(1, count - (silent_ed or silent_e or silent_es) + max(0, apart))
