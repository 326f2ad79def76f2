"""What is counted of the tables of the retention domain: coverage, its curves, metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.rlhf.retention.customers import Pools
from tasks.rlhf.retention.tables import Making, Row

if TYPE_CHECKING:
    from engine.stage import Metrics


def coverage(pools: Pools, tables: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Rows by table, part, half, situation and offer; how many customers of that part are in that situation."""
    keys = ("part", "half", "situation", "offer")
    counts = Counter((table, *(row.get(key, "") for key in keys)) for table, rows in tables.items() for row in rows)
    covered = []
    for (table, part, half, situation, offer), rows in sorted(counts.items()):
        customers = len(pools[part, half].get(situation, ()))
        row = {"table": table, "part": part, "half": half, "situation": situation, "offer": offer, "rows": rows}
        covered.append(row | {"customers": customers, "borrowed": 0 if customers else rows})
    return covered


def curves(coverage: Sequence[Row]) -> dict[str, list[Any]]:
    """Rows by offer (x), a group for each situation, a curve for each table's part."""
    totals: Counter[tuple[str, str, int]] = Counter()
    for row in coverage:
        totals[f"{row['table']}_{row['part']}", row["situation"], row["offer"]] += row["rows"]
    ordered = sorted(totals.items())
    return {
        "curve": [curve for (curve, _, _), _ in ordered],
        "x": [float(offer) for (_, _, offer), _ in ordered],
        "y": [float(rows) for _, rows in ordered],
        "low": [float("nan")] * len(ordered),
        "high": [float("nan")] * len(ordered),
        "group": [situation for (_, situation, _), _ in ordered],
    }


def metrics(making: Making, customers: int, tables: Mapping[str, Sequence[Row]], coverage: Sequence[Row]) -> Metrics:
    """Sizes, how much the good messages differ, lengths in words, and what was borrowed or refused."""
    targets = [row for row in tables["targets"] if row["part"] == "train"]
    good = [row["response"] for row in targets if not row["flaw"]]
    asked = [row["prompt"] for name in ("prompts", "probes") for row in tables[name]]
    endings = Counter(re.split(r"(?<=[.?!]) ", text)[-1] for text in good)
    kinds = Counter(row["flaw"] for row in tables["pairs"])
    values = {
        "customers": customers,
        **{name: len(rows) for name, rows in tables.items()},
        "targets_flawed": sum(bool(row["flaw"]) for row in targets) / len(targets),
        "distinct_messages": len(set(good)) / max(1, len(good)),
        "commonest_ending": max(endings.values(), default=0) / max(1, len(good)),
        "words": float(np.mean([len(text.split()) for text in good])) if good else 0.0,
        "prompt_words": float(np.mean([len(text.split()) for text in asked])),
        "prompt_words_most": max(len(text.split()) for text in asked),
        "length_auc": length_auc(tables["pairs"]),
        "borrowed": sum(row["borrowed"] for row in coverage),
        "refused": making.refused / making.made,
        **{f"pairs_{kind}": rows for kind, rows in sorted(kinds.items())},
    }
    return {name: {"value": float(value)} for name, value in values.items()}


def length_auc(pairs: Sequence[Row]) -> float:
    """How often the longer reply (in words) of a pair is the chosen one, ties half; without those flawed in length."""
    told = [row for row in pairs if row["flaw"] not in ("rambling", "cut_off")]
    more = [len(row["chosen"].split()) - len(row["rejected"].split()) for row in told]
    return float(np.mean(0.5 + 0.5 * np.sign(more))) if more else 0.5
