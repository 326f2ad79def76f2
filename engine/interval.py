"""When a checkpoint is due: seldom enough to cost little, often enough that a preemption repeats little.

The interval of least expected loss is sqrt(2 x seconds of a save x mean seconds between preemptions): J. W. Young, "A
first order approximation to the optimum checkpoint interval", 1974; J. T. Daly, 2006, for the next orders, which matter
only where preemptions are about as frequent as saves. How long a save takes is measured by the attempt itself. When
checkpoints are saved is no part of what a stage makes: resumed or not, it ends with the same bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

FIRST_S = 5.0  # until the first save, by which the others are measured
SHORTEST_S, LONGEST_S = 2.0, 1800.0
NEVER_HOURS = 876_600.0  # a century: a machine that nobody takes away


class CheckpointInterval(BaseModel):
    """How often stages save: by the rate of preemptions, unless `every_s` or `every_steps` says so.

    Of both, whichever comes first. A step is the stage's own: of a training, or one part of several. With `every_steps`
    each save gets into the store before the next one, so that tests know what a kill loses.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    mean_hours_between_preemptions: Annotated[float, Field(gt=0, le=NEVER_HOURS)]
    every_s: Annotated[float, Field(gt=0)] | None
    every_steps: Annotated[int, Field(ge=1)] | None


@dataclass
class Schedule:
    """Tells a stage when to save. `clock` gives elapsed seconds; `busy` whether the last save is still being copied."""

    interval: CheckpointInterval
    clock: Callable[[], float] = time.monotonic
    busy: Callable[[], bool] = lambda: False
    saves: int = 0
    waited_s: float = 0.0  # that the stage has waited for its saves
    _steps: int = 0  # since the last save
    _last: float = field(init=False)  # when the stage went on after the last save
    _due_at: float | None = None  # when it was told to save: what it collects for that is part of the save

    def __post_init__(self) -> None:
        self._last = self.clock()

    @property
    def interval_s(self) -> float:
        """Seconds from one save to the next, if time alone decides."""
        if self.interval.every_s is not None:
            return self.interval.every_s
        if not self.saves:
            return FIRST_S
        between_preemptions_s = 3600 * self.interval.mean_hours_between_preemptions
        optimum_s = math.sqrt(2 * self.waited_s / self.saves * between_preemptions_s)
        return min(max(optimum_s, SHORTEST_S), LONGEST_S)

    def due(self) -> bool:
        """Whether to save now; to be asked once after every step."""
        self._steps += 1
        self._due_at = self.clock() if self._is_due() else None
        return self._due_at is not None

    def saved(self, began: float) -> None:
        """The stage goes on after a save that it began at `began`, by the same clock."""
        self._last = self.clock()
        self.waited_s += self._last - (began if self._due_at is None else self._due_at)
        self.saves += 1
        self._steps, self._due_at = 0, None

    def _is_due(self) -> bool:
        fixed = self.interval
        if fixed.every_steps is not None and self._steps >= fixed.every_steps:
            return True
        if fixed.every_steps is not None and fixed.every_s is None:
            return False
        return self.clock() - self._last >= self.interval_s and not self.busy()
