"""Plans over the toy stages, with the money and the time limits of experiment_chaos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.fingerprint import code_digests
from engine.stage import Resources, Stage
from engine.store import FolderStore
from flows.board import Board, Row
from flows.plan import Plan, load_experiment
from tasks.config import Margins, NotWorseBy

TOYS = "tests.engine.toy_stages"
MARGINS = NotWorseBy(risk=Margins(auc=0.01, brier=0.003), accept=Margins(auc=0.01, brier=0.003))


def toy_stage(name: str, inputs: tuple[str, ...] = (), function: str = "walk") -> Stage:
    return Stage(
        name=name,
        entry=f"{TOYS}:{function}",
        config=f"{TOYS}:WalkConfig",
        inputs=inputs,
        image="tabular",
        resources=Resources(threads=1, memory_gb=1.0, gpu=False),
        libraries=("numpy",),
    )


DIAMOND = (
    toy_stage("customers"),
    toy_stage("risk", ("customers",)),
    toy_stage("accept", ("customers",)),
    toy_stage("release", ("risk", "accept")),
)


def toy_plan(
    root: Path,
    stages: tuple[Stage, ...] = DIAMOND,
    *,
    steps: int = 5,
    pause_s: float = 0.01,
    heartbeat_s: float = 0.5,
    time_limit_s: float = 60.0,
    budget_usd: float = 100.0,
    **configs: dict[str, Any],
) -> Plan:
    experiment = load_experiment("chaos")
    execution = experiment.execution.model_copy(
        update={"heartbeat_s": heartbeat_s, "time_limit_s": dict.fromkeys((s.name for s in stages), time_limit_s)}
    )
    costs = experiment.costs.model_copy(update={"budget_usd": budget_usd})
    config = {"steps": steps, "pause_s": pause_s, "scale": 1.0}
    return Plan(
        named="toy",
        experiment=experiment.model_copy(
            update={"execution": execution, "costs": costs, "criteria": {}, "not_worse_by": MARGINS}
        ),
        store=FolderStore(root),
        stages=stages,
        sources={},
        code={stage.name: code_digests(stage.entry) for stage in stages},
        configs={stage.name: config | configs.get(stage.name, {}) for stage in stages},
    )


def board_of(plan: Plan) -> Board:
    return Board({stage.name: Row(stage.name, stage.inputs) for stage in plan.stages})
