"""A release as it is read: by the stage that makes it, to see that it can be, and by the service.

All that decides about a customer is here: the table's description, two scorers, the bridge, the terms with the
baseline's rule, the learned policy if there is one, and the banks of messages. It is loaded from plain files
(name -> path); where they lie and whether their hashes hold is the caller's affair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from retain.banks import OLDER, check_rules, read_bank, read_templates
from retain.dataset import DatasetSpec, number_of, protected_columns
from retain.decision import (
    NO_HISTORY,
    Arm,
    Bridge,
    Case,
    Decision,
    DecisionError,
    History,
    Singles,
    Terms,
    check_policy,
    decide,
    liability,
    opted_out,
    seen_columns,
)
from retain.features import Featurizer, names_without_gaps, without_gaps
from retain.guard import Guard, GuardInForce
from retain.message import Bank, Entry, Message, MessageError, Review, find, greeted, said, scores_of, situation
from retain.monitoring import Monitoring
from retain.needs import price_faults
from retain.parts import REQUIRED, Acceptance, Part, Standing, Withheld, parts_of, shown
from retain.plausible import Plausibility, Ranges
from retain.policy import Policy, PolicyError
from retain.quiet import QuietHours
from retain.reference import Reference
from retain.score import ModelError, Nodes, Scorer
from retain.wallet import Wallet

Model = TypeVar("Model", bound=BaseModel)

# The files of each part, by their name in the release and in the artifact of the stage that made them. The terms that
# `decision` writes beside its policy (TERMS) are not among them, since every release needs those.
PART_FILES = {
    "risk": (*Scorer.FILES, "schema.json"),
    "accept": (*Scorer.FILES, "schema.json", "bridge.json"),
    "decision": ("policy.json",),
    "sft": ("sft.json",),
    "rlhf": ("rlhf.json",),
}
# Whose artifact a part is, where that isn't the stage of its name.
STAGE_OF = {"sft": "messages", "rlhf": "messages"}
# Banks of messages: which ones an arm speaks from, the first that has one for the customer. The templates are always
# there.
TEMPLATES = "template"
SOURCES = (TEMPLATES, *STAGE_OF)  # of messages
SPEAKS: Mapping[Arm, tuple[str, ...]] = {"baseline": ("sft", TEMPLATES), "learned": ("rlhf", "sft", TEMPLATES)}
SCORES = "scores.json"  # of an artifact of `messages`: {"situation/offer": {text: score}}
TERMS = "terms.json"
LEARNED = ("decision", "rlhf")  # the parts that none but the learned arm needs
VERSIONS = {"decision": "policy"}  # what a part is called among the versions, if by another name
# Of the budget: what one offer may cost though the customer's charge is above what is plausible.
MAX_SHARE = 0.05


class ReleaseError(ValueError):
    """A release, or a part of one, that can't be used: which file, what is wrong."""


@dataclass(eq=False)
class Assessment:
    """One customer as a release sees her: what its arms decide from (`case`) and its messages follow from.

    `values` are those of her request, validated; `features` (f,) float32 those of the risk model, `leaves`
    where its trees lead them. Reasons and full acceptance are computed when they are first asked for.
    """

    release: Release
    values: Mapping[str, object]
    features: Singles
    leaves: Nodes
    case: Case

    @cached_property
    def reasons(self) -> list[tuple[str, float]]:
        """(column, contribution) as Scorer.reasons(), without the protected columns.

        The risk follows from those too, but neither a message nor the reader of an answer gets to act on them.
        """
        protected = self.release.protected
        return [reason for reason in self.release.risk.reasons_at(self.leaves) if reason[0] not in protected]

    @cached_property
    def situation(self) -> str:
        """Which of SITUATIONS the customer is in."""
        spec = self.release.spec
        return situation(spec.roles, self.reasons, number_of(spec, "tenure", self.values))

    def risk_if_accepted(self, offer: int) -> float:
        """What the risk model says of her at the charge that she pays once she has accepted an offer, in percent."""
        if offer == 0:
            return self.case.risk
        release = self.release
        lower = {release.spec.roles["monthly_charge"]: self.case.charge * (1 - offer / 100)}
        return release.risk.score(release.risk.features({**self.values, **lower}))

    @cached_property
    def full_acceptance(self) -> float | None:
        """The whole acceptance model's score; None for a table without the bank's columns."""
        accept = self.release.accept
        return accept.score(accept.features(self.values)) if self.release.has_bank_columns else None


