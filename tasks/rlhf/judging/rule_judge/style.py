"""Components of how a message is written: length, ending, courtesy, situation, plain English."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from tasks.rlhf.judging.rule_judge.cues import Cues, Sets
from tasks.rlhf.judging.rule_judge.matching import cue_weight, different_weight
from tasks.rlhf.judging.rule_judge.parsing import ParsedText
from tasks.rlhf.judging.rule_judge.readability import flesch


def length(words: int) -> float:
    """Nearly flat from 20 to 60 words, best at their geometric mean; -1 at none and at 160."""
    if words == 0:
        return -1.0
    off = abs(math.log(words / math.sqrt(20 * 60))) / math.log(math.sqrt(3))  # 1 at 20 and at 60
    return 1 - 0.15 * off * off if off <= 1 else max(-1.0, 0.85 - 0.9 * (off - 1))


def ending(text: ParsedText, sets: Sets) -> float:
    """1 for a last sentence that is whole."""
    if not text.sentences:
        return -1.0
    last = text.sentences[-1]
    closed = bool(re.search(r"[.!?][\"')”]*$", text.text))
    whole = len(last) >= 3 or len(text.sentences) > 1
    if not closed:
        return -1.0 if last[-1] in sets.dangling or len(last) < 3 else -0.7
    broken_off = last[-1] in sets.dangling - {"in", "for", "with", "to", "at", "by"}
    return (1.0 if whole else 0.2) - (0.8 if broken_off else 0.0)


def invitation(text: ParsedText, cues: Cues) -> float:
    """Of the last sentences the best one; further from the close counts less."""
    best = 0.0
    for back, sentence in enumerate(reversed(text.sentences)):
        invited = min(1.0, cue_weight(sentence, cues.invitation) / 1.2)
        asked = 0.25 if back == 0 and text.text.endswith("?") and {"you", "your", "we"} & set(sentence) else 0.0
        best = max(best, (invited + asked) * (1.0, 0.85, 0.5, 0.3, 0.2)[min(back, 4)])
    return min(1.0, best)


def courtesy(text: ParsedText, cues: Cues) -> float:
    """Thanks, kindness, a greeting."""
    greeted = 0.3 if text.words[:1] and text.words[0] in cues.sets.greetings else 0.0
    return 1 - math.exp(-greeted - cue_weight(text.tokens, cues.courtesy, cues.sets.negation) / 1.6)


def situation_ahead(words: Sequence[str], situation: str, cues: Cues) -> float:
    """How far the words of `situation` are ahead of those of the others."""
    weight = {name: 1 - math.exp(-different_weight(words, topic) / 1.3) for name, topic in cues.topics.items()}
    rivals = [value for name, value in weight.items() if name not in (situation, "default")]
    own = weight[situation]
    return max(-1.0, own - 0.6 * max(0.0, max(rivals) - own) - 0.15 * sum(rivals) / len(rivals))


def reading(text: ParsedText) -> float:
    """Flesch's reading ease, from 50 up above 0."""
    if not text.words:
        return -1.0
    return math.tanh((flesch(text.words, len(text.sentences)) - 50) / 25)


def wording(text: ParsedText, sets: Sets) -> float:
    """Whether it looks like English: common small words, words that can be spoken, sentences of 6 to 20 words."""
    if not text.words:
        return -1.0
    words = [word for word in text.words if not word[0].isdigit()] or [""]
    small = sum(word in sets.small for word in words) / len(words)
    strange = sum(_unpronounceable(word) for word in words) / len(words)
    mean = len(text.words) / len(text.sentences)
    sized = max(0.0, 6 - mean) / 6 + max(0.0, mean - 20) / 20
    starts = re.findall(r"(?:^|[.!?]\s+)[\"'(“]*(\w)", text.text)
    lower = sum(start.islower() for start in starts) / max(1, len(starts))
    return max(-1.0, 1 - 4 * max(0.0, abs(small - 0.5) - 0.12) - 4 * strange - sized - 0.5 * float(lower))


def _unpronounceable(word: str) -> bool:
    bare = word.replace("'", "")
    alone = len(bare) == 1 and bare not in ("a", "i")
    return alone or len(bare) > 16 or not re.search(r"[aeiouy]", bare) or bool(re.search(r"[^aeiouy]{6}|(.)\1\1", bare))


def address(words: Sequence[str]) -> float:
    """Whether it speaks to the reader more than about the sender."""
    you = sum(word.split("'")[0] in ("you", "your", "yours", "yourself") for word in words)
    we = sum(word.split("'")[0] in ("we", "our", "us", "ours", "i", "my", "me") for word in words)
    return 0.0 if not you else min(1.0, you / 2) * (you + 1) / (you + 1 + max(0, we - you))


def repetition(words: Sequence[str]) -> float:
    """Shares of trigrams that were there before, of doubled words, and of a vocabulary too small for the length."""
    if len(words) < 4:
        return 0.0
    trigrams = list(zip(words, words[1:], words[2:]))
    again = 1 - len(set(trigrams)) / len(trigrams)
    doubled = sum(first == second for first, second in itertools.pairwise(words))
    poor = max(0.0, (0.72 if len(words) < 100 else 0.5) - len(set(words)) / len(words))
    return min(1.0, 3 * again + 0.25 * doubled + 1.5 * poor)


def echo(words: Sequence[str], prompt: Sequence[str]) -> float:
    """Share of the reply's runs of six words that are the prompt's."""
    runs = set(zip(*(prompt[first:] for first in range(6))))
    own = list(zip(*(words[first:] for first in range(6))))
    return min(1.0, 3 * sum(run in runs for run in own) / len(own)) if own else 0.0
