"""What the shadow has shown: whether the learned arm may be tried on customers, told from decision records alone.

The playbook's four figures stand first: latency, unsafe messages, and whether the lengths of messages and the reward
model's scores are still what they were in training. Then whether the arm answers what it is asked, whether it is there
to be asked, and what it would be worth. Each is passed, failed, or can't be told yet: too few records are no reason to
go on, and none to give up.

**Drift** is the population stability index, sum over bins of (p - q) ln(p / q), p the share of a bin among records and
q that in training. Below .1 nothing has moved, from .25 on it has (Siddiqi, Credit Risk Scorecards, 2006). It is told
of each language model that wrote some of the messages chosen. Templates don't drift: they are as a person wrote them.

**Value** is estimated where some of the baseline's decisions were taken at random (exploration), by self-normalised
inverse propensity scores (Swaminathan and Joachims, NIPS 2015): the mean of the NRR proxy over decisions whose action
is what an arm wants, as far as the wallet lets it, weighted by 1 / pscore. Decisions count once they are as old as an
offer can be open, whatever was done: if those were left out whose offer is open, of the contacts only the answered ones
would be there, who are like nobody else. Without exploration the baseline's actions are all that was ever seen, and
nothing can be told of others.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from retain.monitoring import Monitoring
from retain.record import Record
from retain.reference import Distribution, Messages, Reference
from retain.release import TEMPLATES
from retain.signals import Figure, Verdict

DRIFT = 0.25  # of the stability index
MIN_MESSAGES = 500  # of an index: by chance alone it is about bins / messages
MAX_MISSED = 0.01  # of the questions that the learned arm was asked
MAX_UNASKED = 0.05  # of all questions; half a minute in ten, for which two misses open the circuit
MIN_QUESTIONS = 500  # of which those are a share: a process that starts leaves some unasked
MIN_EFFECTIVE = 300.0  # decisions that an estimate of value has to be worth
MATURE = 14 * 86_400.0  # seconds, after which an offer nobody answered counts as declined
NOTHING_KNOWN = Messages.of(())  # of the messages of a bank in training
FLOOR = 1e-4  # of a share, since an empty bin would make the index infinite

# Why the arm wasn't asked: it wasn't there, too much was asked at once, or it had just failed. That says nothing of its
# answers, but how available it is.
NOT_ASKED = ("not_running", "overloaded", "circuit_open")
UNSAFE = "unsafe_message"  # that what it would have sent may not be sent: an answer, and an unsafe one

Weighted = Sequence[tuple[float, float]]  # (value, weight)


class Drawn(NamedTuple):
    """A decision whose action was drawn, made `at` (seconds since 1970). `weight` is 1 / pscore; `learned` and
    `baseline`: whether that is what they would have done."""

    at: float
    proxy: float
    weight: float
    learned: bool
    baseline: bool


@dataclass
class Tally:
    """What the figures are told from, gathered record by record: of decisions made under one `release`, and of what the
    learned arm of the release `arm` wanted, which may be another one. Both are versions."""

    release: str
    arm: str | None
    decisions: int = 0
    asked: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    chosen: int = 0
    unsafe: int = 0
    # By who wrote them, of the messages that it chose.
    characters: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    scores: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    drawn: list[Drawn] = field(default_factory=list)
    newest: float = -math.inf  # when the last decision was made

    def add(self, record: Record) -> None:
        at = datetime.fromisoformat(record.at).timestamp()
        self.newest = max(self.newest, at)
        if record.detail.release != self.release:
            return
        self.decisions += 1
        shadow = record.shadow
        if shadow is None or record.withdrawn or shadow.version != self.arm:
            return
        self.asked += 1
        if shadow.missing not in NOT_ASKED:
            self.seconds.append(shadow.replied + shadow.waited)
        if shadow.missing == UNSAFE:
            self.chosen += 1
            self.unsafe += 1
            return
        if shadow.wanted is None:
            self.missing[shadow.missing or "unknown"] += 1
            return
        # Where no language model has a message for the case, what would be sent is chosen: a template.
        if (message := shadow.chosen or shadow.said) is not None:
            self.chosen += 1
            self.unsafe += bool(shadow.breaks)
            self.characters[message.source].append(message.characters)
            if message.score is not None:
                self.scores[message.source].append(message.score)
        chance, actions, proxy = record.detail.pscore, record.detail.actions, record.nrr_proxy
        if chance is None or chance >= 1 or actions is None or proxy is None:
            return  # nothing else could have been done
        wanted = shadow.wanted.offer if shadow.wanted.offer in actions else None
        as_wanted = record.offer == wanted, record.offer == record.detail.usual
        self.drawn.append(Drawn(at, proxy, 1 / chance, *as_wanted))

    def matured(self) -> tuple[Weighted, Weighted]:
        """The NRR proxies of the decisions, old enough to be compared, that did what the learned arm wants; and of
        those that did what the baseline wants."""
        old = [decision for decision in self.drawn if self.newest - decision.at >= MATURE]
        return (
            [(decision.proxy, decision.weight) for decision in old if decision.learned],
            [(decision.proxy, decision.weight) for decision in old if decision.baseline],
        )


def figures(tally: Tally, limits: Monitoring, reference: Reference | None) -> list[Figure]:
    """The figures of a shadow, the playbook's four first. `reference`: that of the learned arm's release, if it has
    one."""
    return [
        _latency(tally, limits),
        _unsafe(tally, limits),
        *_drifts(tally, reference),
        _answers(tally, limits),
        _availability(tally),
        _value(tally, limits),
    ]


def verdict(found: Sequence[Figure]) -> Verdict:
    """Of all figures: failed if one is; passed if all are, but for the value, which may stay unknown."""
    if any(figure.verdict == "fail" for figure in found):
        return "fail"
    return "hold" if any(figure.verdict == "hold" and figure.name != "value" for figure in found) else "pass"


def stability_index(values: Sequence[float], training: Distribution) -> float:
    """How far values (n,), of which there are some, have moved from training: 0 where each bin has its share."""
    known, total = sum(training.counts), 0.0
    for here, there in zip(training.count(values), training.counts):
        p, q = max(here / len(values), FLOOR), max(there / known, FLOOR)
        total += (p - q) * math.log(p / q)
    return total


def _latency(tally: Tally, limits: Monitoring) -> Figure:
    samples, limit, wanted = len(tally.seconds), limits.latency_p95.limit_ms / 1000, limits.error_rate.min_samples
    if samples < wanted:
        return _figure("latency_p95", "hold", None, limit, samples, _few(samples, wanted, "decisions"))
    value = sorted(tally.seconds)[math.ceil(0.95 * samples) - 1]
    says = f"95 % of requests took at most {value * 1000:.0f} ms, waiting for the learned arm included"
    return _figure("latency_p95", "pass" if value < limit else "fail", value, limit, samples, says)


def _unsafe(tally: Tally, limits: Monitoring) -> Figure:
    samples, events = tally.chosen, tally.unsafe
    limit, wanted = limits.unsafe_rate.limit, limits.unsafe_rate.min_samples
    rate = events / samples if samples else None
    says = f"{events} of {samples} messages that it chose break a rule, or were approved by nobody"
    if rate is None or samples < wanted:
        return _figure("unsafe", "hold", rate, limit, samples, _few(samples, wanted, "messages"))
    if rate < limit:
        return _figure("unsafe", "pass", rate, limit, samples, says)
    if events < limits.unsafe_rate.min_events:
        return _figure("unsafe", "hold", rate, limit, samples, f"{says}: too few to tell from chance")
    return _figure("unsafe", "fail", rate, limit, samples, says)


def _drifts(tally: Tally, reference: Reference | None) -> Iterator[Figure]:
    """Of each language model's messages that were chosen: of lengths, then of scores."""
    known = {} if reference is None else reference.messages
    sources = sorted(source for source in tally.characters if source != TEMPLATES)
    for name, what in (("message_length", "lengths"), ("reward_score", "the reward model's scores")):
        for source in sources:
            training = known.get(source, {}).get("learned", NOTHING_KNOWN)
            if name == "message_length":
                expected, values = training.characters, tally.characters[source]
            else:
                expected, values = training.score, tally.scores.get(source, [])
            yield _drift(f"{name} ({source})", f"{what} of {source}'s messages", values, expected)
        if not sources:
            yield _without_models(name, tally)


