"""What it costs to run stages in containers: seconds around a stage, an unchanged run, branches side by side, back to
work after a kill, work that is repeated, and checkpoints' overhead.

    python bench/orchestration.py [--only stages] [--only kills]

Builds the images that are missing, starts a platform of its own (server, worker and witness) and runs experiment_chaos
or stages of it. Prints tables and writes bench/results/orchestration.json. Without a Docker engine it is skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

OUT = ROOT / "bench" / "results" / "orchestration.json"
TABLES = ["risk", "accept"]
KILLS = {"sigterm": 30.0, "sigkill": 45.0, "docker_kill": 45.0, "worker_and_container_killed": 120.0}
AROUND_S, UNCHANGED_S, BRANCHES, OVERHEAD = 12.0, 30.0, 1.2, 0.03
PREEMPTED_EVERY_HOURS = 4.0  # what an experiment assumes until its ledger has seen preemptions
TOY_STEPS, TOY_PAUSE_S = 20, 1.0
RUN_S = 900.0
PARTS = ("stages", "unchanged", "branches", "real branches", "kills")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", choices=PARTS, help="this part alone (may be repeated)")
    parser.add_argument("--toys", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.toys:
        return toys(options.toys)
    import docker
    from docker.errors import DockerException

    try:
        docker.from_env().ping()
    except DockerException as error:
        print(f"skipped: no Docker engine answers ({error})")
        return 0
    from images.build import build
    from tests.end_to_end.containers import platform_at

    parts = [part for part in PARTS if part in (options.only or PARTS)]
    images = build(ROOT, ["tabular", "gpu"] if "real branches" in parts else ["tabular"])
    measure = {
        "stages": around_stages,
        "unchanged": unchanged,
        "branches": branches,
        "real branches": real_branches,
        "kills": kills,
    }
    with tempfile.TemporaryDirectory() as folder:
        data = Path(os.environ.get("RETAIN_DATA_DIR") or folder)
        with platform_at(Path(folder), data, images, docker.from_env()) as platform:
            complete(platform, stages=TABLES)  # what the parts below start from
            results = {part: measure[part](platform) for part in parts}
    show(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0 if all(met for *_, met in checks(results)) else 1


def complete(platform: Any, **parameters: Any) -> str:
    """A run that has completed."""
    run: str = platform.run(**parameters)
    ended = platform.wait(run, RUN_S)
    assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
    return run


def task_spans(platform: Any, run: str) -> dict[str, tuple[float, float]]:
    """stage -> start and end of the parent's task: from its first look at the stage until that is settled."""
    tasks = platform.ask("POST", "/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
    return {each["name"]: (when(each["start_time"]), when(each["end_time"])) for each in tasks if each["start_time"]}


def around_stages(platform: Any) -> dict[str, Any]:
    """A run from nothing. `around_s`: seconds a stage beyond its work, on the longest path of stages from the first
    one's start until the last one is settled. `stages`: in which part of them what is done."""
    from engine import records
    from engine.store import FolderStore

    shutil.rmtree(platform.store / "chaos")
    run = complete(platform, stages=TABLES)
    time.sleep(2)  # for the ends of the last containers
    spans, store, stages = task_spans(platform, run), FolderStore(platform.store), []
    for attempt in platform.attempts(run):
        given = attempt["parameters"]
        prefix = f"{given['experiment']}/{given['stage']}/{given['fingerprint']}"
        record = records.read(store, prefix, given["number"])
        (state,) = (each for each in platform.seen.values() if each["flow_run"] == attempt["id"])
        asked, began = when(attempt["expected_start_time"]), when(attempt["start_time"])
        up, down = when(state["StartedAt"]), when(state["FinishedAt"])
        looked, settled = spans[given["stage"]]
        assert record is not None
        stages.append(
            {
                "stage": given["stage"],
                "run_s": record.run_seconds,
                "until_asked_s": asked - looked,
                "until_container_s": up - asked,
                "until_flow_s": began - up,
                "around_run_s": record.seconds - record.run_seconds,
                "flow_s": down - began - record.seconds,
                "until_settled_s": settled - down,
                "around_s": settled - looked - record.run_seconds,
            }
        )
    work_s = {stage["stage"]: stage["run_s"] for stage in stages}
    last = max(spans.keys() & work_s.keys(), key=lambda name: spans[name][1])
    path = path_to(last)
    makespan_s = spans[last][1] - spans[path[0]][0]
    ended = platform.flow_run(run)
    return {
        "path": path,
        "makespan_s": makespan_s,
        "around_s": (makespan_s - sum(work_s[name] for name in path)) / len(path),
        "before_first_s": spans[path[0]][0] - when(ended["expected_start_time"]),
        "after_last_s": when(ended["end_time"]) - spans[last][1],
        "stages": stages,
    }


def path_to(stage: str) -> list[str]:
    """The stage, and before it what it reads from; of several that is the first one named."""
    from tasks.stages import STAGES

    inputs = STAGES[stage].inputs
    return [*(path_to(inputs[0]) if inputs else []), stage]


def unchanged(platform: Any) -> dict[str, float]:
    """A run that has nothing to do: from asking for it to its end, and how many stages it started."""
    run = complete(platform, stages=TABLES)
    ended = platform.flow_run(run)
    seconds = when(ended["end_time"]) - when(ended["expected_start_time"])
    return {"seconds": seconds, "attempts": len(platform.attempts(run))}


def branches(platform: Any) -> dict[str, float]:
    """Two toy stages that wait, side by side: how much longer both take than the longer one."""
    deployment = platform.ask("GET", "/deployments/name/stage/tabular")
    variables = deployment["job_variables"]
    mounts = [f"{platform.store}:{platform.store}", f"{ROOT / 'tests'}:/opt/retain/tests:ro"]
    changed = {"job_variables": variables | {"volumes": [*variables["volumes"], *mounts]}}
    platform.ask("PATCH", f"/deployments/{deployment['id']}", json=changed)
    command = [sys.executable, __file__, "--toys", str(platform.store)]
    done = subprocess.run(
        command, cwd=ROOT, env=platform.environment, capture_output=True, encoding="utf-8", check=True
    )
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    platform.ask("PATCH", f"/deployments/{deployment['id']}", json={"job_variables": variables})
    longer = max(seconds["risk"], seconds["accept"])
    return seconds | {"ratio": seconds["both"] / longer}


def toys(store: Path) -> int:
    """The run of `branches`, as a process with the platform's own environment."""
    from prefect import flow
    from prefect.context import FlowRunContext
    from prefect.task_runners import ThreadPoolTaskRunner

    from flows.container import containers
    from flows.run import Run
    from flows.train import carry_out_stages
    from tests.flows.toy_plan import board_of, toy_plan, toy_stage

    stages = (toy_stage("risk"), toy_stage("accept"))
    plan = toy_plan(store, stages, steps=TOY_STEPS, pause_s=TOY_PAUSE_S, heartbeat_s=2.0)
    board = board_of(plan)

    @flow(name="toys", task_runner=ThreadPoolTaskRunner(max_workers=2))  # type: ignore[arg-type]
    def both() -> None:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        carry_out_stages(Run(plan, board, launcher=containers(context.flow_run.id)))

    both()
    rows = board.rows
    spans = {name: (rows[name].began or 0.0, rows[name].ended or 0.0) for name in ("risk", "accept")}
    seconds = {name: ended - began for name, (began, ended) in spans.items()}
    both_s = max(ended for _, ended in spans.values()) - min(began for began, _ in spans.values())
    print(json.dumps(seconds | {"both": both_s}))
    return 0


def real_branches(platform: Any) -> dict[str, float]:
    """A whole run: seconds of both branches side by side, and of each as it went beside the other on this machine."""
    from tests.end_to_end.shown import DECISION, TEXTS

    shutil.rmtree(platform.store / "chaos")
    spans = task_spans(platform, complete(platform))
    begins = {branch[0]: min(spans[name][0] for name in branch) for branch in (DECISION, TEXTS)}
    ends = {branch[0]: max(spans[name][1] for name in branch) for branch in (DECISION, TEXTS)}
    seconds = {name: ends[name] - begins[name] for name in begins}
    both_s = max(ends.values()) - min(begins.values())
    return seconds | {"both": both_s, "ratio": both_s / max(seconds.values())}


def kills(platform: Any) -> dict[str, dict[str, float]]:
    """Seconds from the event until the stage's next attempt is at work; what that has to repeat, which is what was done
    since the newest checkpoint in the store, beside the longest time between two checkpoints; and what the stage waits
    for its checkpoints."""
    from engine import records
    from engine.interval import CheckpointInterval, Schedule
    from engine.store import FolderStore
    from tests.end_to_end.containers import FINAL
    from tests.end_to_end.events import Strikes

    found = {}
    for kind in KILLS:
        shutil.rmtree(platform.store / "chaos" / "decision", ignore_errors=True)
        run = platform.run(stages=["decision"])
        strikes = Strikes(platform, run, random.Random(0))
        seals: dict[str, float] = {}  # checkpoint -> when it was complete
        planned = False
        while (state := platform.flow_run(run)["state_type"]) not in FINAL:
            if look_at_checkpoints(platform.store / "chaos" / "decision", seals) and not planned:
                planned = True
                strikes.plan("decision", [kind])
            time.sleep(0.1)
        strikes.finish()
        assert (state, strikes.missed) == ("COMPLETED", [])
        attempts = sorted(
            (each for each in platform.attempts(run) if each["start_time"]), key=lambda a: a["start_time"]
        )
        (struck,) = strikes.struck
        given = attempts[-1]["parameters"]
        prefix = f"{given['experiment']}/{given['stage']}/{given['fingerprint']}"
        record = records.read(FolderStore(platform.store), prefix, given["number"])
        assert record is not None
        assert record.checkpoints is not None
        again = when(attempts[1]["start_time"])
        kept = [at for at in seals.values() if at < again]  # SIGTERM saves one more
        saves = record.checkpoints
        interval = CheckpointInterval(
            mean_hours_between_preemptions=PREEMPTED_EVERY_HOURS, every_s=None, every_steps=None
        )
        found[kind] = {
            "container_s": struck.again_s or 0.0,
            "at_work_s": again - struck.at,
            "repeated_s": max(0.0, struck.at - max(kept)),
            "between_checkpoints_s": longest_gap(seals.values(), again),
            "waited_share": saves.share,
            "save_s": saves.waited_s / saves.saved,
            "interval_s": Schedule(interval, saves=saves.saved, waited_s=saves.waited_s).interval_s,
        }
    return found


def look_at_checkpoints(stage: Path, seals: dict[str, float]) -> int:
    """Notes those that have become complete, and returns how many are known."""
    for seal in stage.glob("*/checkpoints/*/complete.json"):
        with contextlib.suppress(OSError):  # a newer one has taken its place
            seals.setdefault(seal.parent.name, seal.stat().st_mtime)
    return len(seals)


def longest_gap(seals: Iterable[float], again: float) -> float:
    """The longest time between two checkpoints of the same attempt: both before `again`, or both after it."""
    times = sorted(seals)
    return max((b - a for a, b in pairwise(times) if not a < again <= b), default=0.0)


def when(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def checks(results: Mapping[str, Any]) -> Sequence[tuple[str, float, float | None, bool]]:
    """What was measured, its limit (None: it is shown, no more) and whether that is met."""
    rows: list[tuple[str, float, float | None]] = []
    if stages := results.get("stages"):
        rows += [
            (f"a stage beyond its work, on {' -> '.join(stages['path'])}", stages["around_s"], AROUND_S),
            ("a run before its first stage", stages["before_first_s"], None),
            ("a run after its last stage", stages["after_last_s"], None),
        ]
    if unchanged := results.get("unchanged"):
        rows += [("an unchanged run", unchanged["seconds"], UNCHANGED_S)]
        rows += [("attempts of an unchanged run", unchanged["attempts"], 0)]
    if branches := results.get("branches"):
        rows += [("two waiting branches / the longer", branches["ratio"], BRANCHES)]
    if branches := results.get("real branches"):
        rows += [("decision and texts side by side / the longer", branches["ratio"], None)]
    for kind, measured in results.get("kills", {}).items():
        name = kind.replace("_", " ")
        rows += [
            (f"{name} -> at work again", measured["at_work_s"], KILLS[kind]),
            (f"{name}: work repeated, at most one interval", measured["repeated_s"], measured["between_checkpoints_s"]),
        ]
    if kills := results.get("kills"):
        shares = [measured["waited_share"] for measured in kills.values()]
        every_4_h = [measured["save_s"] / measured["interval_s"] for measured in kills.values()]
        rows += [
            ("waiting for checkpoints, saved every 2 steps as chaos does", max(shares), None),
            (f"waiting for checkpoints, a preemption in {PREEMPTED_EVERY_HOURS:g} h", max(every_4_h), OVERHEAD),
        ]
    return [(name, value, limit, limit is None or value <= limit) for name, value, limit in rows]


def show(results: Mapping[str, Any]) -> None:
    console = Console(width=140)
    if stages := results.get("stages"):
        parts = {
            "run_s": "its work",
            "until_asked_s": "plan, reserve",
            "until_container_s": "to its container",
            "until_flow_s": "to its flow",
            "around_run_s": "engine around it",
            "flow_s": "flow after it",
            "until_settled_s": "settle",
            "around_s": "all but its work",
        }
        table = Table("stage", *parts.values(), title="Seconds of a stage in a container")
        for stage in stages["stages"]:
            table.add_row(stage["stage"], *(f"{stage[part]:.1f}" for part in parts))
        console.print(table)
    table = Table("", "measured", "at most", "", title="Orchestration")
    for name, value, limit, met in checks(results):
        verdict = "" if limit is None else "met" if met else "[red]missed"
        table.add_row(name, f"{value:.3g}", "" if limit is None else f"{limit:.3g}", verdict)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
