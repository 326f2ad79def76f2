"""The words of exp_001_mvp as the stages are given them, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.config import experiment_path, load, validate
from retain.guard import Guard, in_force
from retain.message import Bank, Entry, Message, find, greeted, said
from retain.rules import Rules
from tasks.config import Experiment
from tasks.release import templates
from tasks.rlhf.judging.english import English
from tasks.rlhf.judging.rule_judge.scoring import RuleJudge

WORDS = validate(load(experiment_path("exp_001_mvp")), Experiment).words
CUES: dict[str, Any] = WORDS.cues.model_dump(mode="json")
RULE_JUDGE = RuleJudge.from_lists(CUES)
RULES = Rules(WORDS.rules)
ENGLISH = English(WORDS.english)
GUARD = Guard(in_force(WORDS.rules, WORDS.guard))
KINDS = WORDS.guard.sentences
check, unsafe, clean_name = GUARD.rules.check, RULES.unsafe, GUARD.names.clean


def template_bank(offers: Sequence[int], months: int = 6) -> Bank:
    return templates.template_bank(WORDS.templates, offers, months, GUARD.rules)


def best_message(
    bank: Bank, situation: str, offer: int, months: int, guard: Guard, name: str | None = None
) -> Message | None:
    """What the bank says in exactly that situation with that offer."""
    entry = bank.best(situation, offer, months, guard.rules)
    return None if entry is None else _to(name, entry, months, guard)


def found_message(
    banks: Sequence[Bank], situation: str, offer: int, months: int, guard: Guard, name: str | None = None
) -> Message | None:
    """What the first bank that has anything says, in that situation or the default one."""
    entry = find(banks, situation, offer, months, guard.rules)
    return None if entry is None else _to(name, entry, months, guard)


def _to(name: str | None, entry: Entry, months: int, guard: Guard) -> Message:
    """What somebody of that name is told."""
    message = said(entry, months)
    return message if name is None else message._replace(text=greeted(message.text, entry.offer, months, name, guard))
