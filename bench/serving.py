"""What a customer costs the service, and whether served scores are training's.

    python bench/serving.py [--experiment local] [--requests N]

Reads the experiment's current release, risk and accept from the store (RETAIN_STORE), so `make run` comes first.
Prints CPU microseconds per customer (features, risk, bridge and decision against their limit, for the baseline's arm
and the learned one; the policy and the wallet against limits of their own; the rest apart), the largest difference to
XGBoost's own margins and calibrated scores over every row of both tables, and, where `wrk` is installed, what the
service does under load beside a bare FastAPI echo (bench/load). Writes bench/results/serving.json.

With `--requests 200000` it gets so many requests besides, to see whether it grows; that takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import uvloop
import xgboost
from rich.console import Console
from rich.table import Table

from bench.load.measure import load_test, tables
from bench.load.requests import CONNECTIONS
from bench.load.worker import MemoryState
from engine.artifact import ArtifactStore, open_artifact
from engine.store import open_store, store_url
from retain.dataset import DatasetSpec
from retain.decision import Arm, decide, observe, pace, price
from retain.parts import Part
from retain.release import Release, load, with_part
from retain.request import request_columns
from retain.score import Scorer
from serve.app import create_app
from serve.metrics import Metrics
from serve.schema import RequestReader, parse
from serve.service import Service
from serve.writer import Writer

ROOT = Path(__file__).resolve().parent.parent
# CPU microseconds: what a customer may cost (features, risk, bridge, decision), and of it the policy and the wallet.
LIMITS = {"scoring": 60.0, "scoring, learned": 60.0, "policy": 15.0, "wallet": 60.0}
PLENTY = 1e12  # a budget that no benchmark uses up: an offer admitted costs more than one refused
MARGIN_LIMIT, SCORE_LIMIT, SCORE_SHARE = 1e-6, 1e-5, 0.999
CUSTOMERS, REPEATS = 2_000, 7
NEEDED = ("customers", "campaigns", "risk", "accept", "release")  # stages


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default=os.environ.get("EXPERIMENT") or "local")
    parser.add_argument("--requests", type=int, default=0, help="of a long load besides, to see whether it grows")
    options = parser.parse_args()
    experiment = options.experiment
    artifacts = ArtifactStore(open_store(store_url()), experiment)
    stages = (*NEEDED, "decision")
    folders = {stage: folder for stage in stages if (folder := artifacts.folder_of_current(stage)) is not None}
    lacking = [stage for stage in NEEDED if stage not in folders]
    if lacking:
        where = f"{artifacts.store.url}: experiment {experiment}"
        print(f"{where} has no {', '.join(lacking)}: run `make run` first", file=sys.stderr)
        return 2
    release = load(open_artifact(folders["release"]))
    release = replace(release, parts=_served(release))
    if release.policy is None and "decision" in folders:  # left out of the release: it costs as much all the same
        release = with_part(release, "decision", open_artifact(folders["decision"]))
    data = {"risk": _rows(folders["customers"]), "accept": _rows(folders["campaigns"])}
    costs = cpu_per_customer(release, data)
    parity = {part: parity_of(part, folders[part], *data[part]) for part in data}
    loaded = under_load(folders["release"], *data["risk"], options.requests)
    results = {"experiment": experiment, "cpu_us": costs, "parity": parity, "load": loaded}
    show(results)
    out = ROOT / "bench" / "results" / "serving.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    met = all(costs[name] <= limit for name, limit in LIMITS.items() if name in costs)
    met = met and all(check["met"] for check in (loaded or {"checks": ()})["checks"])
    return 0 if met and all(part["met"] for part in parity.values()) else 1


def under_load(release: Path, spec: DatasetSpec, rows: list[dict[str, Any]], long: int) -> dict[str, Any] | None:
    """None where wrk isn't installed, or customers have no id to be told apart by."""
    if shutil.which("wrk") is None or "id" not in spec.roles:
        return None
    return load_test(release, rows, spec.roles["id"], long)


def _served(release: Release) -> dict[str, Part]:
    """Its parts as if each had met its criteria: what is shown to nobody costs as much as what is."""
    return {name: part.model_copy(update={"standing": "served"}) for name, part in release.parts.items()}


