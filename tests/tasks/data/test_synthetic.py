from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from engine.errors import DataError
from retain.dataset import Column, DatasetSpec
from retain.features import Featurizer
from tasks.data import checks, synthetic, table, text

Described = Callable[[str], DatasetSpec]


@pytest.mark.parametrize(("name", "rows"), [("telco", 7043), ("bank", 41188)])
def test_made_up_rows_pass_the_checks_of_the_real_ones(name: str, rows: int, spec: Described) -> None:
    cells = text.parse(synthetic.csv(spec(name), 42), spec(name))
    checks.check(cells, spec(name))
    assert cells.rows == rows


@pytest.mark.parametrize("name", ["telco", "bank"])
def test_there_is_something_to_learn_and_not_too_much(name: str, spec: Described) -> None:
    columns, _ = table.typed(text.parse(synthetic.csv(spec(name), 42), spec(name)), spec(name), 6000, 42)
    features = np.nan_to_num(Featurizer.fit(spec(name)).transform(columns).astype(np.float64))
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    y = np.array(columns[spec(name).target.column]) == spec(name).target.positive
    model = LogisticRegression(max_iter=500).fit(features[::2], y[::2])
    assert 0.70 < roc_auc_score(y[1::2], model.predict_proba(features[1::2])[:, 1]) < 0.92
    assert 0.05 < y.mean() < 0.4


def test_a_seed_makes_the_same_bytes_and_another_makes_others(spec: Described) -> None:
    assert synthetic.csv(spec("telco"), 7) == synthetic.csv(spec("telco"), 7)
    assert synthetic.csv(spec("telco"), 7) != synthetic.csv(spec("telco"), 8)


@pytest.mark.parametrize(("name", "digest"), [("telco", "c553559ee71ff632"), ("bank", "741cf7402033ca4e")])
def test_what_is_generated_changes_with_its_version_only(name: str, digest: str, spec: Described) -> None:
    # Whoever changes a generator raises GENERATOR_VERSION, and then these: else stores hold another table's results.
    found = hashlib.sha256(synthetic.csv(spec(name), 42)).hexdigest()
    assert (synthetic.GENERATOR_VERSION, found[:16]) == (2, digest)


def test_a_table_without_a_generator_needs_its_data(spec: Described) -> None:
    with pytest.raises(DataError, match=r"there is no synthetic generator for 'grocer' as described\. Set RETAIN_DATA"):
        synthetic.csv(spec("telco").model_copy(update={"name": "grocer"}), 42)


def test_a_description_that_was_extended_has_no_generator(spec: Described) -> None:
    telco = spec("telco")
    assert synthetic.makes(telco)
    assert synthetic.makes(telco.model_copy(update={"columns": telco.columns[:-1]}))
    more = telco.model_copy(update={"columns": (*telco.columns, Column(name="seats", kind="number"))})
    commas = telco.model_copy(update={"source": telco.source.model_copy(update={"decimal": ","})})
    for extended in (more, commas):
        assert not synthetic.makes(extended)
        with pytest.raises(DataError, match="no synthetic generator for 'telco' as described"):
            synthetic.csv(extended, 42)


def test_every_cell_of_the_bridge_has_clients_and_customers_pay(spec: Described) -> None:
    """Else no year could be simulated with made-up customers."""
    bank, _ = table.typed(text.parse(synthetic.csv(spec("bank"), 42), spec("bank")), spec("bank"), 50_000, 42)
    age, marital, contact = (np.asarray(bank[name]) for name in ("age", "marital", "contact"))
    found = np.bincount(4 * (age >= 60) + 2 * (marital == "married") + (contact == "cellular"), minlength=8)
    assert found.min() >= 100
    assert {part.role for part in spec("telco").bridge} == {"senior", "partner", "paperless"}
    customers, _ = table.typed(text.parse(synthetic.csv(spec("telco"), 42), spec("telco")), spec("telco"), 50_000, 42)
    assert np.asarray(customers["MonthlyCharges"]).min() > 0
