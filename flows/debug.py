"""`make debug STAGE=risk`: a stage on the inputs that the store has, in the foreground of this terminal.

The request is written to <store>/debug/<experiment>-<stage>/request.json, so that a debugger or an editor can run it
as well; this process then becomes the one that runs the stage, and `breakpoint()` in its code stops here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from engine.environment import of_stage, taken
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.stage import StageRequest
from flows.plan import Plan, make_plan, put_sources

FOR_A_DEBUGGER = ("TERM", "COLUMNS", "LINES", "PYTHONBREAKPOINT")  # taken from the caller beside what a stage takes


def debug(experiment: str, stage: str) -> int:
    """Writes the request and becomes `python -m engine REQUEST --debug`; does not return."""
    plan = make_plan(experiment, [stage])
    put_sources(plan)
    request = debug_request(plan, stage)
    work = Path(request.work)
    work.mkdir(parents=True, exist_ok=True)
    path = work / "request.json"
    path.write_text(request.model_dump_json(indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "engine", str(path), "--debug"]
    print(f"this is      {' '.join(command)}")
    print(f"step by step {sys.executable} -m pdb {' '.join(command[1:])}", flush=True)
    os.chdir(ROOT)
    os.execve(sys.executable, command, of_stage(os.environ) | taken(os.environ, FOR_A_DEBUGGER))


def debug_request(plan: Plan, name: str) -> StageRequest:
    """The request of an attempt that reads what its input stages completed last, whatever made it."""
    stage = next(stage for stage in plan.stages if stage.name == name)
    current = plan.artifacts.current()
    inputs: dict[str, str] = {}
    digests: dict[str, str] = {}
    for upstream in stage.inputs:
        manifest = plan.artifacts.manifest(upstream, current[upstream]) if upstream in current else None
        if manifest is None:
            raise RetainError(
                f"{name} reads {upstream}, which has not completed in {plan.store.url}. "
                f"Run make run EXPERIMENT={plan.named} first"
            )
        inputs[upstream], digests[upstream] = current[upstream], manifest.digest
    work = plan.store.here / "debug" / f"{plan.experiment.tag}-{name}"
    return plan.request(stage, plan.identity(stage, digests), inputs, 1, work)
