"""What being preempted costs a trainer: its checkpoints, its way back to the next step, and the refusal of a run that
can't take place.

    python bench/spot.py

`sft`, `rm` and `ppo_text` of the experiment `local` run through the engine, on a CPU. Prints a table and writes
bench/results/spot.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from engine.stage import StageRequest
    from flows.launch import Child

OUT = ROOT / "bench" / "results" / "spot.json"
TRAINERS = ("sft", "rm", "ppo_text")  # each reads what those before it made


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--attempt", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--times", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attempt:
        return timed_attempt(options.attempt, options.times)
    results = resumed_trainers() | {"refusal": refusal()}
    show(results)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


def resumed_trainers() -> dict[str, Any]:
    """`sft`, `rm` and `ppo_text` of `local` through the engine, each asked to stop after its first checkpoint and then
    resumed.

    For each trainer the seconds from the resumed process's start to the end of its next step, without those of loading
    weights, and the share of its training alone (no imports and no loading; PPO's validations are in it) that
    waited for checkpoints, all of it: collecting what goes into one, writing the trainer's own files and putting them
    onto this machine's disk, from where a thread copies them into the store, at the experiment's own interval.
    """
    from flows.attempt import run_attempt
    from flows.launch import Launcher, work_folder
    from flows.plan import make_plan
    from tasks.stages import STAGES

    attempts: dict[str, list[dict[str, Any]]] = {name: [] for name in TRAINERS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RETAIN_STORE"] = folder
        made_before = {name for stage in TRAINERS for name in STAGES[stage].inputs} - set(TRAINERS)
        wanted = [part for name in sorted(made_before) for part in ("--stage", name)]
        before = [sys.executable, "-m", "flows", "run", "--experiment", "local", *wanted]
        subprocess.run(before, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        for name in TRAINERS:
            plan, stage = make_plan("local", [name]), STAGES[name]
            identity, made = plan.standing()[name], plan.reusable()
            assert identity is not None
            kept = Path(folder) / plan.artifacts.prefix(name, identity.fingerprint) / "checkpoints"

            def stop(child: Child, kept: Path = kept) -> None:
                if any(kept.glob("*/complete.json")):
                    child.preempt()

            for status, watch in (("preempted", stop), ("complete", lambda _: None)):
                times = Path(folder) / f"{name}-{status}.json"
                inputs = {upstream: made[upstream] for upstream in stage.inputs}
                launcher = Launcher(start=partial(_launch_timed, times=times), work=work_folder)
                record = run_attempt(plan, stage, identity, inputs, watch, launcher).record
                if record.status != status:
                    sys.exit(f"{name} is {record.status}, not {status}: {record.message}")
                attempts[name].append(json.loads(times.read_text(encoding="utf-8")))
    return {
        "experiment": plan.experiment.tag,
        "trainers": {name: checkpointing(those) | starting(those[-1]) for name, those in attempts.items()},
    }


def starting(attempt: Mapping[str, Any]) -> dict[str, float]:
    """Of a resumed attempt: seconds of loading weights, and from its start to the end of its next step without them."""
    load_s = attempt["load_s"][0]
    return {"load_s": round(load_s, 2), "start_s": round(attempt["first_step_s"] - load_s, 2)}


def checkpointing(attempts: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of all attempts at one stage: how many checkpoints, their seconds, and these as a share of the training's."""
    sums = {name: sum(sum(attempt[name]) for attempt in attempts) for name in ("save_s", "train_s")}
    return {
        "saves": sum(len(attempt["kept_s"]) for attempt in attempts),
        "save_s": round(sums["save_s"], 3),
        "train_s": round(sums["train_s"], 2),
        "share": round(sums["save_s"] / sums["train_s"], 5),
    }


def _launch_timed(request: StageRequest, caller: Mapping[str, str], pool: str, times: Path) -> Child:
    """As flows.launch starts an attempt, but by timed_attempt()."""
    from engine.records import LOG
    from flows.launch import Subprocess

    work = Path(request.work)
    work.mkdir(parents=True)
    (work / "request.json").write_text(request.model_dump_json(), encoding="utf-8")
    command = [sys.executable, __file__, "--attempt", str(work / "request.json"), "--times", str(times)]
    with (work / LOG).open("ab") as log:
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=ROOT, env=caller)
    return Subprocess(process, work, began)


