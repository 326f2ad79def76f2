"""Where the stages of a run work, and what a machine there costs.

A run in containers sends the stages that compute on a GPU to one work pool of Prefect and all others to another one:
to `docker`, the engine of the machine that the run itself is on, or to rented machines of Google Cloud
(docs/GOOGLE_CLOUD.md). prefect.yaml has a deployment for each image on each pool that takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from engine.errors import ConfigError
from engine.prices import Prices
from tasks.config import Costs, Machine

CpuPool = Literal["docker", "cpu-spot"]
GpuPool = Literal["docker", "gpu-spot", "gpu-on-demand", "gpu-vertex"]


@dataclass(frozen=True)
class Pool:
    """A work pool of rented machines. `lasting`: the pool of the same machines that nobody takes away; `sold_as`: what
    the price list has before the machine's name."""

    name: str
    gpu: bool
    preemptible: bool
    lasting: str | None = None
    sold_as: str = ""


RENTED = {
    pool.name: pool
    for pool in (
        Pool("cpu-spot", gpu=False, preemptible=True),
        Pool("gpu-spot", gpu=True, preemptible=True, lasting="gpu-on-demand"),
        Pool("gpu-on-demand", gpu=True, preemptible=False),
        Pool("gpu-vertex", gpu=True, preemptible=True, sold_as="vertex:"),
    )
}


@dataclass(frozen=True)
class Pools:
    """Where a run's stages work: those that compute on a GPU, and all others."""

    cpu: CpuPool = "docker"
    gpu: GpuPool = "docker"


ON_THIS_MACHINE = Pools()


def is_unwitnessed(pool: str) -> bool:
    """Whether nobody sees the ends of a pool's containers, so that the attempts' own records count."""
    return pool in RENTED and bool(RENTED[pool].sold_as)


@dataclass(frozen=True)
class PricedMachine:
    """What an attempt works on. `pool`: of rented machines; empty for the machine of the run itself."""

    type: str
    usd_per_hour: float
    pool: str = ""


def machines_for(costs: Costs, pools: Pools, prices: Prices, *, gpu: bool, lasting: bool) -> list[PricedMachine]:
    """The machines that a stage may work on, the preferred one first. `gpu`: it computes on one. `lasting`: it has lost
    so many machines that it should get one that nobody takes away, if its pool has a sibling of such.

    Raises ConfigError for a machine without a price.
    """
    name = pools.gpu if gpu else pools.cpu
    if name == "docker":
        if not gpu:
            return [PricedMachine(costs.machines.local.type, costs.machines.local.usd_per_hour)]
        own = costs.machines.gpu
        return [PricedMachine(own.type, _price(costs, prices, own, own.type, preemptible=own.preemptible))]
    pool = RENTED[name]
    chosen = [pool]
    if lasting and pool.lasting is not None:
        chosen.insert(0, RENTED[pool.lasting])
    stated = costs.machines.gpu if gpu else costs.machines.cpu
    return [
        PricedMachine(
            stated.type,
            _price(costs, prices, stated, each.sold_as + stated.type, preemptible=each.preemptible),
            each.name,
        )
        for each in chosen
    ]


def stated_pools(environment: Mapping[str, str]) -> Pools:
    """Those of RETAIN_CPU_POOL and RETAIN_GPU_POOL. Raises ConfigError for a pool that such stages can't be sent to."""
    cpu, gpu = environment.get("RETAIN_CPU_POOL") or "docker", environment.get("RETAIN_GPU_POOL") or "docker"
    for variable, name, known in (
        ("RETAIN_CPU_POOL", cpu, get_args(CpuPool)),
        ("RETAIN_GPU_POOL", gpu, get_args(GpuPool)),
    ):
        if name not in known:
            raise ConfigError(f"{variable}={name}: wants one of {', '.join(known)}")
    return Pools(cast(CpuPool, cpu), cast(GpuPool, gpu))


def rented(pools: Pools) -> set[str]:
    """The work pools of rented machines that a run may come to use."""
    named = {pools.cpu, pools.gpu} & RENTED.keys()
    return named | {lasting for name in named if (lasting := RENTED[name].lasting) is not None}


def _price(costs: Costs, prices: Prices, machine: Machine, name: str, *, preemptible: bool) -> float:
    return prices.usd_per_hour(name, machine.gpu, costs.region, preemptible=preemptible)
