"""`prompts`: the retention domain of real customers: prompts, replies to imitate, pairs, and probes of safety.

A prompt names a customer's situation (as the service finds it: retain.message.situation on the risk's reasons), a few
of her facts in words, and an offer. Facts come from the roles of the table, never from a protected column, an id or
a column that leaks. Every table here is even over situation x offer. Where no customer of a part is in a situation,
another customer of that part lends her facts (evidence/coverage.parquet counts those), without her tenure, which
could contradict it.

A customer is in one part alone (that of the split), a training customer in one half alone (by a hash of seed and id),
no prompt is in two parts, and none of a half's pairs is in the other's (by a hash of seed and words). Held-out rows
share `domain`'s generator with those of training, with phrases of their own among the shared ones. Of training rows a
tenth asks for what may not be said, in words that no probe uses, and its good reply doesn't give in; validation and
test prompts ask for nothing, but for the probes, of which two kinds (link, insult) are never asked for in training. No
probe's invitation names anything of a real customer's.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow.parquet as pq

from engine.errors import DataError
from retain.dataset import Column, DatasetSpec, column, protected_columns
from retain.message import SITUATIONS, situation
from retain.rules import check
from retain.score import ModelError, Scorer
from tasks.rlhf import streams
from tasks.rlhf.retention import domain, phrases
from tasks.rlhf.retention.domain import Draw

if TYPE_CHECKING:
    from engine.stage import Metrics, Workspace
    from tasks.config import PromptsConfig

Row = dict[str, Any]
Cell = tuple[str, int]  # situation, offer
T = TypeVar("T")

TRIES = 60  # draws of one row that nothing like it has been made of yet
FACTS = 2  # in a prompt, of those that a customer has
SAME_BASE = 0.6  # pairs whose rejected reply is the chosen one with a flaw; else another reply with it

# Words of a fact by role. {} is the value in small letters; of what says "no" and of what says "yes" or its kind.
_WORDS = {
    "contract": ("{} contract", ""),
    "payment": ("pays by {}", ""),
    "internet": ("{} internet", "no internet"),
    "support": ("has tech support", "no tech support"),
}
_TENURES = ((3, "new"), (12, "in the first year"), (48, "with us some years"))
_TENURED = "with us many years"


@dataclass(frozen=True)
class Person:
    """A customer. `facts`: role -> words; `half` is "" outside of training."""

    id: str
    part: str
    half: str
    situation: str
    facts: Mapping[str, str]


@dataclass
class _Making:
    """What all tables share: who there is, which prompt belongs to which part, and how much was refused."""

    config: PromptsConfig
    seed: int
    pools: dict[tuple[str, str], dict[str, list[Person]]]  # (part, half or "") -> situation -> customers
    prompts: dict[str, str] = field(default_factory=dict)  # text -> part
    refused: int = 0  # good messages that the rules would not have passed
    made: int = 0


def run(config: PromptsConfig, inputs: Mapping[str, Path], workspace: Workspace) -> Metrics:
    people = read(inputs, workspace.seed)
    making = _Making(config, workspace.seed, _pools(people))
    # Test first: what training may not repeat has to be there before it.
    probes = _probes(making)
    prompts = [
        row
        for part, rows in (
            ("test", config.test_prompts),
            ("validation", config.validation_prompts),
            ("train", config.train_prompts),
        )
        for row in _prompts(making, part, rows)
    ]
    pairs = [
        row
        for part, half, rows in (
            ("test", "", config.held_out_pairs),
            ("train", "A", config.pairs),
            ("train", "B", config.pairs),
        )
        for row in _pairs(making, part, half, rows)
    ]
    held_out = max(1, min(200, config.targets // 5))
    targets = _targets(making, "validation", held_out, 0.0) + _targets(making, "train", config.targets, config.flawed)
    tables = {"prompts": prompts, "targets": targets, "pairs": pairs, "probes": probes}
    for name, rows in tables.items():
        workspace.out.parquet(f"{name}.parquet", {key: [row[key] for row in rows] for key in rows[0]})
    workspace.out.json("about.json", domain.about(config.offers, config.months))
    coverage = _coverage(making, tables)
    workspace.out.parquet("evidence/coverage.parquet", {key: [row[key] for row in coverage] for key in coverage[0]})
    workspace.out.parquet("curves.parquet", _curves(coverage))
    return _metrics(making, len(people), tables, coverage)


# -- customers -----------------------------------------------------------------------------------------------------


def read(inputs: Mapping[str, Path], seed: int) -> list[Person]:
    """The customers of the artifact `customers` with the situation that the artifact `risk` sees them in."""
    spec = DatasetSpec.model_validate_json((inputs["customers"] / "schema.json").read_text())
    table = pq.read_table(inputs["customers"] / "data.parquet")
    try:
        risk = Scorer.load({name: inputs["risk"] / name for name in Scorer.FILES})
    except ModelError as error:
        raise DataError(f"risk: {error}; run that stage again") from None
    protected = {one.name for one in protected_columns(spec)}
    rows = table.to_pylist()
    words = _Words(spec, rows)
    found = []
    for row in rows:
        identity = str(row[spec.roles["id"]] if "id" in spec.roles else row["row"])
        try:
            reasons = [reason for reason in risk.reasons(risk.features(row)) if reason[0] not in protected]
        except ValueError as error:
            raise DataError(f"customer {identity}: {error}; risk was trained on another table, run it again") from None
        name = situation(spec.roles, reasons, row)
        part = row["split"]
        found.append(Person(identity, part, half(seed, identity) if part == "train" else "", name, words.of(row)))
    return found


def half(seed: int, identity: str) -> str:
    """A or B, of a customer's id or a prompt's words, for as long as they and the seed are the same."""
    return "AB"[hashlib.sha256(f"{seed} {identity}".encode()).digest()[0] % 2]


class _Words:
    """A customer's facts in words: of the roles that the table has, in columns that may be shown; of other columns
    that may be, where roles say little."""

    def __init__(self, spec: DatasetSpec, rows: Sequence[Mapping[str, Any]]) -> None:
        self._columns: dict[str, Column] = {}
        for role in ("tenure", *_WORDS, "monthly_charge"):
            if role in spec.roles:
                of = column(spec, spec.roles[role])
                if not of.protected and not of.leak and of.kind != "id":
                    self._columns[role] = of
        named = set(spec.roles.values())
        self._others = [
            of
            for of in spec.columns
            if of.kind in ("flag", "category") and not (of.protected or of.leak or of.name in named)
        ]
        charges = [self._number("monthly_charge", row) for row in rows if row["split"] == "train"]
        known = [charge for charge in charges if charge is not None]
        self._terciles = np.quantile(known, [1 / 3, 2 / 3]).tolist() if known else [math.inf, math.inf]

    def of(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Role -> words; a role without a value that can be said in plain words is left out."""
        found = {}
        months = self._number("tenure", row)
        if months is not None:
            found["tenure"] = next((said for most, said in _TENURES if months <= most), _TENURED)
        for role, (yes, no) in _WORDS.items():
            said = self._value(role, row)
            if said is not None:
                found[role] = _phrase(said, yes, no)
        charge = self._number("monthly_charge", row)
        if charge is not None:
            low, high = self._terciles
            found["monthly_charge"] = f"{'small' if charge < low else 'medium' if charge < high else 'large'} bill"
        found = {role: said for role, said in found.items() if said}
        for of in self._others if len(found) <= FACTS else ():
            said = self._said(of, row)
            if said is not None:
                found[of.name] = f"{_plain_name(of.name)} {said}"
        return found

    def _number(self, role: str, row: Mapping[str, Any]) -> float | None:
        of = self._columns.get(role)
        if of is None or of.kind != "number":
            return None
        value = row[of.name]
        if not isinstance(value, int | float) or not math.isfinite(value) or value == of.missing:
            return None
        return float(value)

    def _value(self, role: str, row: Mapping[str, Any]) -> str | None:
        of = self._columns.get(role)
        return None if of is None or of.kind not in ("flag", "category") else self._said(of, row)

    def _said(self, of: Column, row: Mapping[str, Any]) -> str | None:
        value = row[of.name]
        if of.kind == "flag":
            return "yes" if value == of.values[1] else "no"
        said = re.sub(r"\s*\([^)]*\)", "", str(value)).strip()
        # A short name of plain letters reads as words; a code or a long label doesn't.
        plain = re.fullmatch(r"[A-Za-z]+(?:[ -][A-Za-z]+){0,3}", said)
        return (said if said.isupper() else said.lower()) if plain else None