@dataclass(frozen=True)
class Release:
    """`versions` holds a digest of each part's content. `has_bank_columns`: a customer has all that `accept` asks.

    `parts` says where each part stands, and `accepted` which of those in the shadow a person lets customers be
    shown. `reference`: what its own messages are like for customers of the validation part; None where a part was
    replaced. `policy` is None where the learned one is left out. `banks`: the templates, and of `sft` and `rlhf` those
    that are there. `footer` stands below every message, `quiet_hours` say when none is sent; `monitoring` holds the
    limits of what is watched. `plausible` knows what the numbers of a request are like. `dropped`: the messages of
    those banks that the guard refused, each with its part and what it breaks. `replaced`: the parts that are not
    the release's own. `held_back`: those that were to be replaced by the very ones that the release itself shows to
    nobody. `damaged`: the LEARNED parts that are not loaded, and what is wrong with their files. `verdicts`: text ->
    "approved" or "rejected", of what people read; of a language model's messages the approved ones alone are sent, so
    nothing is before somebody says so.
    """

    experiment: str
    spec: DatasetSpec
    risk: Scorer
    accept: Scorer
    bridge: Bridge
    terms: Terms
    policy: Policy | None
    banks: Mapping[str, Bank]
    guard: Guard
    footer: str
    quiet_hours: QuietHours
    monitoring: Monitoring
    plausible: Plausibility
    versions: Mapping[str, str]
    has_bank_columns: bool
    parts: Mapping[str, Part]
    reference: Reference | None = None
    accepted: tuple[Acceptance, ...] = ()
    dropped: tuple[Mapping[str, Any], ...] = ()
    replaced: tuple[str, ...] = ()
    held_back: tuple[str, ...] = ()
    damaged: Mapping[str, str] = field(default_factory=dict)
    verdicts: Mapping[str, str] = field(default_factory=dict)

    def standing(self, part: str) -> Standing:
        """Where risk, accept, decision, sft or rlhf stands."""
        return self.parts[part].standing

    @cached_property
    def shown(self) -> frozenset[str]:
        """The parts whose decisions or messages a customer may be shown."""
        return shown(self.parts, self.accepted)

    def assess(self, values: Mapping[str, object], history: History = NO_HISTORY) -> Assessment:
        """Scores one customer; `values` are those of a validated request. decide() and message() go on from here."""
        x = self.risk.features(values)
        leaves = self.risk.trees.leaves(x)
        acceptance, spread = self.bridge.score(values)
        case = Case(
            features=self._seen(values, x),
            risk=self.risk.score_at(leaves),
            acceptance=acceptance,
            spread=spread,
            charge=float(values[self.spec.roles["monthly_charge"]]),  # type: ignore[arg-type]  # load() saw to it
            history=history,
            opted_out=opted_out(self.spec, values),
        )
        return Assessment(self, values, x, leaves, case)

    def decide(
        self, assessment: Assessment, wallet: Wallet, left: float, arm: Arm, *, in_shadow: bool = False
    ) -> Decision:
        """The decision of one arm for one customer; `in_shadow` promises that she isn't shown it.

        `wallet` holds for what is offered, `left` is the share of its period that is to come. Raises PolicyError when
        the learned arm can't decide, there is no policy, or it is one that is shown to nobody and this is not the
        shadow; nothing is held for then.
        """
        if arm == "baseline":
            return decide(self.terms, assessment.case, wallet, limit=self.offer_limit)
        if self.policy is None:
            raise PolicyError("the release has no learned policy")
        if not in_shadow and "decision" not in self.shown:
            raise PolicyError("the learned policy is shadow_only: no customer is shown what it decides")
        return decide(self.terms, assessment.case, wallet, self.policy, left, self.offer_limit)

    @cached_property
    def offer_limit(self) -> float:
        """What one offer may cost at most, in currency units: the largest one on the highest plausible charge, or
        MAX_SHARE of the budget if that is more. So no charge that a request states can hold much of the wallet."""
        limits = self.plausible.ranges.columns.get(self.spec.roles["monthly_charge"])
        usual = 0.0 if limits is None else liability(self.terms, limits[1], self.terms.offers.levels[-1])
        return max(usual, MAX_SHARE * self.terms.budget)

    def _seen(self, values: Mapping[str, object], x: Singles) -> Singles:
        """The features that a policy may see: picked from those of the risk, if they are among them."""
        seen = self._featurizer.row(values) if self._places is None else x[self._places]
        return seen if self.policy is None else without_gaps(seen, self._featurizer, self.policy.medians)

    @cached_property
    def _featurizer(self) -> Featurizer:
        return Featurizer.fit(self.spec, seen_columns(self.spec))

    @cached_property
    def _places(self) -> NDArray[np.intp] | None:
        known = {name: place for place, name in enumerate(self.risk.featurizer.names)}
        wanted = self._featurizer.names
        return np.array([known[name] for name in wanted]) if set(wanted) <= set(known) else None

    @cached_property
    def protected(self) -> frozenset[str]:
        """Names of the columns that no policy, reason or message follows from."""
        return frozenset(column.name for column in protected_columns(self.spec))

    def message(self, assessment: Assessment, decision: Decision) -> Message | None:
        """What is said in a contact, with the footer, from the banks of the arm that decided which customers may be
        shown; None without contact. It is greeted() when it is sent.
        """
        return self._said(assessment, decision, decision.arm)

    def shadow_message(self, bank: str, assessment: Assessment, decision: Decision) -> Message | None:
        """What the bank `sft` or `rlhf` alone has to say in a contact, whoever decided on it, wherever the bank stands
        and whatever people said of its messages: for the record, never for a customer. None without contact, without
        that bank, and where it has nothing."""
        return self._said(assessment, decision, bank) if bank in STAGE_OF and bank in self.banks else None

    def _said(self, assessment: Assessment, decision: Decision, speaker: str) -> Message | None:
        if decision.offer is None:
            return None
        key = speaker, assessment.situation, decision.offer
        if key not in self._messages:
            entry = self.entry(*key)
            self._messages[key] = None if entry is None else self.said(entry)
        return self._messages[key]

    def entry(self, speaker: str, situation: str, offer: int) -> Entry | None:
        """What an arm, or a bank of a language model alone, says in that situation with that offer, if anything."""
        return find(self._spoken[speaker], situation, offer, self.terms.offers.months, self.guard.rules)

    def of_bank(self, bank: str, situation: str, offer: int) -> tuple[Entry | None, Withheld | None]:
        """For the record: what the bank `sft` or `rlhf` says in that situation with that offer, if anything, and why no
        customer is shown it."""
        if bank not in self.banks:
            return None, "damaged" if bank in self.damaged else "left_out"
        if bank in self._approved:
            months, rules = self.terms.offers.months, self.guard.rules
            if entry := find((self._approved[bank],), situation, offer, months, rules):
                return entry, None
        if (entry := self.entry(bank, situation, offer)) is None:
            return None, "no_message"
        if bank not in self.shown:
            return entry, "shadow_only"
        return entry, "rejected" if self.verdicts.get(entry.text) == "rejected" else "unread"

    def said(self, entry: Entry) -> Message:
        """An entry as it is sent, with the footer."""
        message = said(entry, self.terms.offers.months)
        score = None if message.source == TEMPLATES else message.score  # nobody judged those
        return message._replace(text=f"{message.text}\n{self.footer}", score=score)

    def greeted(self, text: str, offer: int, values: Mapping[str, object]) -> str:
        """The text of a message with a greeting before it, if the table has a column of role `name`, these `values` of
        the customer hold a name that can be said, and the whole keeps the rules."""
        name = values.get(self.spec.roles.get("name", ""))
        if not isinstance(name, str):
            return text
        body, _, below = text.rpartition("\n")  # the rules are about what stands above the footer
        return f"{greeted(body, offer, self.terms.offers.months, name, self.guard)}\n{below}"

    @cached_property
    def _messages(self) -> dict[tuple[str, str, int], Message | None]:
        """What was said before: it depends on speaker, situation and offer alone."""
        return {}

    @cached_property
    def _spoken(self) -> Mapping[str, tuple[Bank, ...]]:
        """By arm what it may send; by bank of a language model that bank, whole."""
        banks = {TEMPLATES: self.banks[TEMPLATES], **self._approved}
        by_arm = {arm: tuple(banks[name] for name in names if name in banks) for arm, names in SPEAKS.items()}
        return by_arm | {name: (self.banks[name],) for name in self.reviews}

    @cached_property
    def _approved(self) -> Mapping[str, Bank]:
        """Of each bank of a language model that customers may be shown, what people approved."""
        return {name: self.banks[name].approved(self.verdicts) for name in self.reviews if name in self.shown}

    @property
    def reviews(self) -> Mapping[str, Review]:
        """What people said of each bank that a language model wrote."""
        return {name: bank.review(self.verdicts) for name, bank in self.banks.items() if name != TEMPLATES}


