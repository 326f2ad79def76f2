"""An experiment that is retrained in tests, and changes of the table that it reads."""

from __future__ import annotations

import csv
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from flows.plan import load_experiment
from tasks.data.table import split

TAG = "weekly"
TABLE = "Telco-Customer-Churn.csv"
# As `chaos`, but no release is kept back by what stages of seconds can't learn, so that the comparison decides.
EXPERIMENT = """\
extends: chaos
tag: weekly
stages:
  customers: {max_rows: 1000000}
criteria:
  risk: {auc: {at_least: 0.5}, ece: {below: 0.5}}
  decision: {attempted_overspend: {at_most: 1000.0}, over_cap: {below: 1000.0}}
costs: {budget_usd: 8, scope: "weekly/{month}"}
"""


def from_chaos(store: Path) -> None:
    """Makes artifacts of `chaos` those of this experiment, but for the release: they differ by their folder alone."""
    os.rename(store / "chaos", store / TAG)
    shutil.rmtree(store / TAG / "release")


def change_rows(table: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> None:
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), list(reader.fieldnames or ())
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(change(rows))


def one_more(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """With a customer who came since; of the test part, so that no model learns from her."""
    names = [f"9999-{number:05d}" for number in range(100)]
    newcomer = names[parts_of(names).index("test")]
    return [*rows, rows[0] | {"customerID": newcomer}]


def with_labels_shuffled(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Of three in four customers of the training part, so that a release can be made of what is left. Those that
    models are measured by keep what is true of them."""
    parts = parts_of([row["customerID"] for row in rows])
    trained = [row for place, (row, part) in enumerate(zip(rows, parts)) if part == "train" and place % 4]
    labels = [row["Churn"] for row in trained]
    random.Random(19).shuffle(labels)
    for row, label in zip(trained, labels):
        row["Churn"] = label
    return rows


def parts_of(names: list[str]) -> list[str]:
    """Which part of the split each customer is in."""
    experiment = load_experiment("chaos")
    parts: list[str] = split(names, experiment.stages.customers.split, experiment.seed).tolist()
    return parts
