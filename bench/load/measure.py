"""The load test: the service with each of its databases beside a bare echo, in turns, so that all of them are measured
on the same machine whoever else uses it meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from bench.load.requests import Body, Numbers, bodies, flood, paced, percentile, script
from bench.load.services import Running, answered, cores, postgresql

BARE, MEMORY, PRODUCT, FULL, POSTGRESQL = (
    "bare FastAPI echo",
    "without a database",
    "SQLite, normal",
    "SQLite, full",
    "PostgreSQL",
)
ROWS = 500  # different customers, each with many ids
ROUNDS, SECONDS, WARM_SECONDS = 7, 2.0, 2.0
PACED_SECONDS = 10.0
FLIGHT_SECONDS = 0.2  # until the learned arm has answered the last of a turn
FIRST = 0.25  # the share of a long load in which memory may still grow
GROWTH = 8.0  # MB

# name -> (limit, whether the value may at most be that); ratios are to the bare echo of the same turn.
LIMITS = {
    "requests/s, without a database": (0.60, False),
    "requests/s, SQLite normal": (0.45, False),
    "CPU a request, without a database": (2.0, True),
    "CPU a request, SQLite normal": (2.5, True),
    "p99 at half of capacity, ms": (15.0, True),
    "start to ready, s": (2.0, True),
    "memory of a worker with its arm, MB": (200.0, True),
    "failed or repeated": (0.0, True),
    "questions that the learned arm left unanswered, %": (1.0, True),
    "growth over the long load, MB": (GROWTH, True),
}


def load_test(release: Path, rows: Sequence[Mapping[str, Any]], column: str, long: int = 0) -> dict[str, Any]:
    """Of the release in that folder, with requests about `rows`, whose ids are in `column`. `long`: how many requests
    the product gets besides in one go, to see whether it grows. wrk and taskset have to be there."""
    core, other = cores()
    requests, numbers = bodies(rows[:ROWS], column), Numbers()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="retain-load-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        address = stack.enter_context(postgresql(other))
        services = {}
        for name, (kind, settings) in _services(folder, address).items():
            services[name] = Running(kind, release, settings, core)
            stack.callback(services[name].stop)
        turns = _turns(services, script(requests), other, numbers)
        results: dict[str, Any] = {"variants": {name: _summed(turns[name], turns[BARE]) for name in services}}
        product = services[PRODUCT]
        rate = results["variants"][PRODUCT]["requests/s"] / 2
        results["paced"] = _at_rate(product, requests, rate, numbers, other)
        results["memory_mb"] = {kind: used / 2**20 for kind, used in product.memory().items()}
        results["start_s"] = [service.seconds for name, service in services.items() if name != BARE]
        if long:
            results["long"] = _long(product, script(requests), other, numbers, long)
        product.stop()
        results["database_bytes"] = bytes_a_decision(folder / "normal.db")
    results["checks"] = checks(results)
    return results


def _services(folder: Path, address: str | None) -> dict[str, tuple[str, dict[str, str]]]:
    """name -> (kind, settings). What has no database of its own still has an admin process that opens one."""
    urls = {name: f"sqlite:///{folder}/{name}.db" for name in ("memory", "normal", "full")}
    services: dict[str, tuple[str, dict[str, str]]] = {
        BARE: ("bare", {}),
        MEMORY: ("memory", {"DATABASE_URL": urls["memory"]}),
        PRODUCT: ("product", {"DATABASE_URL": urls["normal"]}),
        FULL: ("product", {"DATABASE_URL": urls["full"], "RETAIN_SQLITE_SYNCHRONOUS": "full"}),
    }
    return services if address is None else services | {POSTGRESQL: ("product", {"DATABASE_URL": address})}


def _turns(services: Mapping[str, Running], lua: str, core: int, numbers: Numbers) -> dict[str, list[dict[str, Any]]]:
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in services}
    for service in services.values():
        flood(service.url, lua, WARM_SECONDS, core, numbers.take(10**6))
    for _ in range(ROUNDS):
        for name, service in services.items():
            turns[name].append(_turn(service, lua, core, numbers))
    return turns


def _turn(service: Running, lua: str, core: int, numbers: Numbers) -> dict[str, Any]:
    counted, before = service.counted(), service.cpu()
    result = flood(service.url, lua, SECONDS, core, numbers.take(10**6))
    after = service.cpu()
    time.sleep(FLIGHT_SECONDS)
    cpu = {kind: (after[kind] - before[kind]) / result["requests"] * 1e6 for kind in after}
    return {**result, "cpu_us": cpu, "counts": answered(counted, service.counted())}


def _summed(turns: Sequence[Mapping[str, Any]], bare: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The middle of the turns, and of their ratios to the turns of the bare echo beside them."""
    rates = [turn["requests"] / turn["seconds"] for turn in turns]
    costs = [sum(turn["cpu_us"].values()) for turn in turns]
    counts: dict[str, float] = {}
    for turn in turns:
        for name, count in turn["counts"].items():
            counts[name] = counts.get(name, 0.0) + count
    return {
        "requests": sum(turn["requests"] for turn in turns),
        "requests/s": median(rates),
        "cpu_us": median(costs),
        "of it": {kind: median(turn["cpu_us"][kind] for turn in turns) for kind in turns[0]["cpu_us"]},
        "rate_ratio": median(rate * each["seconds"] / each["requests"] for rate, each in zip(rates, bare)),
        "cpu_ratio": median(cost / sum(each["cpu_us"].values()) for cost, each in zip(costs, bare)),
        "p99_ms": median(turn["p99_ms"] for turn in turns),
        "failed": sum(turn["failed"] for turn in turns),
        "counts": counts,
    }