def load(files: Mapping[str, Path], damaged: Collection[str] = ()) -> Release:
    """Reads a release from its files. `damaged`: LEARNED parts whose files, which can't be used, are not among them.
    Raises ReleaseError."""
    about = _json(files, "release.json")
    if not isinstance(about, dict) or not isinstance(about.get("experiment"), str):
        raise ReleaseError("release.json: names no experiment")
    spec = _model(files, "schema.json", DatasetSpec)
    _priced(spec)
    policy = None
    try:
        terms = Terms.from_json(_json(files, "decision.json"))
        guard = Guard(_model(files, "guard.json", GuardInForce, OLDER))
        plausible = Plausibility(spec, _model(files, "ranges.json", Ranges, OLDER))
        monitoring = _model(files, "monitoring.json", Monitoring, OLDER)
        templates, below, quiet = read_templates(_json(files, "messages.json"), TEMPLATES, terms, guard)
        banks = {TEMPLATES: templates}
        for part in STAGE_OF:
            if f"{part}/{part}.json" in files:
                banks[part] = _bank(files, part, terms)
                check_rules(banks[part], f"{part}/{part}.json", terms, guard)
        risk, accept = (Scorer.load(files, f"{part}/") for part in REQUIRED)
        bridge = Bridge(_json(files, "accept/bridge.json"), spec)
        if "decision/policy.json" in files:
            policy = _policy(files, "decision/policy.json", spec, terms)
    except (DecisionError, MessageError, ModelError) as error:
        raise ReleaseError(str(error)) from None
    _suits(risk, spec)
    versions = {part: digest(files, part) for part in REQUIRED}
    versions |= {name: _sha(files[f"{name}.json"])[:12] for name in ("messages", "decision", "guard")}
    if policy is not None:
        versions["policy"] = digest(files, "decision")
    versions |= {part: digest(files, part) for part in banks if part != TEMPLATES}
    parts = _parts(about.get("parts"))
    for part, stated in parts.items():
        if part in damaged:
            continue
        there = versions.get(VERSIONS.get(part, part))
        if there != (None if stated.standing == "left_out" else stated.digest):
            raise ReleaseError(f"release.json: {part} is {stated.standing} ({stated.digest}), its files are {there}")
    return Release(
        experiment=about["experiment"],
        spec=spec,
        risk=risk,
        accept=accept,
        bridge=bridge,
        terms=terms,
        policy=policy,
        banks=banks,
        guard=guard,
        footer=below,
        quiet_hours=quiet,
        monitoring=monitoring,
        plausible=plausible,
        versions=versions,
        has_bank_columns=set(accept.featurizer.columns) <= set(spec.columns),
        parts=parts,
        reference=_model(files, "reference.json", Reference) if "reference.json" in files else None,
        dropped=tuple(entry for entry in _dropped(about.get("dropped")) if entry["part"] in banks),
    )