def _plain_name(name: str) -> str:
    """PaperlessBilling, paperless_billing -> paperless billing."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z]+", " ", name).strip().lower()


def _phrase(said: str, yes: str, no: str) -> str:
    if said.lower() == "no":
        return no
    if "{}" not in yes:
        return yes if said.lower() == "yes" else ""
    return yes.replace("{} ", "").replace(" {}", "") if said.lower() == "yes" else yes.replace("{}", said)


def _pools(people: Sequence[Person]) -> dict[tuple[str, str], dict[str, list[Person]]]:
    pools: dict[tuple[str, str], dict[str, list[Person]]] = {}
    for person in people:
        for where in {(person.part, ""), (person.part, person.half)}:
            pools.setdefault(where, {}).setdefault(person.situation, []).append(person)
    return pools


# -- tables --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """A prompt, and what it was made of. `invited`: the kind of what it asks for and shouldn't, or ""."""

    text: str
    person: Person
    situation: str
    offer: int
    invited: str


def _prompts(making: _Making, part: str, rows: int) -> list[Row]:
    draw = _draw(making, "prompts", part)
    people = _People(making, draw, part, "")
    seen: set[str] = set()
    found = []
    for cell in _cells(draw, rows):
        asked = _first(_asks(making, draw, people, cell), seen, lambda asked: asked.text, f"{part}_prompts {rows}")
        row = {"customer": asked.person.id, "situation": asked.situation, "offer": asked.offer, "part": part}
        found.append(row | {"prompt": asked.text})
    return _named(found, f"prompt-{part}")


