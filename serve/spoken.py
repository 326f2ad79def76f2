"""What the learned arm says with each offer in each situation: the texts come as one table, and are judged once.

The arm's process sends the table when it has loaded its release, and after each change of what people said of
messages. An answer names no text, so none can come that wasn't judged here, by the worker's own guard, verdicts and
terms: texts have slots, and the amounts in them are filled in by the worker. What customers are shown has to be what
the worker finds itself in that release, whose guard has a say, too; the texts of a release that the worker hasn't
loaded are put on record at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, Field

from retain.decision import Terms
from retain.guard import Guard
from retain.message import SITUATIONS, Entry, MessageError, entry_of, render
from retain.parts import Withheld
from retain.release import SOURCES, SPEAKS, STAGE_OF, TEMPLATES, Release

MAX_TEXT = 2000  # characters; the guard lets pass a fifth of it

BANKS = tuple(STAGE_OF)  # of language models
Cell = tuple[str, int]  # a situation, and an offer in percent


def table(release: Release) -> list[dict[str, Any]]:
    """What the arm of this release says, as it is sent to the worker."""
    cells = [(situation, offer) for situation in SITUATIONS for offer in release.terms.offers.levels]
    return [
        {
            "situation": situation,
            "offer": offer,
            "said": _sent(release.entry("learned", situation, offer)),
            "chosen": _sent(ranked_first(release, situation, offer)),
            **{bank: _of_bank(release, bank, situation, offer) for bank in BANKS},
        }
        for situation, offer in cells
    ]


def _of_bank(release: Release, bank: str, situation: str, offer: int) -> dict[str, Any]:
    entry, withheld = release.of_bank(bank, situation, offer)
    return {"entry": _sent(entry), "withheld": withheld}


def _sent(entry: Entry | None) -> dict[str, Any] | None:
    # A score that isn't finite, which a bank may state, comes over as null.
    return None if entry is None else entry.as_dict()


def ranked_first(release: Release, situation: str, offer: int) -> Entry | None:
    """What the learned arm would say if neither guard nor people had a say in it: of its language models' messages the
    best by score, the refused ones among them; None where there is none."""
    for wanted in (situation, "default"):
        for part in SPEAKS["learned"]:
            if part == TEMPLATES or part not in release.banks:
                continue
            entries = [*release.banks[part].entries, *_refused(release, part)]
            cell = [entry for entry in entries if (entry.situation, entry.offer) == (wanted, offer)]
            if cell:
                return max(cell, key=lambda entry: entry.score)
    return None


def _refused(release: Release, part: str) -> list[Entry]:
    """The messages of a bank that the guard refused."""
    keys = ("situation", "offer", "text", "source", "score", "tokens")
    return [
        entry_of({key: dropped[key] for key in keys}, "release.json: dropped")
        for dropped in release.dropped
        if dropped["part"] == part
    ]


class _Text(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    situation: Literal[SITUATIONS]  # type: ignore[valid-type]
    offer: int
    text: Annotated[str, Field(max_length=MAX_TEXT)]
    source: Literal[SOURCES]  # type: ignore[valid-type]
    score: float | None
    tokens: int | None

    @property
    def entry(self) -> Entry:
        score = 0.0 if self.score is None else self.score
        return Entry(self.situation, self.offer, self.text, self.source, score, self.tokens)


class _OfBank(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    entry: _Text | None
    withheld: Withheld | None


class Row(BaseModel):
    """A row of the table, as it is received."""

    model_config = ConfigDict(strict=True, extra="forbid")

    situation: Literal[SITUATIONS]  # type: ignore[valid-type]
    offer: int
    said: _Text | None
    chosen: _Text | None
    sft: _OfBank
    rlhf: _OfBank


class Said(NamedTuple):
    """What is said with an offer: not greeted, without a footer, its slots filled. `score`: None of a template."""

    situation: str
    text: str
    source: str
    score: float | None
    tokens: int | None
    entry: Entry


class Chosen(NamedTuple):
    """What the reward model ranked first, before guard and people had their say. `breaks`: kinds of rules."""

    situation: str
    text: str
    source: str
    score: float
    tokens: int | None
    approved: bool
    breaks: tuple[str, ...]


class Banks(NamedTuple):
    """What the banks of language models have: JSON of retain.record.Banks, and the texts by bank."""

    record: bytes
    texts: Mapping[str, str | None]


class Spoken(NamedTuple):
    """Of one situation and offer. `refused` says why what the arm would have sent may not be: it is no arm to ask."""

    said: Said | None
    chosen: Chosen | None
    banks: Banks
    refused: str = ""


NO_BANKS = Banks(b"null", {})
NOTHING = Spoken(None, None, NO_BANKS)


def judged(
    rows: list[Row], release: Release, verdicts: Mapping[str, str], speaker: Release | None
) -> dict[Cell, Spoken]:
    """The table as the worker of a release uses it. Raises ValueError if it isn't one of these terms.

    `verdicts` are those by which the arm made it: with them it knows what nobody approved. `speaker`: the release that
    the arm has loaded, as the worker has loaded it itself; None where it hasn't.
    """
    known = replace(release, verdicts=verdicts)
    spoken_by = None if speaker is None else replace(speaker, verdicts=verdicts)
    wanted = {(situation, offer) for situation in SITUATIONS for offer in release.terms.offers.levels}
    if {(row.situation, row.offer) for row in rows} != wanted or len(rows) != len(wanted):
        raise ValueError("its table of messages has not one row for each situation and offer")
    return {(row.situation, row.offer): _judged(row, known, spoken_by) for row in rows}


def _judged(row: Row, release: Release, speaker: Release | None) -> Spoken:
    terms, verdicts = release.terms, release.verdicts
    guards = [release.guard] if speaker is None else [release.guard, speaker.guard]
    chosen = None if row.chosen is None else _chosen(row.chosen.entry, terms, guards, verdicts)
    has = {"sft": row.sft, "rlhf": row.rlhf}
    banks = _recorded(
        {bank: (None if of.entry is None else of.entry.entry, of.withheld) for bank, of in has.items()}, terms
    )
    nothing = Spoken(None, chosen, banks)
    if row.said is None:
        return nothing
    entry = row.said.entry
    if entry.offer != row.offer:
        return nothing._replace(refused=f"a message for an offer of {entry.offer} % with one of {row.offer} %")
    if not may_be_sent(entry, verdicts):
        return nothing._replace(refused="a message that nobody approved")
    months = terms.offers.months
    try:
        text = render(entry.text, entry.offer, months)
        broken = [broken for guard in guards for broken in guard.rules.broken_rules(text, entry.offer, months)]
    except MessageError as error:
        text, broken = "", [str(error)]
    if broken:
        reasons = "; ".join(dict.fromkeys(broken))
        return nothing._replace(refused=f"a message that the guard refuses: {reasons}")
    if speaker is not None:
        expected = speaker.entry("learned", row.situation, row.offer)
        if expected is None or _identity(expected) != _identity(entry):
            return nothing._replace(refused="a message that the release doesn't say there")
    score = None if entry.source == TEMPLATES else entry.score
    return nothing._replace(said=Said(entry.situation, text, entry.source, score, entry.tokens, entry))


def of_banks(release: Release, situation: str, offer: int) -> Banks:
    """What the banks of the worker's own release have."""
    return _recorded({bank: release.of_bank(bank, situation, offer) for bank in BANKS}, release.terms)


