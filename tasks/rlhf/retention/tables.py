"""The tables of the retention domain, row by row: prompts, replies to imitate, pairs and probes.

Each table has a random stream of its own for each part (and half), and takes customers and flaws in turn from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from engine.errors import DataError
from retain.message import SITUATIONS
from retain.rules import Rules
from tasks.rlhf.retention import domain
from tasks.rlhf.retention.customers import Person, Pools, half_of
from tasks.rlhf.retention.domain import Draw

if TYPE_CHECKING:
    from tasks.config import PromptsConfig

# A random stream, whose number never changes (tests/tasks/test_streams.py).
PROMPTS_STREAM = 20

Row = dict[str, Any]
Cell = tuple[str, int]  # situation, offer
T = TypeVar("T")

TRIES = 60  # draws of one row that nothing like it has been made of yet

# What is drawn of the stream, by table, part and half.
_TABLE_DRAW = {"prompts": 0, "targets": 1, "pairs": 2, "probes": 3}
_PART_DRAW = {"train": 0, "validation": 1, "test": 2}
_HALF_DRAW = {"": 45, "A": 65, "B": 66}


@dataclass
class Making:
    """What all tables share: who there is, which prompt belongs to which part, and how much was refused."""

    config: PromptsConfig
    rules: Rules
    seed: int
    pools: Pools
    prompts: dict[str, str] = field(default_factory=dict)  # text -> part
    refused: int = 0  # good messages that the rules would not have passed
    made: int = 0


@dataclass(frozen=True)
class MadePrompt:
    """A prompt, and what it was made of. `invited`: the kind of what it asks for and shouldn't, or ""."""

    text: str
    person: Person
    situation: str
    offer: int
    invited: str


# -- the four tables -----------------------------------------------------------------------------------------------


def prompts(making: Making, part: str, rows: int) -> list[Row]:
    """Prompts to sample from."""
    draw = _draw(making, "prompts", part)
    customers = _Customers(making, draw, part, "")
    seen: set[str] = set()
    made = []
    for cell in _cells(draw, rows):
        asked = _first(_asks(making, draw, customers, cell), seen, lambda asked: asked.text, f"{part}_prompts {rows}")
        row = {"customer": asked.person.id, "situation": asked.situation, "offer": asked.offer, "part": part}
        made.append(row | {"prompt": asked.text})
    return _named(made, f"prompt-{part}")


def targets(making: Making, part: str, rows: int, flawed: float) -> list[Row]:
    """Replies to imitate, the share `flawed` of them with a flaw."""
    draw = _draw(making, "targets", part)
    customers = _Customers(making, draw, part, "")
    deck = _FlawDeck(draw, making.config.gives_in)
    bad = np.zeros(rows, bool)
    bad[draw.rng.permutation(rows)[: round(flawed * rows)]] = True
    seen: set[tuple[str, str]] = set()
    made = []
    for cell, is_flawed in zip(_cells(draw, rows), bad.tolist()):
        replies = _replies(making, draw, customers, cell, deck if is_flawed else None)
        made.append(_first(replies, seen, lambda row: (row["prompt"], row["response"]), f"targets {rows} ({part})"))
    return _named(made, f"target-{part}")


def _replies(making: Making, draw: Draw, customers: _Customers, cell: Cell, deck: _FlawDeck | None) -> Iterator[Row]:
    for asked in _asks(making, draw, customers, cell):
        message = _good(making, draw, cell)
        kind = ""
        if deck is not None:
            kind = deck.next(asked)
            message = domain.flawed(draw, message, kind)
        row = {"prompt": asked.text, "response": message.text, "offer": asked.offer, "situation": asked.situation}
        yield row | {"flaw": kind, "part": customers.part}


def pairs(making: Making, part: str, half: str, rows: int) -> list[Row]:
    """A good reply and a flawed one to the same prompt."""
    draw = _draw(making, "pairs", part, half)
    customers = _Customers(making, draw, part, half)
    deck = _FlawDeck(draw, making.config.gives_in)
    seen: set[tuple[str, str, str]] = set()
    what = f"pairs {rows} (half {half})" if half else f"held_out_pairs {rows} ({part})"
    made = []
    for cell in _cells(draw, rows):
        compared = _compared(making, draw, customers, cell, deck)
        made.append(_first(compared, seen, lambda row: (row["prompt"], row["chosen"], row["rejected"]), what))
    return _named(made, f"pair-{part}{half and '-' + half}")


def _compared(making: Making, draw: Draw, customers: _Customers, cell: Cell, deck: _FlawDeck) -> Iterator[Row]:
    for asked in _asks(making, draw, customers, cell):
        chosen = _good(making, draw, cell)
        base = chosen if draw.chance(making.config.same_reply) else _good(making, draw, cell)
        kind = deck.next(asked)
        rejected = domain.flawed(draw, base, kind)
        row = {"prompt": asked.text, "chosen": chosen.text, "rejected": rejected.text}
        about = {"offer": asked.offer, "situation": asked.situation, "flaw": kind}
        if chosen.text != rejected.text:
            yield row | about | {"part": customers.part, "half": customers.half}


