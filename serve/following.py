"""Keeps the service in step with its rollout (standing.py): how many customers the challenger gets, and whose learned
arm is asked.

A percentage holds from the next request on; no decision under way is changed. Another challenger has to be loaded
first, meanwhile the baseline decides about everybody.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from engine.clock import elapsed
from engine.errors import RetainError
from retain.parts import Acceptance
from retain.rollout import BASELINE_ONLY, may_answer
from serve.learned import LearnedArm
from serve.looking import in_thread
from serve.service import Service
from serve.standing import Looks, Seen, Standing, standing
from serve.trial_metrics import RolloutGauges

LOOK_SECONDS = 1.0
AGAIN_SECONDS = 10.0  # after a challenger could not be loaded

log = logging.getLogger("retain.serve")


class Following:
    """Keeps a service in step with its rollout.

    `arm_of` makes the learned arm of a release, by its version, of which the rollout accepts these parts; it may take
    long, and raise RetainError.
    """

    def __init__(
        self,
        service: Service,
        looks: Looks,
        arm_of: Callable[[str, tuple[Acceptance, ...]], LearnedArm],
        force_baseline: bool = False,
        canary_percent: float | None = None,
        clock: Callable[[], float] = elapsed,
    ) -> None:
        self._service = service
        self._looks = looks
        self._arm_of = arm_of
        self._settings = force_baseline, canary_percent
        self._clock = clock
        self._seen = Seen()
        self._loaded: _Wanted | None = None  # whose arm was loaded last, since the rollout wanted it
        self._failed: _Failed | None = None
        self._changing: asyncio.Task[None] | None = None
        self._look: asyncio.Future[Seen] | None = None
        self._gauges = RolloutGauges(service.metrics.registry)

    def begin(self) -> None:
        """Looks for the first time; nobody is answered yet."""
        self._seen = self._looks.look()
        self._take()

    async def run(self) -> None:
        """Looks once a second, until it is cancelled."""
        try:
            while True:
                try:
                    await self._turn()
                except Exception as error:  # whatever it is, what was seen last may be over
                    self._give_up_on_turn(error)
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            if self._changing is not None:
                self._changing.cancel()
                with suppress(asyncio.CancelledError):
                    await self._changing

    async def _turn(self) -> None:
        self._take()
        if self._look is None:
            self._look = in_thread(self._looks.look, "look at the rollout")
        await asyncio.wait([self._look], timeout=LOOK_SECONDS)
        if self._look.done():
            look, self._look = self._look, None
            self._seen = look.result()
        self._take()
        self._begin_change()

    def _give_up_on_turn(self, error: Exception) -> None:
        """Until the next one the baseline decides."""
        log.exception("the rollout could not be followed")
        problem = f"the rollout can't be followed: {error!r}"
        standing = Standing(self._seen.rollout, BASELINE_ONLY, -math.inf, problem)
        self._service.take_standing(standing)
        with suppress(Exception):  # it may be what has failed
            self._gauges.stand(standing, 0.0, False)

    # -- what customers meet

    def _take(self) -> None:
        stands = standing(self._seen, *self._settings, self._clock())
        service = self._service
        problem = stands.problem or self._obstacle(stands)
        if problem is not None and problem != service.standing.problem:
            log.warning("%s", problem)
        if problem is not None:
            stands = replace(stands, served=stands.served._replace(arm=None, percent=0.0), problem=problem)
        service.take_standing(stands)
        self._gauges.stand(stands, service.learned_percent, self._clock() <= stands.until)

    def _obstacle(self, stands: Standing) -> str | None:
        """What keeps the challenger from customers here, though the rollout and its lease let it; also without one, if
        another release than the champion answers."""
        rollout, challenger, bound = stands.rollout, stands.served.shadow, self._service.bound
        if rollout is None:
            return None
        answers = bound.versions["release"]
        if answers not in may_answer(rollout):
            return f"the rollout's champion is {rollout.champion.release}, but here {answers} answers"
        if challenger is None:
            return None
        wanted = _Wanted(challenger.release, stands.served.accepted)
        if failed := self._failure(wanted):
            return f"the challenger {challenger.release} can't be loaded: {failed.why}"
        if bound.learned is None or not self._has(wanted):
            return f"the challenger {challenger.release} is not loaded yet"
        if rollout.percent and bound.learned.running and not bound.learned.may_decide:
            return f"the learned policy of {challenger.release} may not be shown to customers"
        if "id" not in bound.release.spec.roles:
            return f"{bound.release.spec.name} has no id that an arm could be drawn by"
        return None

    # -- whose learned arm is asked

    def _has(self, wanted: _Wanted) -> bool:
        """Whether that is whose arm the service asks. Of the settings' arm that is only known if it is of the own
        release: what CHALLENGER_PATH names is tried in the shadow alone."""
        if self._loaded is not None:
            return self._loaded == wanted
        bound, own = self._service.bound, self._service.bound.versions["release"]
        return bound.learned is not None and bound.learned.release_version == own and wanted == _Wanted(own, ())

    def _failure(self, wanted: _Wanted) -> _Failed | None:
        return self._failed if self._failed is not None and self._failed.wanted == wanted else None

    def _begin_change(self) -> None:
        """Loads the challenger that the rollout wants tried, or lets go of one that is no longer."""
        stands = standing(self._seen, *self._settings, self._clock())
        if stands.problem is not None or stands.rollout is None or self._changing is not None:
            return
        wanted = None
        if (challenger := stands.served.shadow) is not None:
            wanted = _Wanted(challenger.release, stands.served.accepted)
            failed = self._failure(wanted)
            if self._has(wanted) or (failed is not None and self._clock() < failed.again):
                return
        elif self._service.bound.learned is None:
            return
        self._changing = asyncio.create_task(self._change(wanted))

    async def _change(self, wanted: _Wanted | None) -> None:
        try:
            arm = None
            if wanted is not None:
                arm = await in_thread(partial(self._arm_of, *wanted), "load the challenger")
            await self._service.take_arm(arm)
            self._loaded, self._failed = wanted, None
        except Exception as error:  # whatever it is, nobody is decided about by what isn't there
            why = str(error) if isinstance(error, RetainError) else repr(error)
            log.warning("the learned arm that the rollout wants can't be had: %s", why)
            if wanted is not None:
                self._failed = _Failed(wanted, why, self._clock() + AGAIN_SECONDS)
        finally:
            self._changing = None
            self._take()


class _Wanted(NamedTuple):
    """A challenger, and the parts of it that a person accepted."""

    release: str
    accepted: tuple[Acceptance, ...]


class _Failed(NamedTuple):
    """A challenger that couldn't be loaded, why, and when that is tried again, by elapsed()."""

    wanted: _Wanted
    why: str
    again: float
