"""The templates of the experiment as a bank of messages: what is said where no model's message may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.errors import ConfigError
from retain.message import SITUATIONS, Bank, Entry, MessageError, render
from retain.rules import Rules

if TYPE_CHECKING:
    from tasks.config import TemplateConfig

SLOTS = {"offer": ("{offer}", "{months}"), "no_offer": ()}  # that a text has to have, and no others


def template_bank(templates: Mapping[str, TemplateConfig], offers: Sequence[int], months: int, rules: Rules) -> Bank:
    """A message for every situation and offer, each of which keeps the guard's rules. `months`: how long an offer runs.

    Raises ConfigError that names the template which is missing, has other slots than it needs, or breaks a rule.
    """
    for name in dict.fromkeys((*SITUATIONS, *templates)):
        if name not in templates:
            raise ConfigError(
                f"words.templates lacks the situation {name}: give it a text with an offer and one without"
            )
        if name not in SITUATIONS:
            raise ConfigError(f"words.templates.{name}: is no situation; there are {', '.join(SITUATIONS)}")
    return Bank([_entry(name, offer, templates[name], months, rules) for name in SITUATIONS for offer in offers])


def _entry(situation: str, offer: int, template: TemplateConfig, months: int, rules: Rules) -> Entry:
    kind = "offer" if offer else "no_offer"
    text, where = getattr(template, kind), f"words.templates.{situation}.{kind}"
    if missing := [slot for slot in SLOTS[kind] if slot not in text]:
        raise ConfigError(f"{where}: lacks the slot {missing[0]}")
    try:
        broken = rules.check(render(text, offer, months), offer, months)
    except MessageError as error:
        raise ConfigError(f"{where}: {error}") from None
    if broken:
        raise ConfigError(f"{where}: as a message with an offer of {offer} % it {broken[0]}")
    return Entry(situation, offer, text, "template", 0.0)
