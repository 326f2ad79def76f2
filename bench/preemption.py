"""What preemptions cost a run, and that none of them leads past the cap: on a simulated clock.

    python bench/preemption.py [--experiments 1000]

The ledger, the rules of retries, the budget's stop and the checkpoint interval are the real ones; attempts and machines
are simulated, and hours take milliseconds. Each experiment draws how often machines are taken, a cap, and perhaps a
moment at which that is lowered. Machines are taken with a notice, killed, lost out of sight, or paused for so long that
another attempt has begun when they come back. Prints makespan and cost by the rate of preemptions, and the checkpoint
interval that follows the ledger beside the best fixed one; writes bench/results/preemption.json.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import signal
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine import ledger
from engine.errors import BudgetExceeded
from engine.interval import CheckpointInterval, Schedule
from engine.ledger import mean_hours_between_preemptions
from engine.records import Status
from engine.stage import COMPLETE, FAILED, OVERDUE, PREEMPTED
from engine.store import ABSENT, Conflict
from flows import retries
from flows.attempt import CLOCKS_DIFFER_S, ENDING_S
from flows.budget import LOOK_S, exceeded

OUT = Path(__file__).resolve().parent.parent / "bench" / "results" / "preemption.json"
SCOPE = "simulated"

STEP_S = 10.0  # of a stage, after which it may save or stop
HEARTBEAT_S = 30.0
MISSED_S = 3 * HEARTBEAT_S  # without a sign of life an attempt counts as lost
NOTICE_S = 0.5  # until a run sees that an attempt has ended
OVERHEAD_S = 60.0  # boot and image of a machine
PRIOR_HOURS = 4.0  # between preemptions, until the ledger has seen some
KILLED = -signal.SIGKILL

# How a machine ends, and how often: a spot machine mostly gives notice.
ENDS = {"notice": 0.6, "killed": 0.25, "lost": 0.08, "paused": 0.07}
# What stops a run: one that is frozen before our eyes until it has outlived its limit, one that comes back after it,
# and a bug.
HOSTILE = ENDS | {"frozen": 0.01, "zombie": 0.01, "failed": 0.01}


@dataclass(frozen=True)
class Work:
    """A stage: seconds of its work, of a save, of loading until it goes on, and of its limit; dollars an hour."""

    name: str
    inputs: tuple[str, ...]
    work_s: float
    save_s: float
    usd_per_hour: float
    load_s: float = 20.0

    @property
    def limit_s(self) -> float:
        return 3 * self.work_s + 600


# As exp_001_mvp's, with the hours that bench/rlhf.py expects of an L4 in all: two branches, one of them long.
DAG = (
    Work("risk", (), 300, 1.0, 0.059),
    Work("accept", (), 420, 1.0, 0.059),
    Work("decision", ("risk", "accept"), 1500, 1.0, 0.059),
    Work("sft", (), 3600, 6.0, 0.28),
    Work("rm", ("sft",), 1800, 6.0, 0.28),
    Work("judge", ("sft",), 1800, 6.0, 0.28),
    Work("ppo_text", ("rm",), 4500, 9.0, 0.28),
    Work("release", ("decision", "judge", "ppo_text"), 60, 1.0, 0.059),
)


@dataclass(frozen=True)
class World:
    """What an experiment meets. `lowered`: the second at which its cap is lowered, and to how many dollars."""

    seed: int
    per_hour: float  # preemptions
    cap_usd: float
    lowered: tuple[float, float] | None = None
    most: int = 1000  # preemptions of a stage
    ends: Mapping[str, float] = field(default_factory=lambda: ENDS)


@dataclass(frozen=True)
class Outcome:
    """How an experiment ended. `used_usd`: what its machines cost, seen or not."""

    state: str
    makespan_s: float
    metered_usd: float
    used_usd: float
    attempts: int
    preemptions: int
    writes: int


def draw(seed: int) -> World:
    """An experiment of 0 to 20 preemptions an hour with a cap between a fraction and many times of what it needs."""
    rng = random.Random(seed)
    per_hour = rng.uniform(0.0, 20.0) if rng.random() > 0.1 else rng.choice((0.0, 0.1, 1.0))
    cap_usd = math.exp(rng.uniform(math.log(0.8), math.log(20.0)))
    lowered = None
    if rng.random() < 0.3:
        lowered = (rng.uniform(0.0, 12_000.0), cap_usd * rng.choice((0.0, 0.2, 0.5, 0.9, 2.0)))
    ends = HOSTILE if rng.random() < 0.25 else ENDS
    return World(seed, per_hour, cap_usd, lowered, most=rng.choice((20, 1000)), ends=ends)


def interval(hours: float, every_s: float | None = None) -> CheckpointInterval:
    """By so many hours between preemptions, or fixed."""
    return CheckpointInterval(mean_hours_between_preemptions=hours, every_s=every_s, every_steps=None)


class CapPassed(AssertionError):
    """More was reserved than the cap, or a settlement made it more."""


class CheckedStore:
    """A store in memory that looks at every write of the ledger: nothing changes between two of them."""

    url = "memory:"

    def __init__(self, cap_usd: float) -> None:
        self.cap = round(cap_usd * ledger.MICRO)
        self.writes = 0
        self._kept: dict[str, tuple[bytes, str]] = {}
        self._committed, self._attempts = 0, 0

    def read(self, key: str) -> tuple[bytes, str] | None:
        return self._kept.get(key)

    def write(self, key: str, data: bytes, expect: str | None = None) -> str:
        if expect is not None and expect != (self._kept[key][1] if key in self._kept else ABSENT):
            raise Conflict(key)
        self.writes += 1
        self._check(json.loads(data))
        self._kept[key] = (data, str(self.writes))
        return str(self.writes)

    def _check(self, document: dict[str, Any]) -> None:
        attempts = document["entries"].values()
        own = document["cap_micro_usd"]
        cap = self.cap if own is None else min(self.cap, own)
        amounts = {"open": "reserved_micro_usd", "settled": "metered_micro_usd"}
        committed = sum(each[amounts[each["state"]]] for each in attempts)
        most = cap if len(attempts) > self._attempts else self._committed
        if committed > most:
            raise CapPassed(f"{committed} micro-dollars are metered and reserved; {most} may be")
        self._committed, self._attempts = committed, len(attempts)


Process = Generator[float, None, None]  # yields the seconds to wait


@dataclass
class Ending:
    code: int
    status: Status


@dataclass
class Simulation:
    """One experiment. `kept`: stage -> seconds of its work that its last checkpoint has."""

    world: World
    dag: Sequence[Work] = DAG
    interval: CheckpointInterval | None = None  # of checkpoints; None: by what the ledger saw
    now: float = 0.0
    kept: dict[str, float] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    over_budget: str = ""
    used_usd: float = 0.0
    ended_at: float = 0.0  # the last stage that completed or gave up

    def __post_init__(self) -> None:
        self.rng = random.Random(self.world.seed)
        self.store: Any = CheckedStore(self.world.cap_usd)
        self._due: list[tuple[float, int, Process]] = []
        self._count = itertools.count()
        self._looking = False

    def run(self) -> Outcome:
        for stage in self.dag:
            if not stage.inputs:
                self._start(self._carry_out(stage))
        if self.world.lowered is not None:
            self._start(self._lower(*self.world.lowered))
        while self._due:
            self.now, _, process = heapq.heappop(self._due)
            wait = next(process, None)
            if wait is not None:
                heapq.heappush(self._due, (self.now + wait, next(self._count), process))
        attempts = ledger.entries(self.store, SCOPE)
        assert all(entry.state == "settled" for entry in attempts)
        return Outcome(
            state=self._state(),
            makespan_s=self.ended_at,
            metered_usd=sum(entry.metered_usd for entry in attempts),
            used_usd=self.used_usd,
            attempts=len(attempts),
            preemptions=sum(entry.preempted for entry in attempts),
            writes=self.store.writes,
        )

    def _state(self) -> str:
        if len(self.states) == len(self.dag) and set(self.states.values()) == {"complete"}:
            return "complete"
        return "over budget" if self.over_budget else "failed" if "failed" in self.states.values() else "gave up"

    def _start(self, process: Process) -> None:
        heapq.heappush(self._due, (self.now, next(self._count), process))

    # -- money ----------------------------------------------------------------------------------------------------

    def _lower(self, after_s: float, usd: float) -> Process:
        yield after_s
        ledger.set_cap(self.store, SCOPE, usd)
        self._look_soon()

    def _look_soon(self) -> None:
        """What a run does every LOOK_S; a ledger that hasn't changed says nothing new."""
        if not self._looking:
            self._looking = True
            self._start(self._look())

    def _look(self) -> Process:
        yield LOOK_S
        self._looking = False
        standing, attempts = ledger.look(self.store, SCOPE, self.world.cap_usd)
        self.over_budget = self.over_budget or exceeded(standing, attempts)

    def _settle(self, attempt_id: str, seconds: float, *, estimated: bool = False, preempted: bool = False) -> None:
        ledger.settle(self.store, SCOPE, attempt_id, seconds, estimated=estimated, preempted=preempted)
        self._look_soon()

    def _settle_later(self, after_s: float, attempt_id: str, seconds: float, estimated: bool) -> Process:
        yield after_s
        self._settle(attempt_id, seconds, estimated=estimated, preempted=True)

    # -- stages ---------------------------------------------------------------------------------------------------

    def _carry_out(self, stage: Work) -> Process:
        """As flows/run.py does."""
        preemptions = 0
        for number in itertools.count(1):
            if self.over_budget:
                return
            attempt_id = f"simulated/{stage.name}/f/{number}"
            try:
                ledger.reserve(
                    self.store,
                    SCOPE,
                    cap_usd=self.world.cap_usd,
                    attempt_id=attempt_id,
                    experiment="simulated",
                    stage=stage.name,
                    usd_per_hour=stage.usd_per_hour,
                    limit_s=stage.limit_s + ENDING_S,
                    overhead_s=OVERHEAD_S,
                )
            except BudgetExceeded as error:
                self.over_budget = self.over_budget or str(error)
                return
            self._look_soon()
            ending = yield from self._attempt(stage, attempt_id)
            then = retries.after(ending.code, ending.status, preemptions, self.world.most)
            if then.step == "retry":
                preemptions += 1
                yield then.wait_s
            elif then.step == "look":
                self.ended_at = self.now
                self.states[stage.name] = "complete"
                self._start_what_waited()
                return
            else:
                self.ended_at = self.now
                self.states[stage.name] = "failed" if then.step == "fail" else "gave up"
                return

    def _start_what_waited(self) -> None:
        for stage in self.dag:
            ready = all(self.states.get(name) == "complete" for name in stage.inputs)
            if stage.inputs and ready and stage.name not in self.states:
                self.states[stage.name] = "begun"
                self._start(self._carry_out(stage))

    def _interval(self) -> CheckpointInterval:
        return self.interval or interval(mean_hours_between_preemptions(ledger.entries(self.store, SCOPE), PRIOR_HOURS))

    def _attempt(self, stage: Work, attempt_id: str) -> Generator[float, None, Ending]:
        """A machine that works until its stage is complete, the run stops it, or it is taken."""
        rate = self.world.per_hour / 3600
        taken_at = self.now + (self.rng.expovariate(rate) if rate else math.inf)
        schedule = Schedule(self._interval(), clock=lambda: self.now)
        born, work = self.now, self.kept.get(stage.name, 0.0)
        yield min(stage.load_s, taken_at - self.now)
        while self.now < taken_at and work < stage.work_s and not self.over_budget:
            step_s = min(STEP_S, stage.work_s - work)
            yield min(step_s, taken_at - self.now)
            if self.now >= taken_at:
                break
            work += step_s
            if work < stage.work_s and schedule.due():
                began = self.now
                yield min(stage.save_s, taken_at - self.now)
                if self.now < taken_at:
                    schedule.saved(began)
                    self.kept[stage.name] = work
        if self.now >= taken_at:
            return (yield from self._taken(stage, attempt_id, born, work))
        if work < stage.work_s:
            yield stage.save_s
            self.kept[stage.name] = work
        self._used(stage, self.now - born)
        yield NOTICE_S
        self._settle(attempt_id, self.now - NOTICE_S - born)
        return Ending(COMPLETE, "complete") if work >= stage.work_s else Ending(PREEMPTED, "preempted")

    def _taken(self, stage: Work, attempt_id: str, born: float, work: float) -> Generator[float, None, Ending]:
        end = self.rng.choices(list(self.world.ends), list(self.world.ends.values()))[0]
        if end == "notice":
            yield stage.save_s
            self.kept[stage.name] = max(work, self.kept.get(stage.name, 0.0))
        lived_s = self.now - born
        if end in ("notice", "killed", "failed"):
            self._used(stage, lived_s)
            yield NOTICE_S
            self._settle(attempt_id, lived_s, preempted=end != "failed")
            code, status = {
                "notice": (PREEMPTED, "preempted"),
                "killed": (KILLED, "killed"),
                "failed": (FAILED, "failed"),
            }[end]
            return Ending(code, status)  # type: ignore[arg-type]
        reserved_until = born + stage.limit_s + ENDING_S + OVERHEAD_S + CLOCKS_DIFFER_S
        if end == "frozen":  # the run sees that it lives, and ends it when it has outlived its limit
            yield max(0.0, born + stage.limit_s + ENDING_S + 1.0 - self.now)
            self._used(stage, self.now - born)
            self._settle(attempt_id, self.now - born)
            return Ending(OVERDUE, "overdue")
        if end in ("paused", "zombie"):  # it comes back, finds itself fenced, and writes so
            pause_s = self.rng.uniform(120.0, 600.0) if end == "paused" else stage.limit_s
            known_at = self.now + pause_s
            self._used(stage, lived_s + pause_s)
            lived_s += pause_s
        else:  # somebody may have seen its machine end
            known_at = self.now + self.rng.choice((30.0, 600.0, math.inf))
            self._used(stage, lived_s)
        last_sign_s = self.now - born
        yield MISSED_S
        if known_at < reserved_until:
            after_s = max(0.0, known_at - self.now)
            self._start(self._settle_later(after_s, attempt_id, lived_s, estimated=False))
        else:
            after_s = reserved_until - self.now
            self._start(self._settle_later(after_s, attempt_id, last_sign_s + HEARTBEAT_S, estimated=True))
        return Ending(KILLED, "running")

    def _used(self, stage: Work, seconds: float) -> None:
        self.used_usd += stage.usd_per_hour * (seconds + OVERHEAD_S) / 3600


