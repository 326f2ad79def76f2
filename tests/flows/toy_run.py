"""`python -m tests.flows.toy_run ROOT STEPS PAUSE_S`: a run of the toy diamond, to be killed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from flows.attempt import settle_lost
from flows.run import Run, carry_out
from tests.flows.toy_plan import board_of, toy_plan


def main(root: str, steps: str, pause_s: str) -> None:
    plan = toy_plan(Path(root), steps=int(steps), pause_s=float(pause_s))
    settle_lost(plan)
    run = Run(plan, board_of(plan))
    for stage in plan.stages:
        carry_out(run, stage.name, logging.getLogger("toy"), lambda percent: None)
    settle_lost(plan)
    print(" ".join(f"{row.stage}:{row.state}:{row.attempts}" for row in run.board.rows.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
