"""Three customer tables of other firms, as a team describes its own: a German provider's export with semicolons and
decimal commas, a bank's cards, and the accounts of a firm that sells software. Rows are made up."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import yaml

from retain.dataset import DatasetSpec

# As Excel writes it in Germany: a byte order mark, semicolons, commas before the decimals, dates, a note.
PROVIDER = """
name: provider
title: Kunden eines Internetanbieters
source: {files: [kunden.csv], licence: our own, separator: ";", encoding: utf-8, decimal: ","}
target: {column: gekuendigt, positive: ja, negative: nein}
ignore: [vertragsbeginn, notiz]
roles: {id: kundennr, monthly_charge: monatspreis, tenure: monate, contract: laufzeit, do_not_contact: werbesperre}
columns:
  - {name: kundennr, kind: id}
  - {name: monate, kind: number, integer: true, minimum: 0, maximum: 600}
  - {name: monatspreis, kind: number, minimum: 0.01, maximum: 500, example: 39.99}
  - {name: laufzeit, kind: category, values: [monatlich, 12 Monate, 24 Monate]}
  - {name: downloadrate, kind: number, minimum: 0, missing: -1, blank: keep}
  - {name: werbesperre, kind: flag, values: [nein, ja]}
  - {name: anrede, kind: category, values: [Frau, Herr, ""], protected: true}
"""

# All pay the same for their card; what is not known of a customer stands there as Unknown or as NA.
CARDS = """
name: cards
title: Credit cards of a bank
source: {files: [cards.csv], licence: our own, separator: ",", encoding: utf-8}
target: {column: Attrition_Flag, positive: Attrited Customer, negative: Existing Customer}
roles: {id: CLIENTNUM, monthly_charge: Monthly_Fee, tenure: Months_on_book}
bridge:
  - {role: senior, column: Customer_Age, at_least: 60}
  - {role: partner, column: Marital_Status, equals: Married}
  - {role: paperless, column: Statements, equals: online}
columns:
  - {name: CLIENTNUM, kind: id}
  - {name: Customer_Age, kind: number, integer: true, minimum: 18, maximum: 110, protected: true, bands: [30, 45, 60]}
  - {name: Marital_Status, kind: category, values: [Married, Single, Divorced, Unknown], protected: true}
  - {name: Statements, kind: flag, values: [paper, online]}
  - {name: Months_on_book, kind: number, integer: true, minimum: 0}
  - {name: Monthly_Fee, kind: number, minimum: 0}
  - {name: Credit_Limit, kind: number, minimum: 0, blank: drop}
  - {name: Total_Trans_Ct, kind: number, integer: true, minimum: 0}
"""

# Codes that YAML would read as numbers, texts that it would read as true, an index that pandas wrote.
ACCOUNTS = """
name: accounts
title: Accounts of a software firm
source: {files: [accounts.csv], licence: our own, separator: "\\t", encoding: utf-8}
target: {column: churned, positive: "True", negative: "False"}
ignore: ["", signup_date, owner_email]
roles: {id: account, monthly_charge: mrr, tenure: age_months, total_charge: billed, name: contact_name}
columns:
  - {name: account, kind: id}
  - {name: contact_name, kind: text}
  - {name: region, kind: category, values: ["010", "020", "030"]}
  - {name: plan, kind: category, values: [starter, team, business]}
  - {name: mrr, kind: number, minimum: 0.5}
  - {name: age_months, kind: number, integer: true, minimum: 0}
  - {name: billed, kind: number, minimum: 0, blank: drop, blank_value: 0}
  - {name: seats, kind: number, integer: true, minimum: 1}
  - {name: nps, kind: number, minimum: -100, maximum: 100, missing: -999, blank: keep}
  - {name: sso, kind: flag, values: ["no", "yes"]}
