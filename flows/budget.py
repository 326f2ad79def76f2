"""The budget during a run: a warning once most of it is committed, and a stop where it is exceeded.

Reservations are refused before they pass the cap (engine/ledger.py). Here the ledger is looked at while stages run,
since its cap may be lowered meanwhile (`make budget`), another run may spend from it, and an attempt may turn out to
have lived longer than it had reserved. A run that has nothing at work spends nothing, so no cap stops it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from engine import ledger
from engine.errors import BudgetExceeded, RetainError
from engine.ledger import Entry, Standing
from flows.attempt import reserved_s
from flows.plan import Plan
from flows.run import Run

WARN_AT = 0.8  # of the cap, metered and reserved together
LOOK_S = 5.0  # reading a ledger of 100 attempts takes about a millisecond
LAST_S = 5.0  # how long the end of a run waits for a ledger that can't be read


def exceeded(standing: Standing, attempts: Sequence[Entry], known: frozenset[str] = frozenset()) -> str:
    """Why a run has to stop, or "". `known`: ids of attempts that were settled before the run began."""
    if standing.over:
        return f"more is metered and reserved than the cap: {standing}"
    return overrun(standing, attempts, known)


def overrun(standing: Standing, attempts: Iterable[Entry], known: frozenset[str]) -> str:
    """Which attempt outlived its reservation, or "". `known`: see exceeded()."""
    for entry in attempts:
        if entry.overrun_s and entry.attempt_id not in known:
            return f"{entry.attempt_id} lived {entry.overrun_s:.1f} s longer than it had reserved: {standing}"
    return ""


def check_affordable(plan: Plan, around_s: float = 0.0) -> None:
    """Raises BudgetExceeded, in a line, if a stage that isn't there yet would be refused though it ran alone. Only the
    dearest one is looked at: several that can be paid for one by one may still meet the cap together, while the run is
    at work. `around_s`: that of its launcher."""
    costs = plan.experiment.costs
    standing, _ = ledger.look(plan.store, costs.scope, costs.budget_usd)
    identities = plan.standing()
    needed = {
        stage.name: ledger.amount(plan.machine(stage).usd_per_hour, reserved_s(plan, stage, around_s))
        for stage in plan.stages
        if not plan.is_made(stage.name, identities[stage.name])
    }
    dearest = max(needed, key=lambda name: needed[name], default=None)
    if dearest is not None and standing.committed + needed[dearest] > standing.cap:
        raise BudgetExceeded(
            f"refused before anything started: {dearest} alone would reserve ${needed[dearest] / ledger.MICRO:.4f}. "
            f"{standing}"
        )


@contextmanager
def watched(run: Run, every_s: float = LOOK_S) -> Iterator[None]:
    """Looks at the ledger while the block runs, and once more at its end: warns once, and stops the run where the
    budget is exceeded.

    What was settled before the block is no news. So settle what an earlier run left open within it, also the run's own
    attempts when it comes back.
    """
    ended = threading.Event()
    scope = run.plan.experiment.costs.scope
    known = frozenset(e.attempt_id for e in ledger.entries(run.plan.store, scope) if e.state == "settled")

    def look_again_and_again() -> None:
        warned = False
        while True:
            with suppress(RetainError):  # the store can't be read: whoever reserves or settles says so
                warned = _look(run, known, warned)
            if ended.is_set():
                return
            ended.wait(every_s)

    watcher = threading.Thread(target=look_again_and_again, name="budget", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join(LAST_S)


def _look(run: Run, known: frozenset[str], warned: bool) -> bool:
    """Looks once; returns whether the run has been warned by now."""
    standing, attempts = ledger.look(
        run.plan.store, run.plan.experiment.costs.scope, run.plan.experiment.costs.budget_usd
    )
    if run.at_work():
        why = exceeded(standing, attempts, known)
    else:  # as it is once all stages have ended and their costs are settled
        own = [entry for entry in attempts if entry.of_run(run.launcher.owner)]
        why = overrun(standing, own, known)
    if why:
        run.stop_for_budget(why)
        return True
    if warned or standing.share < WARN_AT:
        return warned
    words = f"{standing.share:.0%} of the budget is spent or reserved: {standing}"
    run.board.notice(words)
    run.announce("warning", words)
    return True