def _without_models(name: str, tally: Tally) -> Figure:
    """Where no message of a language model was chosen."""
    samples = len(tally.characters.get(TEMPLATES, []))
    if samples < MIN_MESSAGES:
        return _figure(name, "hold", None, DRIFT, samples, _few(samples, MIN_MESSAGES, "messages"))
    return _figure(name, "pass", None, DRIFT, samples, "all messages chosen are templates, which don't drift")


def _drift(name: str, what: str, values: Sequence[float], training: Distribution) -> Figure:
    samples = len(values)
    if not sum(training.counts):
        return _figure(name, "hold", None, DRIFT, samples, f"{what} are not known from training")
    if samples < MIN_MESSAGES:
        return _figure(name, "hold", None, DRIFT, samples, _few(samples, MIN_MESSAGES, "messages"))
    value = stability_index(values, training)
    says = f"{what} have {'moved' if value >= DRIFT else 'not moved'} from those in training"
    return _figure(name, "pass" if value < DRIFT else "fail", value, DRIFT, samples, says)


def _answers(tally: Tally, limits: Monitoring) -> Figure:
    missed = Counter({reason: count for reason, count in tally.missing.items() if reason not in NOT_ASKED})
    samples, failures = tally.asked - _unasked(tally).total(), missed.total()
    wanted, reasons = limits.error_rate.min_samples, _counted(missed) or "nothing was missed"
    if samples < wanted:
        says = f"{_few(samples, wanted, 'questions')}; {reasons}"
        return _figure("answers_missed", "hold", None, MAX_MISSED, samples, says)
    rate = failures / samples
    return _figure("answers_missed", "pass" if rate < MAX_MISSED else "fail", rate, MAX_MISSED, samples, reasons)