def with_part(release: Release, part: str, files: Mapping[str, Path]) -> Release:
    """The release with one part, or the banks' scores, from the artifact of their stage. Raises ReleaseError.

    Of `decision` the policy alone is taken: terms and threshold stay the release's, and it must have been trained for
    the same offers and the same cap. `scores` orders the messages of the banks that are there. A bank loses what the
    guard refuses.

    The part is `served`, since whoever chose it means to see it answer: the release's criteria were not asked about it.
    If it is the very one that the release has in its shadow or left out, the release stays as it is, and `held_back`
    says so: the way to show that one to customers is to accept it.
    """
    here = {f"{part}/{name}": path for name, path in files.items()}
    versions, parts = dict(release.versions), dict(release.parts)
    if part in parts:
        chosen, own = digest(here, part), parts[part]
        if own.standing != "served" and chosen == own.artifact:
            return replace(release, held_back=(*release.held_back, part))
        parts[part] = Part(standing="served", digest=chosen, artifact=chosen, missed=())
    try:
        if part == "decision":
            policy = _policy(here, "decision/policy.json", release.spec, release.terms)
            _same_terms(_json(here, f"decision/{TERMS}"), release.terms)
            changed = replace(release, policy=policy)
        elif part == "scores":
            scores = scores_of(_json(here, f"scores/{SCORES}"))
            ranked = {name: bank.ranked(scores) for name, bank in release.banks.items() if name != TEMPLATES}
            changed = replace(release, banks={**release.banks, **ranked})
        elif part in STAGE_OF:
            months, rules = release.terms.offers.months, release.guard.rules
            bank, refused = _bank(here, part, release.terms).without_refused(months, rules)
            others = tuple(entry for entry in release.dropped if entry["part"] != part)
            dropped = tuple({"part": part, **entry.as_dict(), "breaks": list(broken)} for entry, broken in refused)
            changed = replace(release, banks={**release.banks, part: bank}, dropped=(*others, *dropped))
        else:
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
    except (DecisionError, MessageError, ModelError) as error:
        raise ReleaseError(str(error)) from None
    if part == "scores":
        versions[part] = _sha(here[f"scores/{SCORES}"])[:12]
    else:
        versions[VERSIONS.get(part, part)] = parts[part].digest
    return replace(changed, versions=versions, parts=parts, reference=None, replaced=(*release.replaced, part))