"""

DESCRIPTIONS = {"provider": PROVIDER, "cards": CARDS, "accounts": ACCOUNTS}


def own_description(name: str) -> DatasetSpec:
    return DatasetSpec.model_validate_json(json.dumps(yaml.safe_load(DESCRIPTIONS[name])))


def own_columns(name: str, rows: int) -> dict[str, list[Any]]:
    """The columns of one of the three tables."""
    make = {"provider": _provider, "cards": _cards, "accounts": _accounts}[name]
    return make(np.random.default_rng([1, rows]), rows)


def own_file(name: str, columns: dict[str, list[Any]]) -> bytes:
    """The table's file of these columns."""
    out = io.StringIO()
    separator = own_description(name).source.separator
    writer = csv.writer(out, delimiter=separator, lineterminator="\r\n" if name == "provider" else "\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values()))
    return out.getvalue().encode("utf-8-sig" if name == "provider" else "utf-8")


def _left(rng: np.random.Generator, logit: Any, stays: str, leaves: str) -> list[Any]:
    return np.where(rng.random(len(logit)) < 1 / (1 + np.exp(-logit)), leaves, stays).tolist()


def _provider(rng: np.random.Generator, rows: int) -> dict[str, list[Any]]:
    months = rng.integers(0, 90, rows)
    price = np.round(rng.uniform(15, 80, rows), 2)
    contract = rng.choice(["monatlich", "12 Monate", "24 Monate"], rows)
    rate = np.round(rng.uniform(5, 250, rows), 1)
    logit = -1.2 + 1.3 * (contract == "monatlich") - 0.03 * months + 0.02 * (price - 40)
    return {
        "kundennr": [f"K{row:06d}" for row in range(rows)],
        "vertragsbeginn": [f"{1 + row % 28:02d}.{1 + row % 12:02d}.{2010 + row % 15}" for row in range(rows)],
        "monate": months.tolist(),
        "monatspreis": [f"{value:.2f}".replace(".", ",") for value in price],
        "laufzeit": contract.tolist(),
        "downloadrate": [["k.A.", "", "NULL", "-"][row % 4] if row % 9 == 0 else f"{value}".replace(".", ",")
                         for row, value in enumerate(rate)],
        "werbesperre": rng.choice(["nein", "ja"], rows, p=[0.9, 0.1]).tolist(),
        "anrede": rng.choice(["Frau", "Herr", ""], rows).tolist(),
        "notiz": ['rief an; "sehr\nunzufrieden"' if row % 50 == 0 else "" for row in range(rows)],
        "gekuendigt": _left(rng, logit, "nein", "ja"),
    }  # fmt: skip


def _cards(rng: np.random.Generator, rows: int) -> dict[str, list[Any]]:
    transactions = rng.poisson(65, rows)
    limit = np.round(rng.lognormal(8.6, 0.8, rows), 1)
    return {
        "CLIENTNUM": (768805383 + np.arange(rows)).tolist(),
        "Attrition_Flag": _left(rng, 4.4 - 0.09 * transactions, "Existing Customer", "Attrited Customer"),
        "Customer_Age": rng.integers(22, 80, rows).tolist(),
        "Marital_Status": rng.choice(["Married", "Single", "Divorced", "Unknown"], rows).tolist(),
        "Statements": rng.choice(["paper", "online"], rows).tolist(),
        "Months_on_book": rng.integers(6, 60, rows).tolist(),
        "Monthly_Fee": ["4.90"] * rows,
        "Credit_Limit": ["NA" if row % 40 == 0 else value for row, value in enumerate(limit.tolist())],
        "Total_Trans_Ct": transactions.tolist(),
    }


def _accounts(rng: np.random.Generator, rows: int) -> dict[str, list[Any]]:
    seats, age = rng.geometric(0.08, rows), rng.integers(0, 60, rows)
    plan = rng.choice(["starter", "team", "business"], rows)
    mrr = np.round(seats * np.where(plan == "starter", 5.0, np.where(plan == "team", 9.0, 15.0)), 2)
    nps = rng.integers(-100, 101, rows)
    return {
        "": list(range(rows)),
        "account": [f"acc-{row:05d}" for row in range(rows)],
        "contact_name": [["Ann Smith", "", "Lee"][row % 3] for row in range(rows)],
        "owner_email": [f"a{row}@example.com" for row in range(rows)],
        "region": rng.choice(["010", "020", "030"], rows).tolist(),
        "plan": plan.tolist(),
        "mrr": mrr.tolist(),
        "age_months": age.tolist(),
        "billed": [
            "" if months == 0 else round(charge * months, 2) for charge, months in zip(mrr.tolist(), age.tolist())
        ],
        "seats": seats.tolist(),
        "nps": [
            ["", "NaN", "None", "#N/A", "?"][row % 5] if row % 3 else value for row, value in enumerate(nps.tolist())
        ],
        "sso": rng.choice(["no", "yes"], rows).tolist(),
        "signup_date": [f"20{10 + row % 15}-0{1 + row % 9}-15T10:00:00Z" for row in range(rows)],
        "churned": _left(rng, -0.4 + 0.8 * (plan == "starter") - 0.03 * age - 0.008 * nps, "False", "True"),
    }
