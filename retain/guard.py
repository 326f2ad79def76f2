"""The guard: what the service refuses to say, the rules that a message keeps together with what a release adds to them.

The rules of an experiment are frozen with it, since a model is trained by them. What the service refuses or lets pass
besides is data of the release (GuardWords). Both meet in in_force() and nowhere else.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from retain.names import Names, NameWords
from retain.rules import Rules, RuleWords, check_kinds, with_pieces


def _compiles(entry: str) -> str:
    try:
        re.compile(with_pieces(entry, None))
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    return entry


Entry = Annotated[str, AfterValidator(_compiles)]


class GuardWords(BaseModel):
    """What a release adds to the rules: what ops/messages/guard.yaml holds. Entries are as those of RuleWords."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    words: dict[str, tuple[Entry, ...]]
    harmless: tuple[Entry, ...]
    names: NameWords


class GuardInForce(BaseModel):
    """What the service is asked to keep, as a release holds it: the rules with what is added to them, and names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rules: RuleWords
    names: NameWords


def in_force(rules: RuleWords, guard: GuardWords) -> GuardInForce:
    """The rules and the guard as one. Raises RulesError for a kind or a piece that the rules don't have."""
    check_kinds(guard.words, rules.kinds)
    for entry in (entry for entries in (*guard.words.values(), guard.harmless) for entry in entries):
        with_pieces(entry, rules.pieces)
    words = {kind: (*rules.words.get(kind, ()), *guard.words.get(kind, ())) for kind in rules.words | guard.words}
    both = rules.model_copy(update={"words": words, "harmless": (*rules.harmless, *guard.harmless)})
    return GuardInForce(rules=both, names=guard.names)


class Guard:
    """The guard ready to be asked."""

    def __init__(self, words: GuardInForce) -> None:
        """Raises RulesError for an entry that is no regular expression."""
        self.rules = Rules(words.rules)
        self.names = Names(words.names, self.rules)