def _targets(making: _Making, part: str, rows: int, flawed: float) -> list[Row]:
    draw = _draw(making, "targets", part)
    people = _People(making, draw, part, "")
    deck = _Deck(draw)
    bad = np.zeros(rows, bool)
    bad[draw.rng.permutation(rows)[: round(flawed * rows)]] = True
    seen: set[tuple[str, str]] = set()
    found = []
    for cell, is_flawed in zip(_cells(draw, rows), bad.tolist()):
        replies = _replies(making, draw, people, cell, deck if is_flawed else None)
        found.append(_first(replies, seen, lambda row: (row["prompt"], row["response"]), f"targets {rows} ({part})"))
    return _named(found, f"target-{part}")


def _replies(making: _Making, draw: Draw, people: _People, cell: Cell, deck: _Deck | None) -> Iterator[Row]:
    for asked in _asks(making, draw, people, cell):
        message = _good(making, draw, cell)
        kind = ""
        if deck is not None:
            kind = deck.flaw(asked)
            message = domain.flawed(draw, message, kind)
        row = {"prompt": asked.text, "response": message.text, "offer": asked.offer, "situation": asked.situation}
        yield row | {"flaw": kind, "part": people.part}


def _pairs(making: _Making, part: str, half: str, rows: int) -> list[Row]:
    draw = _draw(making, "pairs", part, half)
    people = _People(making, draw, part, half)
    deck = _Deck(draw)
    seen: set[tuple[str, str, str]] = set()
    what = f"pairs {rows} (half {half})" if half else f"held_out_pairs {rows} ({part})"
    found = []
    for cell in _cells(draw, rows):
        compared = _compared(making, draw, people, cell, deck)
        found.append(_first(compared, seen, lambda row: (row["prompt"], row["chosen"], row["rejected"]), what))
    return _named(found, f"pair-{part}{half and '-' + half}")


def _compared(making: _Making, draw: Draw, people: _People, cell: Cell, deck: _Deck) -> Iterator[Row]:
    for asked in _asks(making, draw, people, cell):
        chosen = _good(making, draw, cell)
        base = chosen if draw.chance(SAME_BASE) else _good(making, draw, cell)
        kind = deck.flaw(asked)
        rejected = domain.flawed(draw, base, kind)
        row = {"prompt": asked.text, "chosen": chosen.text, "rejected": rejected.text}
        about = {"offer": asked.offer, "situation": asked.situation, "flaw": kind}
        if chosen.text != rejected.text:
            yield row | about | {"part": people.part, "half": people.half}


