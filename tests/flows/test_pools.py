"""Which machine an attempt works on, and that a stage which loses too many gets one that nobody takes away."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

import flows.attempt
import flows.container
from engine import ledger, records
from engine.errors import BudgetExceeded, ConfigError
from engine.stage import PREEMPTED, Resources, StageRequest
from flows.attempt import run_attempt, settle_lost
from flows.launch import Launcher, work_folder
from flows.plan import Plan
from flows.pools import Pools, rented, stated_pools
from flows.run import Run, StageEnded, carry_out
from tests.flows.toy_plan import board_of, toy_plan, toy_stage

LOG = logging.getLogger("test")
SFT = replace(toy_stage("sft"), resources=Resources(threads=1, memory_gb=1, gpu=True))
RISK = toy_stage("risk")
SPOT, ON_DEMAND = 0.28, 0.71
HOUR = 3600.0


def plan_on(root: Path, pools: Pools, budget_usd: float = 100.0) -> Plan:
    plan = toy_plan(root, (RISK, SFT), budget_usd=budget_usd, time_limit_s=HOUR)
    execution = plan.experiment.execution.model_copy(
        update={"device": "cuda", "on_demand_after": 2, "max_preemptions": 4, "overhead_s": 0.0}
    )
    return replace(plan, pools=pools, experiment=plan.experiment.model_copy(update={"execution": execution}))


@dataclass
class Machines:
    """Takes attempts, and takes their machines away. `pools`: where each was started."""

    code: int = -signal.SIGKILL
    pools: list[str] = field(default_factory=list)

    def start(self, request: StageRequest, caller: Mapping[str, str], pool: str) -> Any:
        self.pools.append(pool)
        return SimpleNamespace(
            work=None,
            seconds=1.0,
            seconds_alive=1.0,
            end_seen=True,
            message="",
            never_began=False,
            poll=lambda: self.code,
            end=lambda: self.code,
            read=lambda name: b"",
        )

    def launcher(self, owner: str = "") -> Launcher:
        return Launcher(self.start, work_folder, owner=owner)


def reserved(plan: Plan) -> list[tuple[str, str, float]]:
    entries = ledger.entries(plan.store, plan.experiment.costs.scope)
    return [(each.pool, each.machine_type, each.rate_usd_per_hour) for each in entries]


@pytest.mark.parametrize(
    ("pools", "wanted"),
    [
        (Pools(), [("", "e2-standard-4", 0.134), ("", "g2-standard-4", SPOT)]),
        (Pools("cpu-spot"), [("cpu-spot", "e2-standard-4", 0.059), ("", "g2-standard-4", SPOT)]),
        (
            Pools("cpu-spot", "gpu-spot"),
            [("cpu-spot", "e2-standard-4", 0.059), ("gpu-spot", "g2-standard-4", SPOT)],
        ),
        (
            Pools("docker", "gpu-on-demand"),
            [("", "e2-standard-4", 0.134), ("gpu-on-demand", "g2-standard-4", ON_DEMAND)],
        ),
    ],
)
def test_an_attempt_is_priced_and_started_where_its_pool_is(
    tmp_path: Path, pools: Pools, wanted: list[tuple[str, str, float]]
) -> None:
    plan, machines = plan_on(tmp_path, pools), Machines()
    for stage in (RISK, SFT):
        run_attempt(plan, stage, plan.identity(stage, {}), {}, lambda child: None, machines.launcher())
    assert reserved(plan) == wanted
    assert machines.pools == [pool for pool, _, _ in wanted]


def test_a_stage_without_a_gpu_to_compute_on_stays_with_the_cheaper_machines(tmp_path: Path) -> None:
    plan = plan_on(tmp_path, Pools("cpu-spot", "gpu-spot"))
    execution = plan.experiment.execution.model_copy(update={"device": "cpu"})
    plan = replace(plan, experiment=plan.experiment.model_copy(update={"execution": execution}))
    assert (plan.machine(SFT).pool, plan.machine(SFT).type) == ("cpu-spot", "e2-standard-4")


def test_after_enough_preemptions_a_stage_gets_a_machine_that_nobody_takes_away(tmp_path: Path) -> None:
    plan, machines = plan_on(tmp_path, Pools("cpu-spot", "gpu-spot")), Machines()
    for stage in (RISK, SFT):
        with pytest.raises(StageEnded, match="preempted 5 times"):
            carry_out(Run(plan, board_of(plan), machines.launcher()), stage.name, LOG, lambda percent: None)
    # Of machines without a GPU there are none on demand.
    assert machines.pools == ["cpu-spot"] * 5 + ["gpu-spot"] * 2 + ["gpu-on-demand"] * 3
    assert [price for _, machine, price in reserved(plan) if machine == "g2-standard-4"] == [SPOT] * 2 + [ON_DEMAND] * 3


@pytest.mark.parametrize(("budget_usd", "pool"), [(0.72, "gpu-on-demand"), (0.70, "gpu-spot"), (0.27, None)])
def test_where_the_cap_has_no_room_for_it_the_stage_goes_on_with_spot_machines(
    tmp_path: Path, budget_usd: float, pool: str | None
) -> None:
    """An hour and the seconds to end reserve a little more than the price of an hour."""
    plan, machines = plan_on(tmp_path, Pools("docker", "gpu-spot"), budget_usd), Machines()
    identity = plan.identity(SFT, {})

    def go() -> None:
        run_attempt(plan, SFT, identity, {}, lambda child: None, machines.launcher(), preemptions=2)

    prefix = plan.artifacts.prefix(SFT.name, identity.fingerprint)
    if pool is None:
        with pytest.raises(BudgetExceeded, match=r"at \$0\.28 an hour"):
            go()
        record = records.read(plan.store, prefix, 1)
        assert record is not None
        assert (record.status, machines.pools) == ("refused", [])
        return
    go()
    record = records.read(plan.store, prefix, 1)
    assert record is not None
    assert machines.pools == [pool]
    assert record.usd_per_hour == reserved(plan)[0][2] == (ON_DEMAND if pool == "gpu-on-demand" else SPOT)


def test_a_run_that_comes_back_looks_for_its_attempt_where_the_money_was_reserved(tmp_path: Path) -> None:
    plan, machines = plan_on(tmp_path, Pools("docker", "gpu-spot")), Machines()
    identity = plan.identity(SFT, {})

    def killed(child: Any) -> None:
        raise KeyboardInterrupt

    def leave(code: int | None) -> Launcher:
        """Of a run whose attempt goes on when it is killed."""
        machines.code = code  # type: ignore[assignment]
        return replace(machines.launcher("a flow run"), shared=True)

    with pytest.raises(KeyboardInterrupt):
        run_attempt(plan, SFT, identity, {}, killed, leave(None), preemptions=2)
    run_attempt(plan, SFT, identity, {}, lambda child: None, leave(PREEMPTED), preemptions=0)
    assert machines.pools == ["gpu-on-demand"] * 2
    assert len(reserved(plan)) == 1


def test_an_attempt_that_waits_for_a_machine_is_not_taken_for_one_that_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours after it reserved, another run of the ledger settles what was lost."""
    plan, now = plan_on(tmp_path, Pools("docker", "gpu-spot")), [1e9]
    monkeypatch.setattr(flows.attempt, "STAMP_S", 0.0)
    monkeypatch.setattr("time.time", lambda: now[0])
    machines, looks = Machines(code=PREEMPTED), [0]
    launcher = replace(machines.launcher("a flow run"), shared=True)

    def start(request: StageRequest, caller: Mapping[str, str], pool: str) -> Any:
        child = machines.start(request, caller, pool)
        child.seconds, child.poll = 0.0, lambda: PREEMPTED if looks[0] > 4 else None
        return child

    def watch(child: Any) -> None:
        looks[0] += 1
        assert settle_lost(plan) == 0
        child.seconds = 0.0 if looks[0] < 4 else 1.0  # then its machine is there
        now[0] += HOUR / 2

    run_attempt(plan, SFT, plan.identity(SFT, {}), {}, watch, replace(launcher, start=start))
    (entry,) = ledger.entries(plan.store, plan.experiment.costs.scope)
    assert (looks[0], entry.state, entry.seconds) == (5, "settled", 1.0)