def digest(files: Mapping[str, Path], part: str) -> str:
    """The version of a part: 12 hex digits of a sha256 over the names and bytes of its files."""
    total = hashlib.sha256()
    for name in sorted(PART_FILES[part]):
        if f"{part}/{name}" not in files:
            raise ReleaseError(f"{part}/{name}: is missing")
        total.update(f"{name} {_sha(files[f'{part}/{name}'])}\n".encode())
    return total.hexdigest()[:12]


def _bank(files: Mapping[str, Path], part: str, terms: Terms) -> Bank:
    return read_bank(_json(files, f"{part}/{part}.json"), part, terms)


def _policy(files: Mapping[str, Path], name: str, spec: DatasetSpec, terms: Terms) -> Policy:
    try:
        policy = Policy.from_json(_read(files, name), name)
    except PolicyError as error:
        raise ReleaseError(str(error)) from None
    featurizer = Featurizer.fit(spec, seen_columns(spec))
    check_policy(policy, terms, names_without_gaps(featurizer))
    if set(policy.medians) != set(featurizer.gaps):
        wanted = ", ".join(featurizer.gaps) or "none"
        raise ReleaseError(
            f"{name}: has medians of {', '.join(policy.medians) or 'none'}, where {wanted} may be missing"
        )
    return policy


def _same_terms(content: object, terms: Terms) -> None:
    here = {"offers": terms.offers.model_dump("json"), "cap": terms.cap.model_dump("json")}
    for key, wanted in here.items():
        learned = content.get(key) if isinstance(content, dict) else None
        if learned != wanted:
            raise ReleaseError(f"decision/{TERMS}: its {key} are {learned}, the release's {wanted}")


def _priced(spec: DatasetSpec) -> None:
    """An offer takes a share off the monthly charge, so every customer has to have one."""
    if faults := price_faults(spec):
        raise ReleaseError(f"schema.json: {faults[0]}")


def _parts(content: object) -> dict[str, Part]:
    try:
        return parts_of(content)
    except ValueError as error:
        raise ReleaseError(f"release.json: {error}{OLDER}") from None


def _dropped(content: object) -> tuple[Mapping[str, Any], ...]:
    keys = {"part", "situation", "offer", "text", "source", "score", "tokens", "breaks"}
    if not isinstance(content, list) or not all(isinstance(item, dict) and keys <= set(item) for item in content):
        raise ReleaseError(f"release.json: dropped is no list of objects with {', '.join(sorted(keys))}")
    return tuple(content)


def _suits(risk: Scorer, spec: DatasetSpec) -> None:
    known = set(spec.columns)
    for used in risk.featurizer.columns:
        if used not in known:
            raise ReleaseError(f"risk/featurizer.json: its column {used.name!r} is not that of schema.json")


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _model(files: Mapping[str, Path], name: str, model: type[Model], remedy: str = "") -> Model:
    """Raises ReleaseError, which ends in `remedy`, for a file that is missing or no such model."""
    try:
        return model.model_validate_json(_read(files, name))
    except ValidationError as error:
        first = error.errors()[0]
        path = getattr(first.get("ctx", {}).get("error"), "path", ())
        where = ".".join(str(part) for part in (*first["loc"], *path))
        problem = first["msg"].removeprefix("Value error, ")
        raise ReleaseError(f"{name}: {where or 'as a whole'}: {problem}{remedy}") from None
    except ReleaseError as error:
        raise ReleaseError(f"{error}{remedy}") from None


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
