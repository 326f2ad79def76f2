"""The guard: what the service refuses to say, the rules that a message keeps together with what a release adds to them.

The rules of an experiment are frozen with it, since a model is trained by them. What the service refuses or lets pass
besides is data of the release (GuardWords), as are the sentences in which it says so. Both meet in in_force() and
nowhere else.
"""

from __future__ import annotations

from retain.frozen import Frozen
from retain.names import Names, NameWords
from retain.rules import Rules, RulesError, RuleWords, check_entries, check_kinds


class GuardWords(Frozen):
    """What a release adds to the rules: what ops/messages/guard.yaml holds.

    Entries of `words` (by kind) and `harmless` are as those of RuleWords. `sentences`: what is said of a message that
    breaks a rule, by its kind.
    """

    sentences: dict[str, str]
    words: dict[str, tuple[str, ...]]
    harmless: tuple[str, ...]
    names: NameWords


class GuardInForce(Frozen):
    """What the service is asked to keep, as a release holds it: the rules with what is added to them, and names."""

    rules: RuleWords
    sentences: dict[str, str]
    names: NameWords


def in_force(rules: RuleWords, guard: GuardWords) -> GuardInForce:
    """The rules and the guard as one. Raises RulesError for words of the guard that don't go with the rules: a kind or
    a piece that those don't have, a kind without a sentence, an entry that RuleWords would refuse."""
    check_kinds(guard.sentences, rules.kinds, "sentences")
    if missing := [kind for kind in rules.kinds if kind not in guard.sentences]:
        raise RulesError(f"lacks a sentence for the kind {missing[0]!r}", "sentences")
    check_kinds(guard.words, rules.kinds, "words")
    for kind, entries in guard.words.items():
        check_entries(entries, rules.pieces, "words", kind)
    check_entries(guard.harmless, rules.pieces, "harmless")
    words = {kind: (*rules.words.get(kind, ()), *guard.words.get(kind, ())) for kind in rules.words | guard.words}
    both = rules.model_copy(update={"words": words, "harmless": (*rules.harmless, *guard.harmless)})
    return GuardInForce(rules=both, sentences=guard.sentences, names=guard.names)


class Guard:
    """The guard ready to be asked."""

    def __init__(self, words: GuardInForce) -> None:
        self.rules = Rules(words.rules, words.sentences)
        self.names = Names(words.names, self.rules)
