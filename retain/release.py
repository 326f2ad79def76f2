"""A release as it is read: by the stage that makes it, to see that it can be, and by the service.

All that decides about a customer is here: the table's description, two scorers, the bridge, the rule and the bank of
messages. It is loaded from plain files (name -> path); where they lie and whether their hashes hold is the caller's
affair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from retain.dataset import DatasetSpec, protected_columns
from retain.decision import NO_HISTORY, Bridge, Decision, DecisionError, History, ThresholdRule, decide, opted_out
from retain.message import Bank, MessageError, situation
from retain.score import Floats, ModelError, Scorer

# What is needed of each part that a stage made, by name in the release and in the stage's own artifact.
PARTS = {
    "risk": (*Scorer.FILES, "schema.json"),
    "accept": (*Scorer.FILES, "schema.json", "bridge.json"),
}


class ReleaseError(ValueError):
    """A release, or a part of one, that can't be used: which file, what is wrong."""


@dataclass(frozen=True)
class Release:
    """`versions` holds a digest of each part's content. `has_bank_columns`: a customer has all that `accept` asks.

    `replaced`: the parts that are not the release's own.
    """

    experiment: str
    spec: DatasetSpec
    risk: Scorer
    accept: Scorer
    bridge: Bridge
    rule: ThresholdRule
    bank: Bank
    versions: Mapping[str, str]
    has_bank_columns: bool
    replaced: tuple[str, ...] = ()

    def decide(self, values: Mapping[str, object], history: History = NO_HISTORY) -> tuple[Decision, Floats]:
        """The decision for one validated customer, and the features it was made from."""
        x = self.risk.features(values)
        risk = self.risk.score(x)
        acceptance = self.bridge.acceptance(values)
        return decide(self.rule, risk, acceptance, history, opted_out(self.spec, values)), x

    def reasons(self, x: Floats) -> list[tuple[str, float]]:
        """(column, contribution) as Scorer.reasons(), without the protected columns.

        The risk is theirs too, but neither a message nor whoever reads an answer gets to act on them.
        """
        return [reason for reason in self.risk.reasons(x) if reason[0] not in self._protected]

    @cached_property
    def _protected(self) -> frozenset[str]:
        return frozenset(column.name for column in protected_columns(self.spec))

    def full_acceptance(self, values: Mapping[str, object]) -> float | None:
        """The whole acceptance model's score; None for a table without the bank's columns."""
        return self.accept.score(self.accept.features(values)) if self.has_bank_columns else None

    def message(
        self, decision: Decision, reasons: list[tuple[str, float]], values: Mapping[str, object]
    ) -> tuple[str, str] | None:
        """(situation, text) of a contact; None without contact."""
        if decision.offer is None:
            return None
        name = situation(self.spec.roles, reasons, values)
        return self.bank.message(name, decision.offer, self.rule.offer_months)


def load(files: Mapping[str, Path]) -> Release:
    """Reads a release from its files. Raises ReleaseError."""
    about = _json(files, "release.json")
    if not isinstance(about, dict) or not isinstance(about.get("experiment"), str):
        raise ReleaseError("release.json: names no experiment")
    spec = _spec(files, "schema.json")
    try:
        rule = ThresholdRule.from_json(_json(files, "decision.json"))
        bank = Bank.from_json(_json(files, "messages.json"))
        risk, accept = (Scorer.load(files, f"{part}/") for part in PARTS)
        bridge = Bridge(_json(files, "accept/bridge.json"), spec)
    except (DecisionError, MessageError, ModelError) as error:
        raise ReleaseError(str(error)) from None
    if problems := bank.problems(rule.offers, rule.offer_months):
        raise ReleaseError(f"messages.json: {problems[0]}")
    _suits(risk, spec)
    versions = {part: digest(files, part) for part in PARTS}
    versions |= {name: _sha(files[f"{name}.json"])[:12] for name in ("messages", "decision")}
    has_bank_columns = set(accept.featurizer.columns) <= set(spec.columns)
    return Release(about["experiment"], spec, risk, accept, bridge, rule, bank, versions, has_bank_columns)


def with_part(release: Release, part: str, files: Mapping[str, Path]) -> Release:
    """The release with its `risk` or `accept` taken from that stage's own artifact. Raises ReleaseError."""
    here = {f"{part}/{name}": path for name, path in files.items()}
    try:
        scorer = Scorer.load(here, f"{part}/")
        if part == "risk":
            _suits(scorer, release.spec)
            changed = replace(release, risk=scorer)
        else:
            changed = replace(
                release,
                accept=scorer,
                bridge=Bridge(_json(here, f"{part}/bridge.json"), release.spec),
                has_bank_columns=set(scorer.featurizer.columns) <= set(release.spec.columns),
            )
    except (DecisionError, ModelError) as error:
        raise ReleaseError(str(error)) from None
    versions = {**release.versions, part: digest(here, part)}
    return replace(changed, versions=versions, replaced=(*release.replaced, part))


def digest(files: Mapping[str, Path], part: str) -> str:
    """The version of a part: 12 hex digits of a sha256 over the names and bytes of its files."""
    total = hashlib.sha256()
    for name in sorted(PARTS[part]):
        if f"{part}/{name}" not in files:
            raise ReleaseError(f"{part}/{name}: is missing")
        total.update(f"{name} {_sha(files[f'{part}/{name}'])}\n".encode())
    return total.hexdigest()[:12]


def _suits(risk: Scorer, spec: DatasetSpec) -> None:
    known = set(spec.columns)
    for column in risk.featurizer.columns:
        if column not in known:
            raise ReleaseError(f"risk/featurizer.json: its column {column.name!r} is not that of schema.json")


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _spec(files: Mapping[str, Path], name: str) -> DatasetSpec:
    try:
        return DatasetSpec.model_validate_json(_read(files, name))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ReleaseError(f"{name}: {where or 'as a whole'}: {first['msg']}") from None


def _json(files: Mapping[str, Path], name: str) -> Any:
    data = _read(files, name)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise ReleaseError(f"{name}: is no JSON, or damaged") from None


def _read(files: Mapping[str, Path], name: str) -> bytes:
    path = files.get(name)
    if path is None or not path.is_file():
        raise ReleaseError(f"{name}: is missing")
    return path.read_bytes()