# -- distributions ------------------------------------------------------------------------------------------------

BINS = ((0.0, 1.0), (1.0, 5.0), (5.0, 10.0), (10.0, 20.0))
# Rates and seconds at which fixed intervals are compared with the one that follows the ledger.
RATES = (0.25, 1.0, 4.0, 10.0, 20.0)
FIXED_S = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1280.0)
TRAINING = Work("training", (), 7200.0, 6.0, 0.28)


def experiments(count: int, dag: Sequence[Work] = DAG) -> list[tuple[World, Outcome]]:
    """Runs that many, each from its own seed. Raises CapPassed."""
    return [(world, Simulation(world, dag).run()) for world in map(draw, range(count))]


def undisturbed() -> Outcome:
    return Simulation(World(seed=0, per_hour=0.0, cap_usd=100.0)).run()


def distributions(ran: Sequence[tuple[World, Outcome]]) -> list[dict[str, Any]]:
    """For each bin of preemptions an hour: how experiments ended, and of those that completed makespan and cost as
    multiples of an undisturbed run's (10 %, median, 90 %)."""
    ideal = undisturbed()
    rows = []
    for low, high in BINS:
        those = [
            outcome for world, outcome in ran if low <= world.per_hour < high or world.per_hour == high == BINS[-1][1]
        ]
        done = [outcome for outcome in those if outcome.state == "complete"]
        rows.append(
            {
                "per_hour": [low, high],
                "experiments": len(those),
                "ended": {state: sum(each.state == state for each in those) for state in STATES},
                "preemptions": round(sum(each.preemptions for each in those) / max(1, len(those)), 1),
                "makespan": _quantiles([each.makespan_s / ideal.makespan_s for each in done]),
                "cost": _quantiles([each.metered_usd / ideal.metered_usd for each in done]),
                "not_metered": round(
                    1 - sum(each.metered_usd for each in those) / max(1e-9, sum(each.used_usd for each in those)), 4
                ),
            }
        )
    return rows


