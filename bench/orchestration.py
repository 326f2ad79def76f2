"""What it costs to run stages in containers: seconds around a stage, back to work after a kill, checkpoints' overhead.

    python bench/orchestration.py

Builds the images that are missing, starts a platform of its own (server, worker and witness) and runs stages of
experiment_chaos in it. Wants a Docker engine. Prints tables and writes bench/results/orchestration.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
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
AROUND_S, UNCHANGED_S, BRANCHES = 12.0, 30.0, 1.2
TOY_STEPS, TOY_PAUSE_S = 20, 1.0
RUN_S = 900.0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--toys", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.toys:
        return toys(options.toys)
    import docker

    from images.build import build
    from tests.end_to_end.containers import platform_at

    images = build(ROOT, ["tabular"])
    with tempfile.TemporaryDirectory() as folder:
        data = Path(os.environ.get("RETAIN_DATA_DIR") or folder)
        with platform_at(Path(folder), data, images, docker.from_env()) as platform:
            results = {
                "stages": around_stages(platform),
                "unchanged": unchanged(platform),
                "branches": branches(platform),
                "kills": kills(platform),
            }
    show(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0 if all(limit_met for *_, limit_met in checks(results)) else 1


def around_stages(platform: Any) -> list[dict[str, Any]]:
    """Of each stage: seconds from asking for it to its end, and in which part of them what is done."""
    from engine import records
    from engine.store import FolderStore

    run = platform.run(stages=TABLES)
    assert platform.wait(run, RUN_S)["state_type"] == "COMPLETED"
    time.sleep(2)  # for the ends of the last containers
    store, found = FolderStore(platform.store), []
    for attempt in platform.attempts(run):
        given = attempt["parameters"]
        prefix = f"{given['experiment']}/{given['stage']}/{given['fingerprint']}"
        record = records.read(store, prefix, given["number"])
        (state,) = (each for each in platform.seen.values() if each["flow_run"] == attempt["id"])
        asked, began = when(attempt["expected_start_time"]), when(attempt["start_time"])
        up, down = when(state["StartedAt"]), when(state["FinishedAt"])
        assert record is not None
        flow_s = down - began - record.seconds
        found.append(
            {
                "stage": given["stage"],
                "run_s": record.run_seconds,
                "until_container_s": up - asked,
                "until_flow_s": began - up,
                "around_run_s": record.seconds - record.run_seconds,
                "flow_s": flow_s,
                "around_s": down - asked - record.run_seconds,
                "asked": asked,
                "ended": down,
            }
        )
    return found


def unchanged(platform: Any) -> dict[str, float]:
    """A run that has nothing to do: from asking for it to its end, and how many stages it started."""
    run = platform.run(stages=TABLES)
    ended = platform.wait(run, RUN_S)
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


def kills(platform: Any) -> dict[str, dict[str, float]]:
    """Seconds from the event until the stage's next attempt is at work."""
    from tests.end_to_end.events import Strikes

    found = {}
    for kind in KILLS:
        shutil.rmtree(platform.store / "chaos" / "decision", ignore_errors=True)
        run = platform.run(stages=["decision"])
        strikes = Strikes(platform, run, random.Random(0))
        asked = time.time()
        strikes.plan("decision", [kind])
        assert platform.wait(run, RUN_S)["state_type"] == "COMPLETED"
        strikes.finish()
        starts = sorted(when(each["start_time"]) for each in platform.attempts(run) if each["start_time"])
        (struck,) = strikes.struck
        found[kind] = {
            "container_s": struck.again_s or 0.0,
            "at_work_s": starts[1] - struck.at,
            "run_s": time.time() - asked,
        }
    return found


def when(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


def checks(results: Mapping[str, Any]) -> Sequence[tuple[str, float, float, bool]]:
    around = [stage["around_s"] for stage in results["stages"]]
    rows = [
        ("a stage beyond its work, mean", sum(around) / len(around), AROUND_S),
        ("an unchanged run", results["unchanged"]["seconds"], UNCHANGED_S),
        ("attempts of an unchanged run", results["unchanged"]["attempts"], 0),
        ("two waiting branches / the longer", results["branches"]["ratio"], BRANCHES),
        *(
            (f"{kind.replace('_', ' ')} -> at work again", results["kills"][kind]["at_work_s"], KILLS[kind])
            for kind in KILLS
        ),
    ]
    return [(name, value, limit, value <= limit) for name, value, limit in rows]


def show(results: Mapping[str, Any]) -> None:
    console = Console()
    parts = ("run_s", "until_container_s", "until_flow_s", "around_run_s", "flow_s", "around_s")
    heads = ("its work", "to its container", "to its flow", "engine around it", "flow after it", "all but its work")
    table = Table("stage", *heads, title="Seconds of a stage in a container")
    for stage in results["stages"]:
        table.add_row(stage["stage"], *(f"{stage[part]:.1f}" for part in parts))
    console.print(table)
    table = Table("", "measured", "at most", "", title="Orchestration")
    for name, value, limit, met in checks(results):
        table.add_row(name, f"{value:.2f}", f"{limit:g}", "met" if met else "[red]missed")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