def _rows(folder: Path) -> tuple[DatasetSpec, list[dict[str, Any]]]:
    files = open_artifact(folder)
    spec = DatasetSpec.model_validate_json(files["schema.json"].read_bytes())
    names = [column.name for column in request_columns(spec)]
    columns = pq.read_table(files["data.parquet"], columns=names).to_pydict()
    return spec, [dict(zip(names, values)) for values in zip(*(columns[name] for name in names))]


# -- cost ----------------------------------------------------------------------------------------------------------


def cpu_us(work: Callable[[int], object], n: int) -> float:
    """CPU microseconds per call of work(i) for i < n; the best of several rounds, since others use the machine too."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        for i in range(n):
            work(i)
        best = min(best, (time.process_time() - started) / n)
    return best * 1e6


def cpu_per_customer(release: Release, data: dict[str, tuple[DatasetSpec, list[dict[str, Any]]]]) -> dict[str, float]:
    """Of both arms, if the release has a policy; its own terms, but a wallet that is never empty, and every message
    approved."""
    approved = {entry.text: "approved" for bank in release.banks.values() for entry in bank.entries}
    release = replace(release, terms=replace(release.terms, budget=PLENTY), verdicts=approved)
    rows = data["risk"][1][:CUSTOMERS]
    campaigns = data["accept"][1][:CUSTOMERS]
    n = min(len(rows), len(campaigns))
    terms, wallet = release.terms, release.terms.new_wallet()
    assessments = [release.assess(row) for row in rows]
    x, cases = [assessment.features for assessment in assessments], [assessment.case for assessment in assessments]
    decisions = [decide(terms, case, terms.new_wallet()) for case in cases]
    contacts = [i for i, decision in enumerate(decisions) if decision.action == "contact"]
    texts = [message.text for i in contacts if (message := release.message(assessments[i], decisions[i]))]
    bodies = [json.dumps({"customer": row}).encode() for row in rows]
    prices = [price(terms, case, terms.offer) for case in cases]
    arms: list[Arm] = ["baseline"] if release.policy is None else ["baseline", "learned"]
    costs = {
        "features": cpu_us(lambda i: release.risk.features(rows[i]), n),
        "risk": cpu_us(lambda i: release.risk.score(x[i]), n),
        "bridge": cpu_us(lambda i: release.bridge.score(rows[i]), n),
        "decision": cpu_us(lambda i: decide(terms, cases[i], wallet), n),
    }
    costs["scoring"] = sum(costs.values())
    if release.policy is not None:
        policy, seen = release.policy, [observe(case, 0.0) for case in cases]
        shared = costs["features"] + costs["risk"] + costs["bridge"]
        costs["policy"] = cpu_us(lambda i: policy.best(seen[i]), n)
        costs["observation"] = cpu_us(lambda i: observe(cases[i], pace(wallet, 1.0)), n)
        costs["decision, learned"] = cpu_us(lambda i: decide(terms, cases[i], wallet, policy), n)
        costs["scoring, learned"] = shared + costs["decision, learned"]
    costs["wallet"] = cpu_us(lambda i: wallet.admit_one(*prices[i]), n)
    costs["wallet's price"] = cpu_us(lambda i: price(terms, cases[i], terms.offer), n)
    costs |= {f"scoring in one call, {arm}": _one_call(release, rows, n, arm) for arm in arms}
    costs |= {
        "full acceptance model": cpu_us(lambda i: release.accept.score(release.accept.features(campaigns[i])), n),
        "reasons": cpu_us(lambda i: release.risk.reasons(x[i]), n),
    }
    reader = RequestReader(release.spec, terms)
    costs |= {
        "request's JSON": cpu_us(lambda i: parse(bodies[i]), n),
        "request read and checked": cpu_us(lambda i: reader.read(bodies[i]), n),
        "whole handler, without a database": uvloop.run(_handler_us(release, bodies[:n])),
    }
    if contacts:
        costs["message"] = cpu_us(
            lambda k: release.message(assessments[contacts[k]], decisions[contacts[k]]), len(contacts)
        )
        judge = release.guard.rules.check  # without what is remembered of texts judged before
        costs["message's rules"] = cpu_us(lambda k: judge(texts[k], terms.offer, terms.offers.months), len(texts))
    return costs


def _one_call(release: Release, rows: list[dict[str, Any]], n: int, arm: Arm) -> float:
    wallet = release.terms.new_wallet()
    return cpu_us(lambda i: release.decide(release.assess(rows[i]), wallet, 1.0, arm), n)


async def _handler_us(release: Release, bodies: list[bytes]) -> float:
    """The application from a request's scope to its last byte sent, without a server around it, nor a learned arm
    beside it: as many requests at once as the load test has connections."""
    state: Any = MemoryState(release.terms)
    service = Service("bench", release, Metrics(), Writer(state))
    app = create_app(service)
    await service.start()
    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/retain", "raw_path": b"/retain", "query_string": b"", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    statuses = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def answer(body: bytes) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        await app(dict(scope), receive, send)

    best = float("inf")
    for _ in range(REPEATS):
        started = time.process_time()
        for first in range(0, len(bodies), CONNECTIONS):
            await asyncio.gather(*map(answer, bodies[first : first + CONNECTIONS]))
        best = min(best, (time.process_time() - started) / len(bodies))
    await service.stop()
    assert set(statuses) == {200}
    return best * 1e6


# -- parity --------------------------------------------------------------------------------------------------------


def parity_of(part: str, folder: Path, spec: DatasetSpec, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Every row, one at a time as in the service, against XGBoost on the same model and against what training wrote."""
    files = open_artifact(folder)
    scorer = Scorer.load(files)
    columns = {column.name: np.array([row[column.name] for row in rows]) for column in scorer.featurizer.columns}
    booster = xgboost.Booster()
    booster.load_model(bytearray(files["model.json"].read_bytes()))
    expected = booster.predict(xgboost.DMatrix(scorer.featurizer.transform(columns)), output_margin=True)
    margins = np.array([scorer.trees.margin(scorer.features(row)) for row in rows])
    calibration = json.loads(files["calibration.json"].read_bytes())
    calibrated = np.interp(expected.astype(np.float64), calibration["margin"], calibration["score"])
    scores = np.array([scorer.calibration.one(float(margin)) for margin in margins])
    evidence = pq.read_table(files["evidence/predictions.parquet"]).to_pydict()
    final = np.array(evidence["fold"]) == -1  # the others were scored out of fold, by other trees
    measured = {
        "rows": len(rows),
        "max margin difference": float(np.abs(margins - expected).max()),
        "bit-equal margins": float(np.mean(margins == expected)),
        "scores within 1e-5": float(np.mean(np.abs(scores - calibrated) <= SCORE_LIMIT)),
        "max score difference": float(np.abs(scores - calibrated).max()),
        "max difference to training's own evidence": float(np.abs(scores - np.array(evidence["score"]))[final].max()),
    }
    met = measured["max margin difference"] <= MARGIN_LIMIT and measured["scores within 1e-5"] >= SCORE_SHARE
    return {"table": spec.name, **measured, "met": bool(met)}


# -- tables --------------------------------------------------------------------------------------------------------


def show(results: dict[str, Any]) -> None:
    console = Console(width=110)
    table = Table("CPU per customer", "us", "", title="What a customer costs the service")
    for name, cost in results["cpu_us"].items():
        limit = f"limit {LIMITS[name]:.0f}: {'met' if cost <= LIMITS[name] else 'NOT MET'}" if name in LIMITS else ""
        table.add_row(name, f"{cost:.1f}", limit, end_section=name in ("scoring", "scoring, learned"))
    console.print(table)
    table = Table("", *results["parity"], title="Served scores against training's")
    for key in next(iter(results["parity"].values())):
        values = [part[key] for part in results["parity"].values()]
        table.add_row(key, *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values))
    console.print(table)
    if results["load"] is None:
        console.print("under load: not measured, wrk is not installed, or customers have no id")
    else:
        for table in tables(results["load"]):
            console.print(table)


if __name__ == "__main__":
    raise SystemExit(main())
