"""Whole language stages of an experiment on a GPU, one after the other: seconds, memory, and what an L4 would take.

    python bench/stages.py FOLDER [--experiment exp_001_mvp] [--share 0.1] [--keep FOLDER]

FOLDER holds the files of the artifacts that need no GPU: dialogues/, preferences/ and prompts/, and for weights out of
a package source/. Every stage from `base` on then runs as the engine would run it, with checkpoints into a folder, but
without orchestration and ledger; `--keep` says where their files are to stay. `--share` cuts steps and iterations to
that share, batch and lengths stay; the column "whole" scales the steps back. Where weights are published on a hub
alone, random ones of the same shape take their place: times are real then and texts are not, and as nobody learns to
end, every reply has the full length. Without a GPU it says so and ends. Prints a table and writes
bench/results/stages.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from engine.stage import Stage
    from tasks.config import Experiment, Stages

OUT = ROOT / "bench" / "results" / "stages.json"
ORDER = ("base", "sft", "rm", "judge", "ppo_text", "text_eval", "messages")
ITERATION_PHASES = ("generation_s", "scoring_s", "update_s")  # of an iteration of PPO
STEPS = {"sft": "max_steps", "rm": "max_steps", "judge": "max_steps", "ppo_text": "iterations"}
# Bytes/s of memory, of NVIDIA's data sheets. Of the two that matter this ratio is the worse one for an L4: its peak of
# bf16 is an eighth of an H100's. What waits for kernels to be launched, no ratio slows down.
MEMORY = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.0e12, "L4": 300e9}


@dataclass
class Clock:
    """Hears a stage's progress: the first and last time that it told of a step."""

    began: float = field(default_factory=time.monotonic)
    told: list[tuple[float, int, Mapping[str, float]]] = field(default_factory=list)

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        self.told.append((time.monotonic() - self.began, step, metrics))
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"    {self.told[-1][0]:7.1f} s  {step}/{total}  {shown}", file=sys.stderr, flush=True)

    def step_s(self, last: int) -> float:
        """Seconds a step among the first `last` ones: what comes after is no training."""
        steps = [(seconds, step) for seconds, step, _ in self.told if step <= last]
        if len(steps) < 2 or steps[0][1] == steps[-1][1]:
            raise ValueError(f"too few steps were told of to time one: {len(steps)}; raise --share")
        (first, a), (end, b) = steps[0], steps[-1]
        return (end - first) / (b - a)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="with dialogues/, preferences/ and prompts/")
    parser.add_argument("--experiment", default="exp_001_mvp")
    parser.add_argument("--share", type=float, default=1.0, help="of steps and iterations")
    parser.add_argument("--keep", type=Path, help="an empty folder for what the stages write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to see that all of it runs")
    options = parser.parse_args()
    if options.folder is None:
        print("stages: wants a folder with the artifacts of dialogues, preferences and prompts, and a GPU; left out")
        return 0
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("stages: there is no GPU here; left out")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        place = options.keep or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        results = measure(options.folder, place, options.experiment, options.share, options.device)
    show(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0 if all("failed" not in row for row in results["stages"].values()) else 1


def measure(folder: Path, place: Path, experiment: str, share: float, device: str) -> dict[str, Any]:
    """One row for each stage, which writes to a folder of `place`; one that fails says why, and those that need it are
    left out."""
    import torch

    from engine.prices import load_prices
    from engine.stage import load_entry
    from flows.plan import load_experiment, stage_config
    from flows.pools import ON_THIS_MACHINE, machines_for
    from tasks.stages import STAGES

    stated = load_experiment(experiment)
    rows: dict[str, dict[str, Any]] = {}
    made = {name: folder / name for name in ("dialogues", "preferences", "prompts")}
    for name in ORDER:
        stage = STAGES[name]
        given = load_entry(stage.config).model_validate_json(json.dumps(stage_config(stated, name)))
        config = cut(name, given, share)
        if lacking := [upstream for upstream in stage.inputs if upstream not in made]:
            print(f"{name}: left out, it lacks {', '.join(lacking)}", file=sys.stderr, flush=True)
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        inputs = {upstream: made[upstream] for upstream in stage.inputs} | (
            {"source": folder / "source"} if stage.source else {}
        )
        row = rows[name] = timed(stage, config, inputs, place, stated, device)
        if "failed" not in row:
            row["whole_s"] = whole_s(name, row, config, stated.stages)
            made[name] = place / name
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
    chip = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    results = {"experiment": experiment, "device": chip, "torch": torch.__version__, "share": share, "stages": rows}
    (gpu,) = machines_for(stated.costs, ON_THIS_MACHINE, load_prices(), gpu=True, lasting=False)
    return results | {"l4": on_an_l4(rows, chip, gpu.usd_per_hour)}


def cut(name: str, config: Any, share: float) -> Any:
    """The stage's own settings, with fewer steps; random weights for those that are on a hub."""
    if name == "base" and config.weights == "hub":
        return config.model_copy(update={"weights": "random", "tokenizer": "bytes", "files": ()})
    if name == "judge":  # another minor version of Python reads the rule judge into another tree, of another digest
        from tasks.rlhf.judging.rule_judge import frozen

        digest = frozen.digest(config.cues.model_dump(mode="json"))
        config = config.model_copy(update={"rule_judge": digest[:16]})
    if name in STEPS:
        return config.model_copy(update={STEPS[name]: max(2, round(getattr(config, STEPS[name]) * share))})
    if name == "messages":
        return config.model_copy(update={"candidates": max(1, round(config.candidates * share))})
    return config


def timed(
    stage: Stage, config: Any, inputs: Mapping[str, Path], place: Path, stated: Experiment, device: str
) -> dict[str, Any]:
    """Runs a stage of the experiment `stated` into place/<name>; its seconds, seconds a step, the GPU's peak of memory,
    and its metrics."""
    import torch

    from engine.artifact import ArtifactWriter
    from engine.checkpoint import Checkpointer
    from engine.claim import acquire
    from engine.interval import Schedule
    from engine.stage import Workspace, load_entry
    from engine.store import open_store

    out, work = place / stage.name, place / f"{stage.name}.work"
    out.mkdir()
    work.mkdir()
    store = open_store(str(place / "store"))
    claim = acquire(store, f"{stage.name}/claim", 1, 60.0)
    assert claim is not None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    workspace = Workspace(
        out=ArtifactWriter(out),
        scratch=work,
        checkpoints=Checkpointer(store, f"{stage.name}/checkpoints", claim),
        seed=stated.seed,
        threads=stage.resources.threads,
        device=device,
        deadline=float("inf"),
        report=clock.report,
        stopping=threading.Event(),
        schedule=Schedule(stated.execution.checkpoint),
    )
    began = time.monotonic()
    try:
        metrics = load_entry(stage.entry)(config, inputs, workspace)
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}", "seconds": round(time.monotonic() - began, 1)}
    row: dict[str, Any] = {"seconds": round(time.monotonic() - began, 1)}
    if metrics.get("stopped", {}).get("value"):  # a sign of reward hacking ended it: its seconds are not of all steps
        return {"failed": f"stopped after {metrics['iterations']['value']:.0f} steps", **row}
    if stage.name in STEPS:
        models = 2 if stage.name == "rm" else 1
        row["steps"] = models * getattr(config, STEPS[stage.name])
        try:
            row["step_s"] = round(clock.step_s(row["steps"]), 4)
        except ValueError as error:
            return {"failed": str(error), "seconds": row["seconds"]}
    for part in ITERATION_PHASES:
        if spent := [figures[part] for _, _, figures in clock.told if part in figures]:
            row[part] = round(sum(spent) / len(spent), 3)
    if device == "cuda":
        row["memory_gb"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return row | {"metrics": metrics}


def whole_s(name: str, row: Mapping[str, Any], config: Any, stated: Stages) -> float:
    """Seconds with the experiment's own number of steps, of prompts or of candidates."""
    own = getattr(stated, name)
    if name in STEPS:
        more = getattr(own, STEPS[name]) / getattr(config, STEPS[name]) - 1
        return round(row["seconds"] + more * row["steps"] * row["step_s"], 1)
    times = 1.0
    if name == "messages":
        times = own.candidates / config.candidates
    if name == "text_eval":
        asked = sum(row["metrics"][count]["value"] for count in ("prompts", "probes"))
        times = (stated.prompts.test_prompts + stated.prompts.probes) / asked
    return round(row["seconds"] * times, 1)


def on_an_l4(rows: Mapping[str, Mapping[str, Any]], chip: str, usd_per_hour: float) -> dict[str, float] | None:
    """Hours and dollars at most: as if all of it waited for memory. None for a chip that isn't in the table."""
    ratio = next(
        (speed / MEMORY["L4"] for name, speed in MEMORY.items() if name in chip.replace("-", " ").split()), None
    )
    if ratio is None:
        return None
    here = sum(row.get("whole_s", 0.0) for row in rows.values()) / 3600
    return {
        "hours_here": round(here, 3),
        "ratio": round(ratio, 1),
        "hours_at_most": round(here * ratio, 2),
        "usd_as_here": round(here * usd_per_hour, 2),
        "usd_at_most": round(here * ratio * usd_per_hour, 2),
    }


def show(results: Mapping[str, Any]) -> None:
    console = Console(width=120)
    title = (
        f"{results['experiment']} on {results['device']}, torch {results['torch']}, {results['share']:g} of the steps"
    )
    table = Table("stage", "seconds", "steps", "s a step", "whole, s", "memory, GB", "of an iteration", title=title)
    for name, row in results["stages"].items():
        if "failed" in row:
            table.add_row(name, f"failed after {row['seconds']} s: {row['failed'][:60]}")
            continue
        parts = ", ".join(f"{part[:-2]} {row[part]:.2f}" for part in ITERATION_PHASES if part in row)
        shown = [str(row.get(key, "")) for key in ("seconds", "steps", "step_s", "whole_s", "memory_gb")]
        table.add_row(name, *shown, parts)
    console.print(table)
    if results["l4"]:
        l4 = results["l4"]
        console.print(
            f"whole: {l4['hours_here']:.2f} h here. On a spot L4 ${l4['usd_as_here']:.2f} if all of it waits for "
            f"kernels to be launched, ${l4['usd_at_most']:.2f} ({l4['hours_at_most']:.1f} h) if all of it waits for "
            f"memory, which is {l4['ratio']:g} times slower there"
        )


if __name__ == "__main__":
    raise SystemExit(main())