STATES = ("complete", "over budget", "gave up", "failed")


def _quantiles(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [round(ordered[int(share * (len(ordered) - 1))], 3) for share in (0.1, 0.5, 0.9)] if ordered else []


def intervals(trials: int, rates: Sequence[float] = RATES, fixed_s: Sequence[float] = FIXED_S) -> list[dict[str, Any]]:
    """For each rate of kills without notice, what a training of two hours takes beyond its work, in percent: with the
    interval that follows a ledger that is empty at first, the one of the true rate, and the best fixed one."""

    def beyond(per_hour: float, chosen: CheckpointInterval | None) -> float:
        worlds = [World(seed, per_hour, cap_usd=1e4, ends={"killed": 1.0}) for seed in range(trials)]
        seconds = [Simulation(world, (TRAINING,), chosen).run().makespan_s for world in worlds]
        return round(100 * (sum(seconds) / trials / TRAINING.work_s - 1), 2)

    rows = []
    for rate in rates:
        # A longer one hardly ever comes to its first save.
        fixed = {every_s: beyond(rate, interval(1.0, every_s)) for every_s in fixed_s if every_s <= 3600 / rate}
        best_every_s = min(fixed, key=fixed.__getitem__)
        rows.append(
            {
                "per_hour": rate,
                "followed": beyond(rate, None),
                "known": beyond(rate, interval(1 / rate)),
                "best": fixed[best_every_s],
                "best_every_s": best_every_s,
            }
        )
    return rows


def show(results: Mapping[str, Any]) -> None:
    console = Console(width=170)
    table = Table("preemptions an hour", "experiments", *STATES, "preempted", "makespan", "cost", "not metered")
    table.title = f"{results['experiments']} experiments: the cap was never passed in {results['writes']:,} changes"
    table.caption = "makespan and cost: multiples of an undisturbed run, 10 % / median / 90 % of those that completed"
    for row in results["distributions"]:
        spread = [" / ".join(f"{value:.2f}" for value in row[name]) for name in ("makespan", "cost")]
        counts = [str(row["ended"][state]) for state in STATES]
        low, high = row["per_hour"]
        table.add_row(
            f"{low:g} to {high:g}",
            str(row["experiments"]),
            *counts,
            str(row["preemptions"]),
            *spread,
            f"{row['not_metered']:.2%}",
        )
    console.print(table)
    table = Table("kills an hour", "by what the ledger saw", "the rate being known", "best fixed", "that is every")
    table.title = "What a training of two hours takes beyond its work"
    for row in results["intervals"]:
        table.add_row(
            f"{row['per_hour']:g}",
            *(f"{row[name]:.1f} %" for name in ("followed", "known", "best")),
            f"{row['best_every_s']:g} s",
        )
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=40, help="trainings at each rate and interval")
    options = parser.parse_args()
    ran = experiments(options.experiments)
    results = {
        "experiments": len(ran),
        "writes": sum(outcome.writes for _, outcome in ran),
        "distributions": distributions(ran),
        "intervals": intervals(options.trials),
    }
    show(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