def probes(making: Making) -> list[Row]:
    """Prompts of test customers that ask for what may not be said, each kind as often as any other."""
    draw = _draw(making, "probes", "test")
    customers = _Customers(making, draw, "test", "")
    seen: set[str] = set()
    made = []
    rows, invitations = making.config.probes, making.config.phrases.invitations.probes
    kinds = domain.invited(invitations)
    lines = {kind: _shuffled(draw, invitations[kind]) for kind in kinds}
    for i, cell in enumerate(_cells(draw, rows)):
        kind = kinds[i % len(kinds)]
        line = lines[kind][i // len(kinds) % len(lines[kind])]
        asks = _asks(making, draw, customers, cell, (kind, line))
        asked = _first(asks, seen, lambda asked: asked.text, f"probes {rows}")
        row = {"prompt": asked.text, "offer": asked.offer, "situation": asked.situation, "kind": kind, "part": "test"}
        made.append(row)
    return _named(made, "probe")


# -- drawing -------------------------------------------------------------------------------------------------------


class _Customers:
    """Customers of one part (and half) for one table: each in turn, in an order drawn by seed."""

    def __init__(self, making: Making, draw: Draw, part: str, half: str) -> None:
        self.part, self.half = part, half
        self._pool = making.pools.get((part, half), {})
        if not self._pool:
            raise DataError(
                f"no customer is in the {part} part{half and ', half ' + half}: no prompt can be made of it"
            )
        self._all = [person for situation in SITUATIONS for person in self._pool.get(situation, [])]
        self._draw = draw
        self._waiting: dict[str, list[Person]] = {}

    def next(self, situation: str) -> Person:
        """One in this situation; or, where there is none, another, whose tenure isn't told."""
        waiting = self._waiting.get(situation)
        if not waiting:
            waiting = self._waiting[situation] = _shuffled(self._draw, self._pool.get(situation) or self._all)
        person = waiting.pop()
        if person.situation == situation:
            return person
        told = {role: words for role, words in person.facts.items() if role != "tenure"}
        return replace(person, facts=told)


class _FlawDeck:
    """Kinds of flaw in turn, each as often as its weight, by whether there is a discount."""

    def __init__(self, draw: Draw, gives_in: float) -> None:
        self._draw, self._gives_in = draw, gives_in
        self._waiting: dict[bool, list[str]] = {}

    def next(self, asked: MadePrompt) -> str:
        """A reply that was invited to a flaw has that one with the probability `gives_in`."""
        if asked.invited and self._draw.chance(self._gives_in):
            return domain.giving_in(asked.invited, asked.offer)
        waiting = self._waiting.get(bool(asked.offer))
        if not waiting:
            waiting = self._waiting[bool(asked.offer)] = _shuffled(self._draw, domain.kinds(asked.offer))
        return waiting.pop()


def _draw(making: Making, table: str, part: str, half: str = "") -> Draw:
    config = making.config
    rng = np.random.default_rng([making.seed, PROMPTS_STREAM, _TABLE_DRAW[table], _PART_DRAW[part], _HALF_DRAW[half]])
    return Draw(rng, config.phrases, config.offers, config.months, held_out=part != "train")


def _cells(draw: Draw, rows: int) -> list[Cell]:
    """Situation and offer of each row: as even as can be, in an order drawn by seed."""
    every = [(situation, offer) for situation in SITUATIONS for offer in draw.offers]
    cells: list[Cell] = []
    while len(cells) < rows:
        cells += _shuffled(draw, every)
    return cells[:rows]


def _asks(
    making: Making, draw: Draw, customers: _Customers, cell: Cell, invitation: tuple[str, str] = ("", "")
) -> Iterator[MadePrompt]:
    """Prompts for the cell, none of which is in another part; of a half's pairs, none in the other half."""
    situation, offer = cell
    for _ in range(TRIES):
        person = customers.next(situation)
        kind, line = invitation
        if customers.part == "train" and draw.chance(making.config.invited):
            invitations = draw.phrases.invitations.training
            kind = draw.item(domain.invited(invitations))
            line = draw.item(invitations[kind])
        facts = list(person.facts.values())
        told = sorted(draw.rng.choice(len(facts), size=min(making.config.facts, len(facts)), replace=False).tolist())
        text = domain.prompt(draw, situation, offer, [facts[i] for i in told], line)
        if customers.half and half_of(making.seed, text) != customers.half:  # two may be told in the same words
            continue
        if making.prompts.setdefault(text, customers.part) == customers.part:
            yield MadePrompt(text, person, situation, offer, kind)


def _good(making: Making, draw: Draw, cell: Cell) -> domain.Message:
    """A good message, which the rules of what may be sent pass too."""
    for _ in range(TRIES):
        message = domain.good(draw, *cell)
        making.made += 1
        broken = making.rules.check(message.text, cell[1], draw.months)
        if not broken:
            return message
        making.refused += 1
    raise DataError(
        f"no message for {cell[0]} and {cell[1]} % keeps the rules of what may be sent: it {broken[0]}; mend "
        "ops/messages/phrases.yaml"
    )


def _first(made: Iterator[T], seen: set[Any], key: Callable[[T], Any], what: str) -> T:
    """The first that isn't there yet."""
    for row in made:
        if key(row) not in seen:
            seen.add(key(row))
            return row
    raise DataError(
        f"prompts.{what}: only {len(seen)} different ones can be made of these customers: lower "
        f"stages.prompts.{what.partition(' ')[0]} or another number there, or describe more roles and categories of "
        "the table"
    )


def _shuffled(draw: Draw, listed: Sequence[T]) -> list[T]:
    return [listed[i] for i in draw.rng.permutation(len(listed)).tolist()]


def _named(rows: Sequence[Row], name: str) -> list[Row]:
    return [{"id": f"{name}-{i:05d}"} | row for i, row in enumerate(rows)]
