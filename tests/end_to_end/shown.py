"""What Prefect shows of a run in containers, asked of its API: `python -m tests.end_to_end.shown RUN EXPERIMENT`, with
PREFECT_API_URL and RETAIN_STORE set, checks a run that somebody has started."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from engine import ledger
from engine.store import FolderStore

Ask = Callable[..., Any]  # method, path, json=...: what the server answers
Span = tuple[datetime, datetime]  # of a completed attempt's flow run
# Stages of the two branches, which need nothing of each other.
DECISION, TEXTS = ("decision",), ("sft", "rm", "judge", "ppo_text")


def check_shown(ask: Ask, run: str, store: Path, scope: str, *, branches: bool = True) -> dict[str, Any]:
    """Asserts that attempts are nested in their stages' tasks, that stages of both branches ran side by side, that the
    costs have keys, and that they add up to the ledger. Returns figures worth reading."""
    attempts = ask("POST", "/flow_runs/filter", json={"flow_runs": {"parent_flow_run_id": {"any_": [run]}}})
    tasks = ask("POST", "/task_runs/filter", json={"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
    by_id = {task["id"]: task for task in tasks}
    assert attempts
    for attempt in attempts:
        link = by_id[attempt["parent_task_run_id"]]
        (above,) = link["task_inputs"]["__parents__"]
        assert by_id[above["id"]]["name"] == attempt["parameters"]["stage"], attempt["name"]
    spans = {
        attempt["parameters"]["stage"]: (when(attempt["start_time"]), when(attempt["end_time"]))
        for attempt in attempts
        if attempt["state_type"] == "COMPLETED"
    }
    side_by_side = [(a, b) for a in DECISION for b in TEXTS if branches and overlap_s(spans[a], spans[b]) > 0]
    assert side_by_side or not branches, spans
    key = f"costs-{scope.replace('_', '-')}"
    kept = {}
    for name in (key, f"{key}-chart", f"{key}-budget"):
        (kept[name],) = ask("POST", "/artifacts/latest/filter", json={"artifacts": {"key": {"any_": [name]}}})
        assert kept[name]["flow_run_id"] == run
        assert len(str(kept[name]["data"])) < 1_000_000
    metered = sum(entry.metered_micro_usd for entry in ledger.entries(FolderStore(store), scope)) / 1e6
    shown = float(json.loads(kept[key]["data"])[-1]["Actual"].lstrip("$"))  # of the row of the total
    assert abs(shown - metered) < 0.000_051, "to four digits, of which a sum of floats may round a tie either way"
    makespan_s = (max(end for _, end in spans.values()) - min(start for start, _ in spans.values())).total_seconds()
    return {"attempts": len(attempts), "metered": metered, "makespan_s": makespan_s, "side by side": side_by_side}


def when(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)


def overlap_s(one: Span, other: Span) -> float:
    """Seconds for which both were at work; negative if there were seconds between them."""
    return (min(one[1], other[1]) - max(one[0], other[0])).total_seconds()


def main(run: str, experiment: str) -> None:
    api = os.environ["PREFECT_API_URL"]

    def ask(method: str, path: str, **more: Any) -> Any:
        answer = httpx.request(method, f"{api}{path}", timeout=30, trust_env=False, **more)
        answer.raise_for_status()
        return answer.json()

    print(check_shown(ask, run, Path(os.environ["RETAIN_STORE"]), experiment))


if __name__ == "__main__":
    main(*sys.argv[1:])