def _availability(tally: Tally) -> Figure:
    unasked, samples = _unasked(tally), tally.asked
    reasons = _counted(unasked) or "it was there to be asked"
    if samples < MIN_QUESTIONS:
        says = f"{_few(samples, MIN_QUESTIONS, 'questions')}; {reasons}"
        return _figure("unavailable", "hold", None, MAX_UNASKED, samples, says)
    rate = unasked.total() / samples
    return _figure("unavailable", "pass" if rate < MAX_UNASKED else "fail", rate, MAX_UNASKED, samples, reasons)


def _unasked(tally: Tally) -> Counter[str]:
    return Counter({reason: count for reason, count in tally.missing.items() if reason in NOT_ASKED})


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def _value(tally: Tally, limits: Monitoring) -> Figure:
    if not tally.drawn:
        says = "no decision was taken at random, so nothing can be told of actions other than the baseline's"
        return _figure("value", "hold", None, 0.0, 0, says)
    learned, baseline = tally.matured()
    samples = min(len(learned), len(baseline))
    if samples < (wanted := limits.nrr_proxy_drop.min_samples):
        says = _few(samples, wanted, "decisions of 14 days and more that did what an arm wants")
        return _figure("value", "hold", None, 0.0, samples, says)
    effective = min(_effective(learned), _effective(baseline))
    if effective < MIN_EFFECTIVE:
        says = f"decisions that did what both arms want are worth {effective:.0f}, where {MIN_EFFECTIVE:.0f} are wanted"
        return _figure("value", "hold", None, 0.0, int(effective), says)
    gain = _mean(learned) - _mean(baseline)
    error = 1.96 * math.hypot(_standard_error(learned), _standard_error(baseline))
    says = f"NRR proxy of the learned arm less the baseline's, with 95 %: {gain - error:+.4f} to {gain + error:+.4f}"
    told: Verdict = "pass" if gain > error else "fail" if gain < -error else "hold"
    return _figure("value", told, gain, 0.0, int(effective), says)


def _figure(name: str, verdict: Verdict, value: float | None, limit: float, samples: int, says: str) -> Figure:
    return Figure(name=name, verdict=verdict, value=value, limit=limit, samples=samples, says=says)


def _few(samples: int, wanted: int, what: str) -> str:
    return f"{samples} {what} so far, where {wanted} are wanted"


def _effective(weighted: Weighted) -> float:
    """Kish's effective sample size."""
    total = sum(weight for _, weight in weighted)
    return total**2 / sum(weight**2 for _, weight in weighted) if weighted else 0.0


def _mean(weighted: Weighted) -> float:
    return sum(value * weight for value, weight in weighted) / sum(weight for _, weight in weighted)


def _standard_error(weighted: Weighted) -> float:
    """Of a self-normalised mean (Owen, Monte Carlo theory, 2013, 9.2)."""
    mean, total = _mean(weighted), sum(weight for _, weight in weighted)
    return math.sqrt(sum((weight * (value - mean)) ** 2 for value, weight in weighted)) / total