def _recorded(banks: Mapping[str, tuple[Entry | None, Withheld | None]], terms: Terms) -> Banks:
    record: dict[str, dict[str, Any]] = {}
    for bank, (entry, withheld) in banks.items():
        text = None
        if entry is not None:
            try:
                text = render(entry.text, entry.offer, terms.offers.months)
            except MessageError:  # of another release, which has other slots
                text = entry.text
        record[bank] = {
            "text": text,
            "characters": None if text is None else len(text),
            "tokens": None if entry is None else entry.tokens,
            "score": None if entry is None else entry.score,
            "withheld": withheld,
        }
    return Banks(orjson.dumps(record), {bank: said["text"] for bank, said in record.items()})


def _chosen(entry: Entry, terms: Terms, guards: list[Guard], verdicts: Mapping[str, str]) -> Chosen:
    approved = may_be_sent(entry, verdicts)
    try:
        text = render(entry.text, entry.offer, terms.offers.months)
        kinds = [guard.rules.unsafe(text, entry.offer, terms.offers.months) for guard in guards]
        breaks = tuple(dict.fromkeys(kind for broken in kinds for kind in broken))
    except MessageError as error:
        text, breaks = entry.text, (str(error),)
    return Chosen(entry.situation, text, entry.source, entry.score, entry.tokens, approved, breaks)


def _identity(entry: Entry) -> tuple[str, str, str]:
    return entry.situation, entry.text, entry.source


def may_be_sent(entry: Entry, verdicts: Mapping[str, str]) -> bool:
    """Of a language model's texts those alone that a person approved."""
    return entry.source == TEMPLATES or verdicts.get(entry.text) == "approved"


def without_withdrawn(cells: Mapping[Cell, Spoken], verdicts: Mapping[str, str]) -> dict[Cell, Spoken]:
    """The table until the arm sends another one, after people have said something else: without what they took back."""
    return {
        cell: spoken if spoken.said is None or may_be_sent(spoken.said.entry, verdicts) else spoken._replace(said=None)
        for cell, spoken in cells.items()
    }
