"""Made-up artifacts of the stage `decision`: every file that is read back, with figures that are easy to tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.artifact import ArtifactStore, ArtifactWriter
from engine.store import FolderStore

POLICIES = {  # NRR, NRR at risk, offer cost
    "no_contact": (0.60, 0.40, 0.0),
    "threshold": (0.64, 0.44, 0.019),
    "thompson_sampling": (0.65, 0.46, 0.030),
    "uplift_tree": (0.66, 0.50, 0.030),
    "lagrangian_ppo": (0.67, 0.52, 0.027),
    "dp_on_features": (0.672, 0.525, 0.028),
    "upper_bound": (0.676, 0.53, 0.0285),
}
CLAIRVOYANT = ("dp_on_features", "upper_bound")


def measure(value: float, half: float = 0.01) -> dict[str, Any]:
    return {"value": value, "ci": [value - half, value + half]}


def content() -> dict[str, Any]:
    """Name of a JSON file -> what is in it, to be changed by a test before it is written."""
    rows = []
    for name, (nrr, at_risk, cost) in POLICIES.items():
        kept = None if name == "upper_bound" else measure(0.0, 0.0)
        rows.append(
            {
                "policy": name,
                "nrr": measure(nrr),
                "lift": measure(nrr - 0.60),
                "nrr_at_risk": measure(at_risk),
                "exit_nrr": measure(nrr - 0.1),
                "offer_cost": measure(cost, 0.001),
                "attempted_overspend": None if name == "upper_bound" else measure(0.004, 0.002),
                "refused": None if name == "upper_bound" else measure(0.0321, 0.01),
                "executed_violations": kept,
                "over_cap": kept,
            }
        )
    gains = {
        "nrr_gain": measure(0.0152, 0.002),
        "nrr_gain_at_risk": measure(0.04, 0.005),
        "lift_gain": measure(0.1667, 0.03),
        "offer_cost_change": measure(-0.10, 0.01),
        "share_of_dp": measure(0.972, 0.01),
        "share_of_bound": measure(0.921, 0.01),
    }
    worlds = ("as_assumed", "acceptance_halved", "acceptance_doubled")
    played = [name for name in POLICIES if name not in CLAIRVOYANT]
    return {
        "policy": {},
        "terms": {
            "wallet": "expected",
            "budget": {"share": 0.03, "months": 12, "amount": 45_000.0},
            "offers": {"levels": [0, 5, 10, 20], "months": 6, "contact_cost": 1.0, "currency": "EUR"},
        },
        "comparison": {
            "part": "test",
            "customers": 2110,
            "at_risk": 800,
            "years": 20,
            "seeds": 5,
            "budget": 0.03,
            "best_baseline": "uplift_tree",
            "rows": rows,
            "gains": gains,
        },
        "worlds": [
            {
                "world": world,
                "rows": [
                    {
                        "policy": name,
                        "nrr": POLICIES[name][0],
                        "lift": POLICIES[name][0] - 0.60 - 0.01 * index,
                        "offer_cost": POLICIES[name][2],
                        "peak": 0.9731 if name == "lagrangian_ppo" else 0.9,
                        "over_cap": 0.0,
                        "fell_back": 0.75 if world == "acceptance_doubled" else 0.0,
                    }
                    for name in played
                ],
            }
            for index, world in enumerate(worlds)
        ],
        "budgets": [
            {"budget": budget, "policy": name, "nrr": 0.6 + lift, "lift": lift, "offer_cost": 0.9 * budget}
            for budget, lifts in ((0.02, (0.05, 0.055)), (0.03, (0.06, 0.07)))
            for name, lift in zip(("uplift_tree", "lagrangian_ppo"), lifts)
        ],
        "groups": [
            {
                "column": "gender",
                "value": value,
                "customers": customers,
                "rows": [
                    {"policy": name, "offer_share": 1.25, "lift": measure(POLICIES[name][0] - 0.6)} for name in played
                ],
            }
            for value, customers in (("Female", 1043), ("Male", 1067))
        ],
        "tuning": {
            "threshold": {"setting": {"threshold": 0.2345}, "nrr": 0.64, "cost": 0.019, "evaluations": [{}] * 24},
            "uplift_tree": {
                "setting": {"price": 0.4, "rounds": 60},
                "nrr": 0.66,
                "cost": 0.03,
                "evaluations": [{}] * 24,
            },
        },
        "off_policy": {
            "exploring": {
                "verdict": "go",
                "gain": measure(0.005, 0.002),
                "true_gain": 0.0045,
                "reasons": [],
                "estimates": {kind: measure(0.65) for kind in ("ips", "snips", "dm", "dr")},
                "effective": 412.0,
            },
            "deterministic": {
                "verdict": "inconclusive",
                "gain": measure(0.001, 0.02),
                "true_gain": 0.0045,
                "reasons": ["41.0% of what it would do was never done"],
                "estimates": {},
                "effective": 31.0,
            },
        },
        "metrics": gains
        | {
            "nrr_gain_at_risk_low": {"value": 0.035},
            "lift_gain_low": {"value": 0.1367},
            "attempted_overspend": {"value": 0.004},
            "violations_executed": {"value": 0.0},
            "over_cap": {"value": 0.0},
            "upper_bound": {"value": 0.0242},
            "upper_bound_at_risk": {"value": 0.06},
        },
    }


def curves() -> dict[str, list[float]]:
    """Of two seeds: NRR rises, entropy falls, validation customers are looked at every tenth iteration."""
    iterations = 60
    rows = [(seed, index) for seed in range(2) for index in range(iterations)]
    return {
        "seed": [seed for seed, _ in rows],
        "iteration": [index for _, index in rows],
        "nrr": [0.6 + 0.001 * index + 0.01 * seed for seed, index in rows],
        "validation": [0.61 + 0.001 * index if index % 10 == 9 else float("nan") for _, index in rows],
        "entropy": [1.2 - 0.01 * index for _, index in rows],
        "approx_kl": [0.004 for _ in rows],
    }


def publish(
    root: Path,
    experiment: str,
    scratch: Path,
    made: dict[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    fingerprint: str = "d" * 32,
) -> Path:
    """The folder of a complete artifact in the store at `root`; `files` replace what is written."""
    writer = ArtifactWriter(scratch / f"decision-{experiment}")
    for name, value in (content() if made is None else made).items():
        writer.json(f"{name}.json", value)
    writer.parquet("curves.parquet", curves())
    for name, data in (files or {}).items():
        writer.bytes(name, data)
    artifacts = ArtifactStore(FolderStore(root), experiment)
    artifacts.publish("decision", fingerprint, writer.folder)
    artifacts.set_current("decision", fingerprint)
    return root / artifacts.prefix("decision", fingerprint)