def _at_rate(service: Running, requests: Sequence[Body], rate: float, numbers: Numbers, core: int) -> dict[str, float]:
    with _undisturbed(core):
        result = asyncio.run(paced(f"{service.url}/retain", requests, rate, PACED_SECONDS, numbers.take(10**6)))
    measured = {f"p{percent}_ms": percentile(result.seconds, percent) * 1e3 for percent in (50, 95, 99)}
    return {"requests/s": rate, "requests": len(result.seconds), "failed": result.failed, **measured}


@contextmanager
def _undisturbed(core: int) -> Iterator[None]:
    """This process keeps to its core, and collects no garbage: its own pauses of 20 ms would be the service's."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        os.sched_setaffinity(0, before)


def _long(service: Running, lua: str, core: int, numbers: Numbers, count: int) -> dict[str, Any]:
    """Load until so many requests were answered, with the resident memory of worker and arm after each second."""
    sent, failed, samples = 0.0, 0.0, [(0.0, service.resident())]
    counted = service.counted()
    while sent < count:
        result = flood(service.url, lua, 5.0, core, numbers.take(10**6))
        sent, failed = sent + result["requests"], failed + result["failed"]
        samples.append((sent, service.resident()))
    time.sleep(FLIGHT_SECONDS)
    counts = answered(counted, service.counted())
    return {"requests": sent, "failed": failed, "counts": counts, "growth_mb": growth(samples), "samples": samples}


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """MB by which memory grew from the FIRST part of the requests to the last one, along a straight line through the
    samples (requests so far, bytes)."""
    last = samples[-1][0]
    settled = [sample for sample in samples if sample[0] >= FIRST * last]
    requests, used = np.array(settled, dtype=np.float64).T
    slope = np.polyfit(requests, used, 1)[0] if len(settled) > 1 else 0.0
    return float(slope * (last - requests[0]) / 2**20)


def bytes_a_decision(path: Path) -> float:
    """Of an SQLite file that nobody uses any more."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        decisions: int = connection.execute("SELECT count(*) FROM decision").fetchone()[0]
    return path.stat().st_size / decisions


def unanswered(counts: Mapping[str, float]) -> dict[str, float]:
    """Questions to the learned arm without an answer, in percent, by why."""
    failures = {name: count for name, count in counts.items() if name.startswith("arm ") and name != "arm answered"}
    asked = counts.get("arm answered", 0.0) + sum(failures.values())
    return {name.removeprefix("arm "): 100 * count / asked for name, count in failures.items()}


def checks(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every limit that was measured against, with its value and whether it is met."""
    variants, long = results["variants"], results.get("long")
    loads = [each for name, each in variants.items() if name != BARE] + ([long] if long else [])
    memory = results["memory_mb"]
    values = {
        "requests/s, without a database": variants[MEMORY]["rate_ratio"],
        "requests/s, SQLite normal": variants[PRODUCT]["rate_ratio"],
        "CPU a request, without a database": variants[MEMORY]["cpu_ratio"],
        "CPU a request, SQLite normal": variants[PRODUCT]["cpu_ratio"],
        "p99 at half of capacity, ms": results["paced"]["p99_ms"],
        "start to ready, s": median(results["start_s"]),
        "memory of a worker with its arm, MB": memory["worker"] + memory["arm"],
        "failed or repeated": results["paced"]["failed"]
        + sum(each["failed"] + each["counts"].get("again", 0.0) for each in loads),
        "questions that the learned arm left unanswered, %": max(
            sum(unanswered(each["counts"]).values()) for each in loads
        ),
    }
    if long:
        values["growth over the long load, MB"] = long["growth_mb"]
    return [
        {"name": name, "value": value, "limit": limit, "met": bool(value <= limit if at_most else value >= limit)}
        for name, value in values.items()
        for limit, at_most in [LIMITS[name]]
    ]


def tables(results: Mapping[str, Any]) -> list[Table]:
    first = Table(
        *("", "requests/s", "of bare", "CPU us", "of bare", "worker", "arm", "p99 ms", "arm unanswered"),
        title="One worker on one core, 16 connections",
    )
    for name, each in results["variants"].items():
        of = each["of it"]
        missed = ", ".join(f"{why} {percent:.2f} %" for why, percent in unanswered(each["counts"]).items())
        first.add_row(
            name,
            f"{each['requests/s']:.0f}",
            f"{each['rate_ratio']:.2f}",
            f"{each['cpu_us']:.0f}",
            f"{each['cpu_ratio']:.2f}",
            f"{of['worker']:.0f}",
            f"{of['arm']:.0f}",
            f"{each['p99_ms']:.1f}",
            "" if name == BARE else missed or "0 %",
        )
    second = Table("under load", "measured", "limit", "", title="The service under load")
    for check in results["checks"]:
        sign = "<=" if LIMITS[check["name"]][1] else ">="
        verdict = "met" if check["met"] else "NOT MET"
        second.add_row(check["name"], f"{check['value']:.2f}", f"{sign} {check['limit']:g}", verdict)
    second.add_row("bytes of database a decision", f"{results['database_bytes']:.0f}", "", "")
    second.add_row("p50 at half of capacity, ms", f"{results['paced']['p50_ms']:.2f}", "", "")
    return [first, second]
