"""The state of a run: one row per stage, written by the run and read by the terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

State = Literal[
    "waiting", "held", "running", "complete", "reused", "preempted", "refused", "failed", "stopped", "skipped"
]
ENDED = ("complete", "reused", "refused", "failed", "stopped", "skipped")


@dataclass(frozen=True)
class Row:
    """The state of a stage. `seconds` and `usd` are sums over its attempts."""

    stage: str
    inputs: tuple[str, ...]
    state: State = "waiting"
    attempts: int = 0
    seconds: float = 0.0
    run_seconds: float = 0.0  # from run()'s first line to its last, in the attempt that completed
    usd: float = 0.0
    usd_per_hour: float = 0.0
    began: float | None = None  # time.monotonic() of the first attempt
    ended: float | None = None
    attempt_began: float | None = None
    progress: str = ""
    metric: str = ""
    message: str = ""
    warnings: tuple[str, ...] = ()  # of its artifact


@dataclass
class Board:
    """Rows in topological order, and what is to be said of the run as a whole.

    `on_change` is called with each row whose state has changed, `on_notice` with each notice.
    """

    rows: dict[str, Row] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    on_change: Callable[[Row], None] | None = None
    on_notice: Callable[[str], None] | None = None
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def update(self, stage: str, **changes: object) -> Row:
        with self._changing:
            before = self.rows[stage]
            row = self.rows[stage] = replace(before, **changes)  # type: ignore[arg-type]
        if row.state != before.state and self.on_change:
            self.on_change(row)
        return row

    def notice(self, words: str) -> None:
        self.notices.append(words)
        if self.on_notice:
            self.on_notice(words)

    def attempt_began(self, stage: str) -> None:
        now = time.monotonic()
        row = self.rows[stage]
        self.update(stage, state="running", attempts=row.attempts + 1, began=row.began or now, attempt_began=now)

    def attempt_ended(self, stage: str, seconds: float, usd: float) -> None:
        row = self.rows[stage]
        self.update(
            stage,
            seconds=row.seconds + seconds,
            usd=row.usd + usd,
            attempt_began=None,
            ended=time.monotonic(),
            progress="",
        )


def critical_path(rows: dict[str, Row]) -> float:
    """Seconds of the longest chain of stages, each depending on the one before."""
    longest: dict[str, float] = {}
    for name, row in rows.items():
        longest[name] = row.seconds + max((longest.get(upstream, 0.0) for upstream in row.inputs), default=0.0)
    return max(longest.values(), default=0.0)


def makespan(rows: dict[str, Row]) -> float:
    """Seconds from the first attempt's start to the last one's end."""
    began = [row.began for row in rows.values() if row.began is not None]
    ended = [row.ended for row in rows.values() if row.ended is not None and row.began is not None]
    return max(ended) - min(began) if began and ended else 0.0