def _probes(making: _Making) -> list[Row]:
    draw = _draw(making, "probes", "test")
    people = _People(making, draw, "test", "")
    seen: set[str] = set()
    found = []
    rows = making.config.probes
    names = list(phrases.INVITATIONS)
    lines = {kind: _shuffled(draw, phrases.INVITATIONS[kind]) for kind in names}
    for i, cell in enumerate(_cells(draw, rows)):
        kind = names[i % len(names)]
        line = lines[kind][i // len(names) % len(lines[kind])]
        asked = _first(
            _asks(making, draw, people, cell, (kind, line)), seen, lambda asked: asked.text, f"probes {rows}"
        )
        row = {"prompt": asked.text, "offer": asked.offer, "situation": asked.situation, "kind": kind, "part": "test"}
        found.append(row)
    return _named(found, "probe")


# -- drawing -------------------------------------------------------------------------------------------------------


class _People:
    """Customers of one part (and half) for one table: each in turn, in an order drawn by seed."""

    def __init__(self, making: _Making, draw: Draw, part: str, half: str) -> None:
        self.part, self.half = part, half
        self._pool = making.pools.get((part, half), {})
        if not self._pool:
            raise DataError(
                f"no customer is in the {part} part{half and ', half ' + half}: no prompt can be made of it"
            )
        self._all = [person for name in SITUATIONS for person in self._pool.get(name, [])]
        self._draw = draw
        self._waiting: dict[str, list[Person]] = {}

    def next(self, name: str) -> Person:
        """One in this situation; or, where there is none, another, whose tenure isn't told."""
        waiting = self._waiting.get(name)
        if not waiting:
            waiting = self._waiting[name] = _shuffled(self._draw, self._pool.get(name) or self._all)
        person = waiting.pop()
        if person.situation == name:
            return person
        told = {role: said for role, said in person.facts.items() if role != "tenure"}
        return replace(person, facts=told)


class _Deck:
    """Kinds of flaw in turn, each as often as its weight, by whether there is a discount."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._waiting: dict[bool, list[str]] = {}

    def flaw(self, asked: _Asked) -> str:
        """Whoever was invited to a flaw mostly has that one."""
        if asked.invited and self._draw.chance(0.8):
            return domain.GIVES_IN[asked.invited][0 if asked.offer else 1]
        waiting = self._waiting.get(bool(asked.offer))
        if not waiting:
            waiting = self._waiting[bool(asked.offer)] = _shuffled(self._draw, domain.kinds(asked.offer))
        return waiting.pop()


def _draw(making: _Making, table: str, part: str, half: str = "") -> Draw:
    place = [("prompts", "targets", "pairs", "probes").index(table), ("train", "validation", "test").index(part)]
    rng = np.random.default_rng([making.seed, streams.PROMPTS, *place, ord(half or "-")])
    return Draw(rng, making.config.offers, making.config.months, held_out=part != "train")


def _cells(draw: Draw, rows: int) -> list[Cell]:
    """Situation and offer of each row: as even as can be, in an order drawn by seed."""
    every = [(name, offer) for name in SITUATIONS for offer in draw.offers]
    found: list[Cell] = []
    while len(found) < rows:
        found += _shuffled(draw, every)
    return found[:rows]


def _asks(
    making: _Making, draw: Draw, people: _People, cell: Cell, invitation: tuple[str, str] = ("", "")
) -> Iterator[_Asked]:
    """Prompts for the cell, none of which is in another part; of a half's pairs, none in the other half."""
    name, offer = cell
    for _ in range(TRIES):
        person = people.next(name)
        kind, line = invitation
        if people.part == "train" and draw.chance(domain.INVITED):
            kind = draw.any(list(phrases.TAUGHT))
            line = draw.any(phrases.TAUGHT[kind])
        facts = list(person.facts.values())
        told = sorted(draw.rng.choice(len(facts), size=min(FACTS, len(facts)), replace=False).tolist())
        text = domain.prompt(draw, name, offer, [facts[i] for i in told], line)
        if people.half and half(making.seed, text) != people.half:  # two customers may be told in the same words
            continue
        if making.prompts.setdefault(text, people.part) == people.part:
            yield _Asked(text, person, name, offer, kind)


def _good(making: _Making, draw: Draw, cell: Cell) -> domain.Message:
    """A good message, which the rules of what may be sent pass too."""
    for _ in range(TRIES):
        message = domain.good(draw, *cell)
        making.made += 1
        broken = check(message.text, cell[1], draw.months)
        if not broken:
            return message
        making.refused += 1
    raise DataError(f"no message for {cell[0]} and {cell[1]} % keeps retain.message: it {broken[0]}; mend domain")


def _first(made: Iterator[T], seen: set[Any], key: Callable[[T], Any], what: str) -> T:
    """The first that isn't there yet."""
    for one in made:
        if key(one) not in seen:
            seen.add(key(one))
            return one
    raise DataError(
        f"prompts.{what}: only {len(seen)} different ones can be made of these customers; state fewer, or describe more"
        " of the table's roles"
    )


def _shuffled(draw: Draw, listed: Sequence[T]) -> list[T]:
    return [listed[i] for i in draw.rng.permutation(len(listed)).tolist()]


def _named(rows: Sequence[Row], name: str) -> list[Row]:
    return [{"id": f"{name}-{i:05d}"} | row for i, row in enumerate(rows)]


# -- figures -------------------------------------------------------------------------------------------------------


def _coverage(making: _Making, tables: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Rows by table, part, half, situation and offer; how many customers of that part are in that situation."""
    places = ("part", "half", "situation", "offer")
    counts = Counter((table, *(row.get(key, "") for key in places)) for table, rows in tables.items() for row in rows)
    found = []
    for (table, part, half_, name, offer), rows in sorted(counts.items()):
        customers = len(making.pools[part, half_].get(name, ()))
        row = {"table": table, "part": part, "half": half_, "situation": name, "offer": offer, "rows": rows}
        found.append(row | {"customers": customers, "borrowed": 0 if customers else rows})
    return found


def _curves(coverage: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows by offer (x), a group for each situation, a curve for each table's part."""
    totals: Counter[tuple[str, str, int]] = Counter()
    for row in coverage:
        totals[f"{row['table']}_{row['part']}", row["situation"], row["offer"]] += row["rows"]
    ordered = sorted(totals.items())
    return {
        "curve": [curve for (curve, _, _), _ in ordered],
        "x": [float(offer) for (_, _, offer), _ in ordered],
        "y": [float(rows) for _, rows in ordered],
        "low": [float("nan")] * len(ordered),
        "high": [float("nan")] * len(ordered),
        "group": [name for (_, name, _), _ in ordered],
    }


def _metrics(making: _Making, people: int, tables: Mapping[str, Sequence[Row]], coverage: Sequence[Row]) -> Metrics:
    targets = [row for row in tables["targets"] if row["part"] == "train"]
    good = [row["response"] for row in targets if not row["flaw"]]
    asked = [row["prompt"] for name in ("prompts", "probes") for row in tables[name]]
    endings = Counter(re.split(r"(?<=[.?!]) ", text)[-1] for text in good)
    kinds = Counter(row["flaw"] for row in tables["pairs"])
    figures = {
        "customers": people,
        **{name: len(rows) for name, rows in tables.items()},
        "targets_flawed": sum(bool(row["flaw"]) for row in targets) / len(targets),
        "distinct_messages": len(set(good)) / max(1, len(good)),
        "commonest_ending": max(endings.values(), default=0) / max(1, len(good)),
        "words": float(np.mean([len(text.split()) for text in good])) if good else 0.0,
        "prompt_words": float(np.mean([len(text.split()) for text in asked])),
        "prompt_words_most": max(len(text.split()) for text in asked),
        "length_auc": length_auc(tables["pairs"]),
        "borrowed": sum(row["borrowed"] for row in coverage),
        "refused": making.refused / making.made,
        **{f"pairs_{kind}": rows for kind, rows in sorted(kinds.items())},
    }
    return {name: {"value": float(value)} for name, value in figures.items()}


def length_auc(pairs: Sequence[Row]) -> float:
    """How often the longer reply (in words) of a pair is the chosen one, ties half; without those flawed in length."""
    told = [row for row in pairs if row["flaw"] not in ("rambling", "cut_off")]
    more = [len(row["chosen"].split()) - len(row["rejected"].split()) for row in told]
    return float(np.mean(0.5 + 0.5 * np.sign(more))) if more else 0.5
