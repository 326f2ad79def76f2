"""What a run costs beyond its stages: from nothing, and when nothing changed.

    python bench/run.py [--experiment local]

Runs the experiment in a store of its own, twice. Prints seconds of each stage's process and of its run() alone, the
makespan against the critical path of the same run, and the wall time of both runs; writes bench/results/run.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"from_nothing_s": 240.0, "nothing_changed_s": 12.0, "overhead_s": 4.0, "makespan_ratio": 1.15}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default=os.environ.get("EXPERIMENT") or "local")
    experiment = parser.parse_args().experiment
    with tempfile.TemporaryDirectory() as store:
        cold_s, output = run(experiment, store)
        stages = stage_seconds(Path(store) / experiment)
        warm_s, again = run(experiment, store)
    if "nothing to run" not in again:
        print(f"the second run did not find everything there:\n{again}", file=sys.stderr)
        return 1
    found = re.search(r"makespan ([\d.]+) s, critical path ([\d.]+) s", output)
    assert found is not None, output
    makespan, path = map(float, found.groups())
    results = {
        "experiment": experiment,
        "stages": stages,
        "from_nothing_s": round(cold_s, 1),
        "nothing_changed_s": round(warm_s, 2),
        "overhead_s": max(stage["overhead_s"] for stage in stages.values()),
        "makespan_s": makespan,
        "critical_path_s": path,
        "makespan_ratio": round(makespan / path, 3),
    }
    show(results)
    out = ROOT / "bench" / "results" / "run.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0 if all(results[name] <= limit for name, limit in LIMITS.items()) else 1


def run(experiment: str, store: str) -> tuple[float, str]:
    """Wall seconds and output of one run; ends the benchmark if it fails."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows", "run", "--experiment", experiment],
        cwd=ROOT,
        env=os.environ | {"RETAIN_STORE": store},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"the run failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.monotonic() - started, done.stdout


def stage_seconds(folder: Path) -> dict[str, dict[str, float]]:
    """stage -> seconds of its process, of run() alone, and the difference."""
    stages = {}
    for path in sorted(folder.glob("*/*/execution/*.json")):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        seconds, own = record["seconds"], record["run_seconds"]
        stages[path.parts[-4]] = {"seconds": seconds, "run_s": own, "overhead_s": round(seconds - own, 3)}
    return stages


def show(results: dict[str, Any]) -> None:
    console = Console()
    table = Table("stage", *("seconds", "run() alone", "overhead"), title="Seconds of each stage")
    for stage, row in results["stages"].items():
        table.add_row(stage, *(f"{row[name]:.2f}" for name in ("seconds", "run_s", "overhead_s")))
    console.print(table)
    table = Table("figure", "measured", "limit", title=f"A run of {results['experiment']}")
    for name, limit in LIMITS.items():
        table.add_row(name, f"{results[name]:g}", f"<= {limit:g}", style="" if results[name] <= limit else "red")
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
