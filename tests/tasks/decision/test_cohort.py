from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.errors import DataError
from retain.dataset import DatasetSpec
from retain.score import Scorer
from tasks.decision import cohort
from tasks.decision.cohort import load
from tasks.decision.simulator import check, dog_probability
from tests.tasks.decision.conftest import OFFERS, WORLD

ASSUMED = SimpleNamespace(
    label_months=3,
    answered=4,
    effect=[0.25, 0.55, 0.85, 1.25],
    effect_sd=0.2,
    hazard_sd=0.3,
    acceptance=SimpleNamespace(mean=0.3, at=10, shrink=0.5, slope=1.1, unit=5.0, slope_sd=0.2, fatigue=0.4),
    sleeping_dogs=SimpleNamespace(share=0.2, loyalty=0.5, rate=0.5, months=3),
    fatigue=SimpleNamespace(decay=0.6, rate=0.05),
)

Inputs = dict[str, Path]


def changed(inputs: Inputs, folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Inputs:
    """The same inputs, with one JSON file changed."""
    stage, file = name.split("/")
    shutil.copytree(inputs[stage], folder / stage)
    content = json.loads((folder / stage / file).read_text())
    change(content)
    (folder / stage / file).write_text(json.dumps(content))
    return inputs | {stage: folder / stage}


def column(inputs: Inputs, part: str, name: str, of: str = "customers/data.parquet") -> np.ndarray[Any, Any]:
    stage, file = of.split("/", 1)
    table = pq.read_table(inputs[stage] / file).to_pandas()
    return np.asarray(table[table["split"] == part][name])


def test_the_parts_are_those_of_the_split(inputs: Inputs) -> None:
    parts = {part: load(inputs, part, 12) for part in ("train", "validation")}
    for part, found in parts.items():
        assert found.ids.tolist() == column(inputs, part, "customerID").tolist()
        assert found.charge.tolist() == column(inputs, part, "MonthlyCharges").tolist()
    assert not set(parts["train"].ids) & set(parts["validation"].ids)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_at_the_start_risk_is_the_risk_stages_own_score(inputs: Inputs, part: str) -> None:
    """Out of fold for training customers: what the stage wrote down, not what its final trees say."""
    found = load(inputs, part, 12)
    written = column(inputs, part, "score", "risk/evidence/predictions.parquet")
    assert np.allclose(found.risk[:, 0], written, atol=1e-12)
    scorer = Scorer.load({name: inputs["risk"] / name for name in Scorer.FILES})
    columns = {name: column(inputs, part, name) for name in scorer.featurizer.sources}
    final = scorer.scores(scorer.featurizer.transform(columns))
    assert np.allclose(final, written, atol=1e-6) == (part != "train")


def test_risk_is_scored_again_as_customers_age(inputs: Inputs) -> None:
    found = load(inputs, "validation", 12)
    scorer = Scorer.load({name: inputs["risk"] / name for name in Scorer.FILES})
    columns = {name: column(inputs, "validation", name) for name in scorer.featurizer.sources}
    columns["tenure"] = columns["tenure"] + 7
    columns["TotalCharges"] = columns["TotalCharges"] + 7 * columns["MonthlyCharges"]
    assert np.allclose(found.risk[:, 7], scorer.scores(scorer.featurizer.transform(columns)), atol=1e-6)
    assert not np.allclose(found.risk[:, 7], found.risk[:, 0])


def test_margins_are_the_log_odds_of_the_risk(inputs: Inputs) -> None:
    found = load(inputs, "train", 3)
    assert found.margin.shape == found.risk.shape == (len(found), 3)
    assert np.allclose(1 / (1 + np.exp(-found.margin)), found.risk, atol=1e-6)
    assert np.isfinite(found.margin).all()


def test_a_policy_sees_no_protected_column_and_groups_are_kept_apart(inputs: Inputs) -> None:
    found = load(inputs, "train", 12)
    spec = DatasetSpec.model_validate_json((inputs["customers"] / "schema.json").read_text())
    protected = {one.name for one in spec.columns if one.protected}
    assert protected == {"gender", "SeniorCitizen", "Partner", "Dependents"}
    assert not {name.split("=")[0] for name in found.names} & protected
    assert {name for name, _ in found.groups} == protected
    for name in protected:
        members = np.array([who for (of, _), who in found.groups.items() if of == name])
        assert (members.sum(axis=0) == 1).all()
    senior = column(inputs, "train", "SeniorCitizen") == 1
    assert np.array_equal(found.groups["SeniorCitizen", "1"], senior)


def test_a_month_adds_to_tenure_and_to_what_was_charged(inputs: Inputs) -> None:
    found = load(inputs, "train", 12)
    grows = {name: found.growth[:, i] for i, name in enumerate(found.names) if found.growth[:, i].any()}
    assert set(grows) == {"tenure", "TotalCharges"}
    assert (grows["tenure"] == 1).all()
    assert np.allclose(grows["TotalCharges"], found.charge)


def test_acceptance_is_the_bridges_cell(inputs: Inputs) -> None:
    found = load(inputs, "train", 12)
    cells = json.loads((inputs["accept"] / "bridge.json").read_text())["cells"]
    who = (
        (column(inputs, "train", "SeniorCitizen") == 0)
        & (column(inputs, "train", "Partner") == "Yes")
        & (column(inputs, "train", "PaperlessBilling") == "No")
    )
    wanted = cells["0,1,0"]
    assert who.any()
    assert (found.acceptance[who] == wanted["acceptance"]).all()
    odds = wanted["acceptance"] * (1 - wanted["acceptance"])
    assert np.allclose(found.spread[who], wanted["sd"] / odds)


def test_the_levels_of_the_world_are_set_on_training_customers(inputs: Inputs) -> None:
    training = load(inputs, "train", 12)
    world = cohort.world(ASSUMED, training)
    weight = training.risk[:, 0] / training.risk[:, 0].sum()
    p = world.acceptance.probability(training.acceptance, training.spread, 10.0)
    assert weight @ p == pytest.approx(0.3, abs=1e-9)
    assert dog_probability(training, world).mean() == pytest.approx(0.2, abs=1e-9)


def test_an_empty_bridge_cell_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    def empty(bridge: dict[str, Any]) -> None:
        bridge["cells"]["0,1,0"]["rows"] = 0

    with pytest.raises(
        DataError, match=r"bridge cell 0,1,0 \(senior, partner, paperless\) has customers, but no client"
    ):
        load(changed(inputs, tmp_path, "accept/bridge.json", empty), "train", 12)


def test_a_table_without_the_bridges_roles_is_one_cell(inputs: Inputs, tmp_path: Path) -> None:
    def without(schema: dict[str, Any]) -> None:
        schema["bridge"] = []

    found = load(changed(inputs, tmp_path, "customers/schema.json", without), "train", 12)
    overall = json.loads((inputs["accept"] / "bridge.json").read_text())["overall"]
    assert (found.acceptance == overall).all()
    assert (found.spread > 0).all()


def test_a_part_without_customers_is_refused(inputs: Inputs) -> None:
    with pytest.raises(DataError, match="no customer is in the nowhere part"):
        load(inputs, "nowhere", 12)


def test_a_risk_that_is_no_number_names_its_customer(inputs: Inputs, tmp_path: Path) -> None:
    folder = tmp_path / "risk"
    shutil.copytree(inputs["risk"], folder)
    path = folder / "evidence" / "predictions.parquet"
    table = pq.read_table(path)
    margin = table["margin"].to_numpy().copy()
    first = int(np.flatnonzero(table["split"].to_numpy() == "validation")[2])
    margin[first] = np.nan
    pq.write_table(table.set_column(table.column_names.index("margin"), "margin", [margin]), path)
    name = table["id"].to_pylist()[first]
    with pytest.raises(DataError, match=f"customer {name}: the risk is not a number"):
        load(inputs | {"risk": folder}, "validation", 12)


def test_risk_of_other_customers_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    folder = tmp_path / "risk"
    shutil.copytree(inputs["risk"], folder)
    path = folder / "evidence" / "predictions.parquet"
    pq.write_table(pq.read_table(path).slice(5), path)
    with pytest.raises(DataError, match="scored on other customers"):
        load(inputs | {"risk": folder}, "train", 12)


# -- numbers that are missing
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_missing_number_is_the_median_of_training_customers_with_a_flag(gapped: Inputs, part: str) -> None:
    found = load(gapped, part, 12)
    income, train = column(gapped, part, "income"), column(gapped, "train", "income")
    seen = {name: found.features[:, at] for at, name in enumerate(found.names)}
    assert np.isfinite(found.features).all()
    assert found.medians["income"] == np.median(train[train >= 0])
    assert seen["income"].tolist() == np.where(income < 0, found.medians["income"], income).tolist()
    assert seen["income=missing"].tolist() == (income < 0).tolist()
    assert found.names[-3:] == ("tenure=missing", "TotalCharges=missing", "income=missing")


def test_a_missing_number_stays_missing_as_customers_age(gapped: Inputs) -> None:
    """To the trees it was 9999 + a month: a number."""
    found = load(gapped, "validation", 12)
    scorer = Scorer.load({name: gapped["risk"] / name for name in Scorer.FILES})
    columns = {name: column(gapped, "validation", name) for name in scorer.featurizer.sources}
    for name, more in (("tenure", 7.0), ("TotalCharges", 7 * column(gapped, "validation", "MonthlyCharges"))):
        grows = found.growth[:, found.names.index(name)]
        assert (grows[columns[name] == 9999] == 0).all()
        assert (grows[columns[name] != 9999] > 0).all()
        columns[name] = np.where(columns[name] == 9999, 9999, columns[name] + more)
    assert np.allclose(found.risk[:, 7], scorer.scores(scorer.featurizer.transform(columns)), atol=1e-6)


def test_a_missing_number_is_in_a_group_of_its_own(gapped: Inputs) -> None:
    found = load(gapped, "train", 12)
    ages = {name: who for (of, name), who in found.groups.items() if of == "age"}
    assert list(ages) == ["-inf to below 30", "30 to below 60", "60 to below inf", "missing"]
    assert ages["missing"].tolist() == (column(gapped, "train", "age") == -1).tolist()
    assert (np.array(list(ages.values())).sum(axis=0) == 1).all()


def test_a_number_that_no_training_customer_has_is_refused(gapped: Inputs, tmp_path: Path) -> None:
    shutil.copytree(gapped["customers"], tmp_path / "customers")
    data = pq.read_table(tmp_path / "customers" / "data.parquet").to_pandas()
    data.loc[data["split"] == "train", "income"] = -99999
    data.to_parquet(tmp_path / "customers" / "data.parquet")
    with pytest.raises(DataError, match="column 'income' is missing for every training customer"):
        load(gapped | {"customers": tmp_path / "customers"}, "validation", 12)


def test_a_network_is_never_shown_what_is_not_finite(inputs: Inputs) -> None:
    found = load(inputs, "train", 3)
    found.features[5, found.names.index("tenure")] = np.nan
    with pytest.raises(DataError, match=f"customer {found.ids[5]}: feature 'tenure' is not finite"):
        check(found, WORLD, OFFERS, 100.0)