def timed_attempt(path: Path, times: Path) -> int:
    """What `python -m engine` does, with clocks around training, all of its checkpoints and the loading of weights."""
    import engine.__main__
    from engine import stage

    clocks = Clocks()
    load = stage.load_entry

    def loaded(entry: str) -> Any:
        """The engine loads a stage once threads are set, so nothing of torch is imported before."""
        entry_point = load(entry)
        if entry.endswith(":run"):
            clock_trainers(clocks)
        return entry_point

    stage.load_entry = loaded
    code = engine.__main__.main([str(path)])
    progress = (path.parent / "progress.jsonl").read_text(encoding="utf-8").splitlines()
    times.write_text(
        json.dumps(clocks.seconds | {"first_step_s": json.loads(progress[0])["seconds"]}), encoding="utf-8"
    )
    return code


class Clocks:
    """`seconds`: name of a clock -> those of each call that it was put around.

    A call within another of the same clock is part of that one; saves count while training lasts.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {name: [] for name in ("train_s", "save_s", "kept_s", "load_s")}
        self._running: list[str] = []

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **more: Any) -> Any:
            counts = name not in self._running and (name in ("train_s", "load_s") or "train_s" in self._running)
            self._running.append(name)
            began = time.monotonic()
            try:
                return call(*arguments, **more)
            finally:
                self._running.remove(name)
                if counts:
                    self.seconds[name].append(time.monotonic() - began)

        return timed


def clock_trainers(clocks: Clocks) -> None:
    """Both loops, and everything that is done for a checkpoint within one; ppo_text collects it at every iteration."""
    from engine.background import BackgroundCheckpoints
    from engine.finished import Finished
    from tasks.rlhf import ppo_text
    from tasks.rlhf.language import lm, training

    for name in ("load", "load_reward"):
        setattr(lm, name, clocks.around("load_s", getattr(lm, name)))
    training.train = clocks.around("train_s", training.train)
    ppo_text.train = clocks.around("train_s", ppo_text.train)
    training.ExactTrainer._save_checkpoint = clocks.around("save_s", training.ExactTrainer._save_checkpoint)
    Finished.keep = clocks.around("save_s", Finished.keep)  # type: ignore[method-assign]
    ppo_text.Learner.files = clocks.around("save_s", ppo_text.Learner.files)
    kept = clocks.around("kept_s", BackgroundCheckpoints.save)
    BackgroundCheckpoints.save = clocks.around("save_s", kept)  # type: ignore[method-assign]


def refusal() -> dict[str, float]:
    """Seconds until exp_001_mvp's `sft` says what is missing, in an empty folder: its weights, and then a GPU too."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"RETAIN_STORE": f"{folder}/store", "RETAIN_DATA_DIR": folder}
        for name, gpu in (("files_s", True), ("gpu_s", False)):
            code = (
                f"import sys; from flows import preflight; preflight.has_gpu = lambda: {gpu};"
                "from flows.__main__ import main;"
                "sys.exit(main(['run', '--experiment', 'exp_001_mvp', '--stage', 'sft']))"
            )
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                check=False,
            )
            seconds[name] = round(time.monotonic() - began, 2)
            if done.returncode != 2 or "can't run here" not in done.stderr:
                sys.exit(f"exp_001_mvp was not refused for what it lacks:\n{done.stderr}")
    return seconds


def show(results: Mapping[str, Any]) -> None:
    table = Table("figure", "measured", "limit", title="Spot-safe")
    for name, row in results["trainers"].items():
        saved = f"{row['saves']} checkpoints in {row['train_s']:.0f} s of training {name} ({results['experiment']})"
        table.add_row(saved, f"{row['save_s']:.2f} s = {100 * row['share']:.2f} %", "3 %")
    for name, row in results["trainers"].items():
        resumed = f"from a resumed start of {name} to its next step, less {row['load_s']:.1f} s of loading weights"
        table.add_row(resumed, f"{row['start_s']:.1f} s", "15 s")
    table.add_row("until the list of what is missing", f"{results['refusal']['files_s']:.1f} s", "10 s")
    table.add_row("until the list where a GPU is missing too", f"{results['refusal']['gpu_s']:.1f} s", "5 s")
    Console().print(table)


if __name__ == "__main__":
    raise SystemExit(main())
