"""Made-up tables of the same columns, for a machine without data and network: seeded, plausible, and said to be so.

The marginals are rough readings of the public tables; the target follows a few of the columns, strongly
enough that a model has something to find (AUC of about .8) and no more. Nothing measured on these rows says
anything about customers.
"""

from __future__ import annotations

import csv as csv_
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import DataError
from retain.dataset import DatasetSpec

# Part of a synthetic source's identity: raise it with every change of what is generated.
GENERATOR_VERSION = 2

Columns = dict[str, Any]


def makes(spec: DatasetSpec) -> bool:
    """Whether there is a generator of the table: of its name, its columns and its decimal sign."""
    if spec.name not in _TABLES or spec.source.decimal != ".":
        return False
    make, _ = _TABLES[spec.name]
    return {column.name for column in spec.columns} <= make(np.random.default_rng(0), 50).keys()


def csv(spec: DatasetSpec, seed: int) -> bytes:
    """A CSV file as `spec` describes it; DataError for a table that has no generator."""
    if not makes(spec):
        raise DataError(
            f"{spec.source.files[0]}: not found, and there is no synthetic generator for {spec.name!r} as described. "
            "Set RETAIN_DATA_DIR to a folder that has it"
        )
    make, rows = _TABLES[spec.name]
    columns = make(np.random.default_rng([seed, GENERATOR_VERSION]), rows)
    header = [*(column.name for column in spec.columns), spec.target.column]
    out = io.StringIO()
    writer = csv_.writer(out, delimiter=spec.source.separator, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(zip(*(columns[name] for name in header)))
    return out.getvalue().encode(spec.source.encoding)


def telco(rng: np.random.Generator, rows: int) -> Columns:
    """Customers of a telephone company: new ones on monthly contracts with fibre leave most."""
    tenure = np.clip(rng.gamma(1.1, 30.0, rows).astype(np.int64), 1, 72)
    tenure[rng.choice(rows, size=max(1, rows // 640), replace=False)] = 0
    contract = np.where(rng.random(rows) < tenure / 110, _pick(rng, rows, ["One year", "Two year"]), "Month-to-month")
    internet = _pick(rng, rows, ["DSL", "Fiber optic", "No"], [0.34, 0.44, 0.22])
    phone = np.where(internet == "No", "Yes", _pick(rng, rows, ["No", "Yes"], [0.12, 0.88]))
    extras = ["OnlineSecurity", "OnlineBackup", "DeviceProtection", "TechSupport", "StreamingTV", "StreamingMovies"]
    taste = rng.normal(size=rows)
    services = {
        name: np.where(
            internet == "No", "No internet service", np.where(taste + rng.normal(size=rows) > 0.3, "Yes", "No")
        )
        for name in extras
    }
    lines = np.where(phone == "No", "No phone service", _pick(rng, rows, ["No", "Yes"], [0.53, 0.47]))
    payment = _pick(
        rng, rows, ["Bank transfer (automatic)", "Credit card (automatic)", "Electronic check", "Mailed check"],
        [0.22, 0.22, 0.33, 0.23],
    )  # fmt: skip
    charge = 20.0 + 25.0 * (internet == "DSL") + 50.0 * (internet == "Fiber optic") + 5.0 * (lines == "Yes")
    charge += sum(5.0 * (services[name] == "Yes") for name in extras) + rng.normal(0, 2.0, rows)
    charge = np.round(np.clip(charge, 18.25, 118.75), 2)
    total = np.round(np.maximum(charge * tenure * rng.normal(1, 0.03, rows), charge), 2)
    senior = (rng.random(rows) < 0.16).astype(np.int64)
    logit = 0.0 - 2.4 * (contract == "Two year") - 1.5 * (contract == "One year") - 0.045 * tenure
    logit += 1.2 * (internet == "Fiber optic") - 1.2 * (internet == "No") + 0.5 * (payment == "Electronic check")
    logit += -0.5 * (services["TechSupport"] == "Yes") - 0.5 * (services["OnlineSecurity"] == "Yes") + 0.2 * senior
    return {
        "customerID": [f"{row:04d}-SYNTH" for row in range(rows)],
        "gender": _pick(rng, rows, ["Female", "Male"]),
        "SeniorCitizen": senior,
        "Partner": _pick(rng, rows, ["No", "Yes"]),
        "Dependents": _pick(rng, rows, ["No", "Yes"], [0.7, 0.3]),
        "tenure": tenure,
        "PhoneService": phone,
        "MultipleLines": lines,
        "InternetService": internet,
        **services,
        "Contract": contract,
        "PaperlessBilling": _pick(rng, rows, ["No", "Yes"], [0.41, 0.59]),
        "PaymentMethod": payment,
        "MonthlyCharges": charge,
        "TotalCharges": [" " if months == 0 else value for months, value in zip(tenure, total)],
        "Churn": _answer(rng, logit, "No", "Yes"),
    }


def bank(rng: np.random.Generator, rows: int) -> Columns:
    """Calls of a bank in date order: the economy worsens and the share of yes rises, as in the public table."""
    time = np.linspace(0.0, 1.0, rows)
    age = np.clip(rng.gamma(14.0, 2.9, rows).astype(np.int64), 17, 98)
    months = np.array(["may", "jun", "jul", "aug", "nov", "apr", "may", "jul", "aug", "oct", "mar", "sep", "dec"])
    before = rng.random(rows) < 0.02 + 0.35 * time**3
    success = before & (rng.random(rows) < 0.25 + 0.25 * time)
    recent = success & (rng.random(rows) < 0.95)
    cellular = rng.random(rows) < 0.25 + 0.7 * time
    euribor = np.round(4.9 - 4.2 / (1 + np.exp(-14 * (time - 0.66))) + rng.normal(0, 0.01, rows), 3)
    step = np.floor(time * 10) / 10
    job = _pick(
        rng, rows, ["admin.", "blue-collar", "entrepreneur", "housemaid", "management", "retired", "self-employed",
                    "services", "student", "technician", "unemployed", "unknown"],
        [0.25, 0.22, 0.04, 0.03, 0.07, 0.04, 0.03, 0.1, 0.02, 0.16, 0.03, 0.01],
    )  # fmt: skip
    campaign = rng.geometric(0.45, rows)
    logit = -3.2 + 1.9 * time**2 + 1.9 * success + 0.5 * cellular + 0.6 * (age >= 60) - 0.08 * campaign
    logit += 0.7 * np.isin(job, ["student", "retired"]) - 0.4 * (job == "blue-collar")
    answer = _answer(rng, logit, "no", "yes")
    return {
        "age": age,
        "job": job,
        "marital": _pick(rng, rows, ["divorced", "married", "single", "unknown"], [0.11, 0.605, 0.28, 0.005]),
        "education": _pick(
            rng, rows, ["basic.4y", "basic.6y", "basic.9y", "high.school", "illiterate", "professional.course",
                        "university.degree", "unknown"],
            [0.1, 0.055, 0.145, 0.23, 0.001, 0.129, 0.3, 0.04],
        ),
        "default": _pick(rng, rows, ["no", "unknown", "yes"], [0.79, 0.2099, 0.0001]),
        "housing": _pick(rng, rows, ["no", "unknown", "yes"], [0.45, 0.02, 0.53]),
        "loan": _pick(rng, rows, ["no", "unknown", "yes"], [0.83, 0.02, 0.15]),
        "contact": np.where(cellular, "cellular", "telephone"),
        "month": months[np.minimum((time * len(months)).astype(np.int64), len(months) - 1)],
        "day_of_week": _pick(rng, rows, ["mon", "tue", "wed", "thu", "fri"]),
        "duration": (rng.gamma(1.3, 190.0, rows) * np.where(answer == "yes", 2.2, 1.0)).astype(np.int64),
        "campaign": campaign,
        "pdays": np.where(recent, rng.integers(1, 28, rows), 999),
        "previous": np.where(before, rng.geometric(0.8, rows), 0),
        "poutcome": np.where(success, "success", np.where(before, "failure", "nonexistent")),
        "emp.var.rate": np.round(1.4 - 4.8 * step, 1),
        "cons.price.idx": np.round(94.2 - 1.5 * step + 0.3 * np.sin(9 * step), 3),
        "cons.conf.idx": np.round(-42.0 + 9 * np.sin(5 * step), 1),
        "euribor3m": euribor,
        "nr.employed": np.round(5228.1 - 260 * step, 1),
        "y": answer,
    }  # fmt: skip


_TABLES = {"telco": (telco, 7_043), "bank": (bank, 41_188)}


def _pick(
    rng: np.random.Generator, rows: int, values: Sequence[str], shares: Sequence[float] | None = None
) -> NDArray[Any]:
    return rng.choice(np.array(values), size=rows, p=shares)


def _answer(rng: np.random.Generator, logit: NDArray[np.float64], no: str, yes: str) -> NDArray[Any]:
    return np.where(rng.random(len(logit)) < 1 / (1 + np.exp(-logit)), yes, no)