def test_what_never_began_costs_nothing(tmp_path: Path) -> None:
    plan = plan_on(tmp_path, Pools("docker", "gpu-spot"))
    execution = plan.experiment.execution.model_copy(update={"overhead_s": 480.0})
    plan = replace(plan, experiment=plan.experiment.model_copy(update={"execution": execution}))
    machines = Machines()

    def start(request: StageRequest, caller: Mapping[str, str], pool: str) -> Any:
        child = machines.start(request, caller, pool)
        child.never_began, child.seconds = True, 0.0
        return child

    run_attempt(plan, SFT, plan.identity(SFT, {}), {}, lambda child: None, replace(machines.launcher(), start=start))
    run_attempt(plan, SFT, plan.identity(SFT, {}), {}, lambda child: None, machines.launcher())
    run_attempt(plan, RISK, plan.identity(RISK, {}), {}, lambda child: None, machines.launcher())
    never, spot, here = ledger.entries(plan.store, plan.experiment.costs.scope)
    assert (never.metered_usd, never.overhead_s) == (0.0, 480.0)
    assert spot.metered_usd == pytest.approx(481 * SPOT / 3600, abs=1e-6)
    assert here.overhead_s == 0.0  # nothing to boot


def test_a_machine_on_demand_that_can_not_be_had_is_not_waited_for(tmp_path: Path) -> None:
    plan, machines = plan_on(tmp_path, Pools("docker", "gpu-spot")), Machines()
    launcher = replace(machines.launcher(), available=lambda machine: machine.pool != "gpu-on-demand")
    run_attempt(plan, SFT, plan.identity(SFT, {}), {}, lambda child: None, launcher, preemptions=2)
    assert machines.pools == ["gpu-spot"]


