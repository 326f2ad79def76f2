"""What /readyz says: what answers, what it has left to spend, and whatever the person who runs it should know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.clock import elapsed
from retain.plausible import when_outside
from retain.release import TEMPLATES
from retain.rollout import describe
from serve.service import Service

REFUSALS = 20  # offers refused one after the other from which on the wallet counts as used up


def mode(service: Service) -> str:
    percent = service.learned_percent
    return "baseline" if percent == 0 else "learned" if percent == 100 else "canary"


def arms(service: Service) -> str:
    """Who decides, in words."""
    percent, rollout = service.learned_percent, service.standing.rollout
    now = f"the learned policy decides about {percent:g} % of customers" if percent else "the baseline decides"
    return now if rollout is None else f"{now} (rollout: {describe(rollout)})"


def banks(service: Service) -> str:
    """Who speaks, in words."""
    release = service.release
    approved = [f"{name} {review.approved} of {review.listed} approved" for name, review in release.reviews.items()]
    return "messages: " + ", ".join([f"{len(release.banks[TEMPLATES].entries)} of {TEMPLATES}", *approved])


def ready(service: Service) -> dict[str, Any]:
    """What /readyz says."""
    release, learned = service.release, service.bound.learned
    return {
        "status": "ready",
        "mode": mode(service),
        "learned_percent": service.learned_percent,
        "hold_out_percent": service.bound.router.hold_out,
        "exploration": service.bound.router.exploration,
        "experiment": release.experiment,
        "dataset": release.spec.name,
        "release": service.bound.versions["release"],
        "parts": dict(release.versions),
        "messages": {TEMPLATES: len(release.banks[TEMPLATES].entries)}
        | {name: review._asdict() for name, review in release.reviews.items()},
        "standings": {name: part.model_dump(mode="json") for name, part in release.parts.items()},
        "rollout": _rollout(service),
        "learned_arm": None if learned is None else learned.state(),
        "wallet": _wallet(service),
        "warnings": [*warnings(service), *([] if learned is None else learned.warnings())],
    }


def warnings(service: Service) -> list[str]:
    """What the person who runs the service should know, a line each; beside it, once it runs, stands what its learned
    arm says."""
    unrouted = [] if service.standing.rules else [*service.unrouted, *_without_a_way_back(service)]
    return [
        *service.warnings,
        *unrouted,
        *_not_followed(service),
        *_unread(service),
        *_not_like_training(service),
        *_money(service),
    ]


def _without_a_way_back(service: Service) -> list[str]:
    if not service.learned_percent:
        return []
    return ["the learned policy decides without a rollout: no alert takes it back by itself (docs/SERVICE.md, Rollout)"]


def _rollout(service: Service) -> Mapping[str, Any] | None:
    """None where there is none: the settings rule."""
    standing = service.standing
    rollout = standing.rollout
    if rollout is None:
        return None
    return {
        "phase": rollout.phase,
        "generation": rollout.generation,
        "champion": rollout.champion.release,
        "challenger": None if rollout.challenger is None else rollout.challenger.release,
        "percent": rollout.percent,
        "served_percent": service.learned_percent,
        "latched": rollout.latched,
        "accepted": [acceptance.model_dump(mode="json") for acceptance in rollout.accepted],
        "accepted_holds": list(rollout.accepted_holds),
        "problem": standing.problem,
    }


def _not_followed(service: Service) -> list[str]:
    """Why customers don't meet the challenger, though the rollout says so; and what a person let pass."""
    standing, rollout = service.standing, service.standing.rollout
    found = [f"{standing.problem}: the baseline decides about everybody"] if standing.problem else []
    if rollout is None:
        return found
    if rollout.percent and not standing.problem and elapsed() > standing.until:
        found.append("the lease of the rollout was not seen to be renewed: until it is, the baseline decides")
    return found + [
        f"{each.part} missed {', '.join(each.criteria)}; {each.by} accepted that: {each.reason}"
        for each in rollout.accepted
    ]


def _wallet(service: Service) -> Mapping[str, Any] | None:
    """None while the database doesn't answer."""
    terms, standing = service.release.terms, service.writer.state.standing
    if standing is None:
        return None
    return {
        "mode": standing.mode,
        "currency": terms.offers.currency,
        "budget": standing.budget,
        "committed": standing.committed,
        "held": standing.held,
        "free": standing.free,
        "open_offers": standing.open,
        "months": terms.months,
        "period_left": standing.period_left,
    }


def _unread(service: Service) -> list[str]:
    """Which messages aren't sent since nobody read them."""
    approvals = service.approvals
    found = [f"{approvals.problem}: no message counts as read"] if approvals.problem else []
    found += [f"{record}: is no record of a text: it counts as unread" for record in approvals.damaged]
    found += [f"{unreadable}; its text counts as unread" for unreadable in approvals.unreadable]
    for name, review in service.release.reviews.items():
        if review.unread and name in service.release.shown:
            waiting = f"{review.unread} of {review.listed} messages of {name} wait for a person to read them"
            found.append(f"{waiting} (make messages): others, or templates, are sent")
    return found


def _money(service: Service) -> list[str]:
    """What keeps everybody from being contacted."""
    standing, problem = service.writer.state.standing, service.writer.state.problem
    if standing is None:
        return [f"nobody is contacted, and nothing is put on record: {problem}"]
    if standing.free < service.release.terms.offers.contact_cost:
        return ["the wallet has no room for another offer: nobody is contacted until offers are answered or expire"]
    if service.refusals >= REFUSALS:  # cheap offers may still fit where no arm wants to make one
        return [f"the wallet has no room for the last {service.refusals} offers that were wanted"]
    return []


def _not_like_training(service: Service) -> list[str]:
    """What requests stated that nobody in the training part is like."""
    release = service.release
    limits, total = release.plausible.ranges.columns, release.spec.roles.get("total_charge")
    found = []
    for name, count in sorted(service.implausible.items()):
        low, high = (f"{limit:,.0f}" if abs(limit) >= 1000 else f"{limit:.4g}" for limit in limits[name])
        outcome = "refused" if when_outside(release.spec, name) == "refuse" else "decided about all the same"
        requests = "1 request was" if count == 1 else f"{count} requests were"
        fits = " and to fit tenure x charge" if name == total else ""
        found.append(
            f"{requests} {outcome} whose {name} is not plausible: the training part makes it "
            f"{low} to {high}{fits}. Is it in another unit?"
        )
    if service.limited:
        offers = "1 offer was" if service.limited == 1 else f"{service.limited} offers were"
        limit, currency = release.offer_limit, release.terms.offers.currency
        found.append(f"{offers} not made, since one offer may cost at most {limit:,.0f} {currency}")
    return found
