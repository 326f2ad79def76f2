"""The messages of a release, as its files state them: the templates with what surrounds every message, and the banks
that language models wrote."""

from __future__ import annotations

import json

from pydantic import ValidationError

from retain.decision import Terms
from retain.guard import Guard
from retain.message import Bank, MessageError, footer
from retain.quiet import QuietHours

OLDER = "; an older release has another one or none, and a new run of its experiment makes a new release"


def read_templates(content: object, source: str, terms: Terms, guard: Guard) -> tuple[Bank, str, QuietHours]:
    """Of messages.json: the templates, one of that `source` for every situation and offer, what stands below each
    message, and when none is sent. Raises MessageError."""
    if not isinstance(content, dict) or set(content) != {"sender", "quiet_hours", "templates"}:
        raise MessageError(f"messages.json: wants sender, quiet_hours and templates{OLDER}")
    try:
        quiet = QuietHours.model_validate_json(json.dumps(content["quiet_hours"]))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, ("quiet_hours", *problem["loc"])))
        raise MessageError(f"messages.json: {where}: {problem['msg'].removeprefix('Value error, ')}") from None
    sender = content["sender"]
    if not isinstance(sender, dict) or set(sender) != {"name", "address"}:
        raise MessageError("messages.json: sender wants name and address")
    try:
        below = footer(sender["name"], sender["address"])
    except MessageError as error:
        raise MessageError(f"messages.json: {error}") from None
    bank = Bank.from_json(content["templates"])
    _check_source(bank, source, "messages.json")
    check_rules(bank, "messages.json", terms, guard)
    if gaps := bank.gaps(terms.offers.levels):
        raise MessageError(f"messages.json: {gaps[0]}")
    return bank, below, quiet


def read_bank(content: object, source: str, terms: Terms) -> Bank:
    """A bank that the language model `source` wrote; it may be empty, or lack situations and offers, but has none
    besides. Raises MessageError."""
    name = f"{source}/{source}.json"
    bank = Bank.from_json(content, name)
    _check_source(bank, source, name)
    levels = terms.offers.levels
    if unknown := [entry.offer for entry in bank.entries if entry.offer not in levels]:
        offers = ", ".join(map(str, levels))
        raise MessageError(f"{name}: has a message for an offer of {unknown[0]} %, where the release offers {offers} %")
    return bank


def check_rules(bank: Bank, name: str, terms: Terms, guard: Guard) -> None:
    """Raises MessageError for a message of the file `name` that the guard refuses."""
    if problems := bank.problems(terms.offers.months, guard.rules):
        raise MessageError(f"{name}: {problems[0]}")


def _check_source(bank: Bank, source: str, name: str) -> None:
    others = [entry.source for entry in bank.entries if entry.source != source]
    if others:
        raise MessageError(f"{name}: a message's source is {others[0][:20]!r}, not {source}")