def test_preemptions_of_one_pool_say_nothing_of_another(tmp_path: Path) -> None:
    plan, machines = plan_on(tmp_path, Pools("docker", "gpu-spot")), Machines()
    for _ in range(3):
        run_attempt(plan, SFT, plan.identity(SFT, {}), {}, lambda child: None, machines.launcher())
    often = plan.checkpoint_interval(SFT).mean_hours_between_preemptions
    here = replace(plan, pools=Pools("docker", "gpu-on-demand"))
    stated = plan.experiment.execution.checkpoint.mean_hours_between_preemptions
    assert often < stated / 3
    assert here.checkpoint_interval(SFT).mean_hours_between_preemptions == stated


def test_vertex_ai_is_refused_until_somebody_has_seen_its_price(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no price of a preemptible vertex:g2-standard-4 with nvidia-l4"):
        plan_on(tmp_path, Pools("docker", "gpu-vertex")).machine(SFT)


@pytest.mark.parametrize(("variable", "value"), [("RETAIN_CPU_POOL", "gpu-spot"), ("RETAIN_GPU_POOL", "l4")])
def test_a_pool_that_takes_no_such_stages_is_refused(variable: str, value: str) -> None:
    kind = variable.split("_")[1].lower()
    with pytest.raises(ConfigError, match=rf"{variable}={value}: wants one of docker, {kind}-spot"):
        stated_pools({variable: value})


def test_the_pools_of_a_run_are_settings() -> None:
    assert stated_pools({"RETAIN_CPU_POOL": ""}) == Pools()
    assert rented(Pools()) == set()
    stated = stated_pools({"RETAIN_CPU_POOL": "cpu-spot", "RETAIN_GPU_POOL": "gpu-spot"})
    assert stated == Pools("cpu-spot", "gpu-spot")
    assert rented(stated) == {"cpu-spot", "gpu-spot", "gpu-on-demand"}


@pytest.mark.parametrize(("pool", "name"), [("", "stage/gpu"), ("gpu-spot", "stage/gpu-on-gpu-spot")])
def test_the_deployment_is_that_of_image_and_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str, name: str
) -> None:
    plan, asked = plan_on(tmp_path, Pools()), []

    def flow_run(request: StageRequest, deployment: str, *_: Any) -> Any:
        asked.append(deployment)
        return SimpleNamespace(id=uuid4())

    monkeypatch.setattr(flows.container, "_flow_run", flow_run)
    request = plan.request(SFT, plan.identity(SFT, {}), {}, 1, tmp_path)
    flows.container._start(request, pool, uuid4(), SimpleNamespace())  # type: ignore[arg-type]
    assert asked == [name]


def test_every_deployment_that_a_run_may_come_to_need_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    api = SimpleNamespace(read_deployment_by_name=asked.append)
    monkeypatch.setattr(flows.container, "client", lambda: nullcontext(api))
    flows.container.check_deployments([("sft", "gpu-spot"), ("rm", "gpu-spot"), ("sft", "gpu-on-demand"), ("risk", "")])
    assert asked == ["stage/gpu-on-gpu-on-demand", "stage/gpu-on-gpu-spot", "stage/tabular"]
