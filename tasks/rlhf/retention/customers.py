"""Customers as prompts tell of them: their part and half, the situation they are in, a few facts in words.

Facts come from the roles of the table, never from a protected column, an id or a column that leaks.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from engine.errors import DataError
from retain.dataset import Column, DatasetSpec, column, number_of, protected_columns
from retain.message import situation
from retain.score import ModelError, Scorer

# Words of a fact by role: of a value, and of "no". {} is the value in small letters.
_WORDS = {
    "contract": ("{} contract", ""),
    "payment": ("pays by {}", ""),
    "internet": ("{} internet", "no internet"),
    "support": ("has tech support", "no tech support"),
}
_TENURES = ((3, "new"), (12, "in the first year"), (48, "with us some years"))  # months, and what is said up to there
_LONGER_TENURE = "with us many years"

Pools = Mapping[tuple[str, str], Mapping[str, list["Person"]]]  # (part, half or "") -> situation -> customers


@dataclass(frozen=True)
class Person:
    """A customer. `facts`: role -> words; `half` is "" outside of training."""

    id: str
    part: str
    half: str
    situation: str
    facts: Mapping[str, str]


def read(inputs: Mapping[str, Path], seed: int, facts_told: int) -> list[Person]:
    """The customers of the artifact `customers` with the situation that the artifact `risk` sees them in.

    Where roles give a customer no more than `facts_told` facts, other columns give some too.
    """
    spec = DatasetSpec.model_validate_json((inputs["customers"] / "schema.json").read_bytes())
    rows = pq.read_table(inputs["customers"] / "data.parquet").to_pylist()
    try:
        risk = Scorer.load({name: inputs["risk"] / name for name in Scorer.FILES})
    except ModelError as error:
        raise DataError(f"risk: {error}; run that stage again") from None
    protected = {protected.name for protected in protected_columns(spec)}
    facts = _Facts(spec, rows, facts_told)
    people = []
    for row in rows:
        identity = str(row[spec.roles["id"]] if "id" in spec.roles else row["row"])
        try:
            reasons = [reason for reason in risk.reasons(risk.features(row)) if reason[0] not in protected]
        except ValueError as error:
            raise DataError(f"customer {identity}: {error}; risk was trained on another table, run it again") from None
        part = row["split"]
        half = half_of(seed, identity) if part == "train" else ""
        people.append(
            Person(
                identity, part, half, situation(spec.roles, reasons, number_of(spec, "tenure", row)), facts.tell(row)
            )
        )
    return people


def half_of(seed: int, identity: str) -> str:
    """A or B, of a customer's id or a prompt's words, for as long as they and the seed are the same."""
    return "AB"[hashlib.sha256(f"{seed} {identity}".encode()).digest()[0] % 2]


def pools(people: Sequence[Person]) -> Pools:
    """Each customer in the pool of her part, and a training customer in that of her half too."""
    by_place: dict[tuple[str, str], dict[str, list[Person]]] = {}
    for person in people:
        for place in {(person.part, ""), (person.part, person.half)}:
            by_place.setdefault(place, {}).setdefault(person.situation, []).append(person)
    return by_place


class _Facts:
    """A customer's facts in words: of the roles that the table has, in columns that may be shown; of other columns
    that may be, where roles say little."""

    def __init__(self, spec: DatasetSpec, rows: Sequence[Mapping[str, Any]], told: int) -> None:
        self._told = told
        self._columns: dict[str, Column] = {}
        for role in ("tenure", *_WORDS, "monthly_charge"):
            if role in spec.roles:
                of_role = column(spec, spec.roles[role])
                if not of_role.protected and not of_role.leak and of_role.kind != "id":
                    self._columns[role] = of_role
        named = set(spec.roles.values())
        self._others = [
            other
            for other in spec.columns
            if other.kind in ("flag", "category") and not (other.protected or other.leak or other.name in named)
        ]
        charges = [self._number("monthly_charge", row) for row in rows if row["split"] == "train"]
        known = [charge for charge in charges if charge is not None]
        self._terciles = np.quantile(known, [1 / 3, 2 / 3]).tolist() if known else [math.inf, math.inf]

    def tell(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Role -> words; a role without a value that can be said in plain words is left out."""
        facts = {}
        months = self._number("tenure", row)
        if months is not None:
            facts["tenure"] = next((words for most, words in _TENURES if months <= most), _LONGER_TENURE)
        for role, (with_value, without) in _WORDS.items():
            value = self._value(role, row)
            if value is not None:
                facts[role] = _phrase(value, with_value, without)
        charge = self._number("monthly_charge", row)
        if charge is not None:
            low, high = self._terciles
            facts["monthly_charge"] = f"{'small' if charge < low else 'medium' if charge < high else 'large'} bill"
        facts = {role: words for role, words in facts.items() if words}
        for other in self._others if len(facts) <= self._told else ():
            value = _in_plain_words(other, row[other.name])
            if value is not None:
                facts[other.name] = f"{_plain_name(other.name)} {value}"
        return facts

    def _number(self, role: str, row: Mapping[str, Any]) -> float | None:
        of_role = self._columns.get(role)
        if of_role is None or of_role.kind != "number":
            return None
        value = row[of_role.name]
        if not isinstance(value, int | float) or not math.isfinite(value) or value == of_role.missing:
            return None
        return float(value)

    def _value(self, role: str, row: Mapping[str, Any]) -> str | None:
        of_role = self._columns.get(role)
        if of_role is None or of_role.kind not in ("flag", "category"):
            return None
        return _in_plain_words(of_role, row[of_role.name])


def _in_plain_words(described: Column, value: Any) -> str | None:
    """A flag as yes or no, a category in small letters where it reads as words."""
    if described.kind == "flag":
        return "yes" if value == described.values[1] else "no"
    return _plain_label(str(value))


@lru_cache(maxsize=1024)
def _plain_label(label: str) -> str | None:
    """A short name of plain letters reads as words; a code or a long label doesn't, and has none."""
    words = re.sub(r"\s*\([^)]*\)", "", label).strip()
    if not re.fullmatch(r"[A-Za-z]+(?:[ -][A-Za-z]+){0,3}", words):
        return None
    return words if words.isupper() else words.lower()


def _plain_name(name: str) -> str:
    """PaperlessBilling, paperless_billing -> paperless billing."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z]+", " ", name).strip().lower()


def _phrase(value: str, with_value: str, without: str) -> str:
    if value.lower() == "no":
        return without
    if "{}" not in with_value:
        return with_value if value.lower() == "yes" else ""
    if value.lower() == "yes":
        return with_value.replace("{} ", "").replace(" {}", "")
    return with_value.replace("{}", value)
