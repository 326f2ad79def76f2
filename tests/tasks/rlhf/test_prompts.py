from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.errors import DataError
from engine.stage import Metrics, Workspace
from retain.dataset import DatasetSpec, protected_columns
from retain.message import SITUATIONS
from retain.rules import Rules
from tasks.config import PromptsConfig, RiskConfig
from tasks.rlhf import prompts
from tasks.rlhf.retention import customers, domain, figures
from tasks.tabular import risk
from tests.words import WORDS, check, unsafe

OFFERS = (0, 5, 10, 20)
CONFIG = PromptsConfig(
    offers=OFFERS,
    months=6,
    facts=2,
    invited=0.1,
    gives_in=0.8,
    targets=300,
    flawed=0.18,
    validation_targets=60,
    pairs=240,
    held_out_pairs=120,
    same_reply=0.6,
    train_prompts=200,
    validation_prompts=48,
    test_prompts=72,
    probes=100,
    phrases=WORDS.phrases,
    rules=WORDS.rules,
)
INVITATIONS = WORDS.phrases.invitations
RISK: dict[str, Any] = {
    "booster": {
        "max_depth": 2,
        "learning_rate": 0.3,
        "subsample": 0.8,
        "colsample_bytree": 0.8,
        "min_child_weight": 1.0,
        "reg_lambda": 1.0,
        "max_rounds": 15,
        "early_stopping_rounds": 5,
    },
    "folds": 2,
    "stop_fraction": 0.1,
    "bootstrap": 100,
    "ece_bins": 15,
    "chance_draws": 200,
}
Inputs = dict[str, Path]
Make = Callable[..., Workspace]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def inputs(tables: Inputs, workspace: Make, tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    root = tmp_path_factory.mktemp("asked")
    risk.run(RiskConfig.model_validate(RISK), tables, workspace(root / "risk"))
    return {"customers": tables["customers"], "risk": root / "risk"}


@pytest.fixture(scope="session")
def made(inputs: Inputs, workspace: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Metrics]:
    folder = tmp_path_factory.mktemp("prompts")
    return folder, prompts.run(CONFIG, inputs, workspace(folder))


def table(made: tuple[Path, Metrics], name: str, part: str | None = None) -> Rows:
    rows: Rows = pq.read_table(made[0] / f"{name}.parquet").to_pylist()
    return [row for row in rows if part in (None, row["part"])]


def changed(inputs: Inputs, folder: Path, change: Callable[[pa.Table, dict[str, Any]], pa.Table]) -> Inputs:
    """Inputs whose customers' table, or its description, is another."""
    shutil.copytree(inputs["customers"], folder / "customers")
    spec = json.loads((inputs["customers"] / "schema.json").read_text())
    rows = change(pq.read_table(inputs["customers"] / "data.parquet"), spec)
    pq.write_table(rows, folder / "customers" / "data.parquet")
    (folder / "customers" / "schema.json").write_text(json.dumps(spec))
    return {**inputs, "customers": folder / "customers"}


def less(**counts: int) -> PromptsConfig:
    few = dict.fromkeys(("targets", "pairs", "held_out_pairs", "train_prompts", "probes"), 24)
    return CONFIG.model_copy(
        update={**few, "validation_targets": 4, "validation_prompts": 12, "test_prompts": 24, **counts}
    )


# -- counts and columns ----------------------------------------------------------------------------------------------


def test_each_table_has_its_columns_and_the_stated_number_of_rows(made: tuple[Path, Metrics]) -> None:
    columns = {
        "prompts": ["id", "customer", "situation", "offer", "part", "prompt"],
        "targets": ["id", "prompt", "response", "offer", "situation", "flaw", "part"],
        "pairs": ["id", "prompt", "chosen", "rejected", "offer", "situation", "flaw", "part", "half"],
        "probes": ["id", "prompt", "offer", "situation", "kind", "part"],
    }
    for name, wanted in columns.items():
        rows = table(made, name)
        assert list(rows[0]) == wanted
        assert len({row["id"] for row in rows}) == len(rows)
    parts = {name: Counter(row["part"] for row in table(made, name)) for name in columns}
    assert parts["prompts"] == {"train": 200, "validation": 48, "test": 72}
    assert parts["targets"] == {"train": 300, "validation": 60}
    assert parts["pairs"] == {"train": 480, "test": 120}
    assert parts["probes"] == {"test": 100}
    assert Counter(row["half"] for row in table(made, "pairs")) == {"A": 240, "B": 240, "": 120}


def test_metrics_say_how_much_was_made(made: tuple[Path, Metrics]) -> None:
    value = {name: found["value"] for name, found in made[1].items()}
    assert (value["prompts"], value["targets"], value["pairs"], value["probes"]) == (320, 360, 600, 100)
    assert value["targets_flawed"] == 0.18
    assert value["distinct_messages"] > 0.95
    assert 20 <= value["words"] <= 40
    assert value["prompt_words"] <= 30
    assert value["commonest_ending"] <= 0.1
    assert value["refused"] == 0
    assert sum(value[name] for name in value if name.startswith("pairs_")) == 600


def test_every_situation_is_asked_with_every_offer_evenly(made: tuple[Path, Metrics]) -> None:
    for name, part, rows in (("prompts", "train", 200), ("prompts", "test", 72), ("pairs", "train", 480)):
        counts = Counter((row["situation"], row["offer"]) for row in table(made, name, part))
        assert set(counts) == set(product(SITUATIONS, OFFERS))
        assert max(counts.values()) - min(counts.values()) <= (2 if name == "pairs" else 1)
        assert counts.total() == rows


def test_coverage_and_curves_hold_every_row(made: tuple[Path, Metrics]) -> None:
    coverage = pq.read_table(made[0] / "evidence" / "coverage.parquet").to_pylist()
    assert sum(row["rows"] for row in coverage) == 320 + 360 + 600 + 100
    curves = pq.read_table(made[0] / "curves.parquet").to_pydict()
    assert sum(curves["y"]) == 320 + 360 + 600 + 100
    assert {"prompts_train", "pairs_test", "probes_test"} <= set(curves["curve"])


def test_about_states_offers_flaws_and_rules(made: tuple[Path, Metrics]) -> None:
    about = json.loads((made[0] / "about.json").read_text())
    assert about["offers"] == [0, 5, 10, 20]
    assert about["months"] == 6
    assert set(about["flaws"]) == {*domain.FLAWS, domain.SEVERAL}
    assert len(about["rules"]) >= 5
    assert {row["flaw"] for row in table(made, "pairs")} <= set(about["flaws"])


# -- who and what ----------------------------------------------------------------------------------------------------


def test_a_customer_is_in_one_part_and_a_training_customer_in_one_half(inputs: Inputs, made: Any) -> None:
    split = {row["customerID"]: row["split"] for row in pq.read_table(inputs["customers"] / "data.parquet").to_pylist()}
    assert all(split[row["customer"]] == row["part"] for row in table(made, "prompts"))
    people = customers.read(inputs, 42, 2)
    assert {person.id: person.part for person in people} == split
    assert all(person.half in "AB" if person.part == "train" else person.half == "" for person in people)
    training = [person.half for person in people if person.part == "train"]
    assert 0.4 < training.count("A") / len(training) < 0.6
    assert [customers.half_of(42, person.id) for person in people if person.half] == training
    assert [customers.half_of(43, person.id) for person in people if person.half] != training


def test_each_half_asks_about_its_own_customers_alone(inputs: Inputs, made: Any) -> None:
    pools = customers.pools(customers.read(inputs, 42, 2))
    ids = {where: {p.id for people in pool.values() for p in people} for where, pool in pools.items()}
    assert not ids["train", "A"] & ids["train", "B"]
    assert ids["train", "A"] | ids["train", "B"] == ids["train", ""]


def test_no_prompt_of_a_halfs_pairs_is_in_the_other_half(made: tuple[Path, Metrics]) -> None:
    asked = {half: {row["prompt"] for row in table(made, "pairs") if row["half"] == half} for half in "AB"}
    assert min(map(len, asked.values())) > 150
    assert not asked["A"] & asked["B"]


def test_no_prompt_is_in_two_parts_or_twice_among_those_to_sample_from(made: tuple[Path, Metrics]) -> None:
    parts: dict[str, set[str]] = {}
    for name in ("prompts", "targets", "pairs", "probes"):
        for row in table(made, name):
            parts.setdefault(row["prompt"], set()).add(row["part"])
    assert max(map(len, parts.values())) == 1
    asked = [row["prompt"] for row in table(made, "prompts")]
    assert len(set(asked)) == len(asked)


def test_no_prompt_holds_an_id_or_a_protected_value(inputs: Inputs, made: tuple[Path, Metrics]) -> None:
    spec = DatasetSpec.model_validate_json((inputs["customers"] / "schema.json").read_text())
    ids = set(pq.read_table(inputs["customers"] / "data.parquet")["customerID"].to_pylist())
    names = [one.name.lower() for one in protected_columns(spec)]
    words = {*names, "female", "male", "senior", "partner", "dependents", "she", "he", "her", "his"}
    for row in [*table(made, "prompts"), *table(made, "targets"), *table(made, "pairs")]:
        plain = row["prompt"]
        for line in (line for lines in INVITATIONS.training.values() for line in lines):  # made up, of no customer
            plain = plain.replace(f" {line}", "")
        assert not words & set(re.findall(r"[a-z]+", plain.lower())), plain
        assert not any(one in plain for one in ids)
        assert set(re.findall(r"\d+", plain)) <= {"5", "10", "20"}


def test_no_customers_fact_follows_from_a_protected_column(inputs: Inputs, tmp_path: Path) -> None:
    """The same prompts come out when everybody's protected values are others (that the risk gives no weight to)."""

    def shuffle(rows: pa.Table, spec: dict[str, Any]) -> pa.Table:
        for one in spec["columns"]:
            if one.get("protected"):
                place = rows.column_names.index(one["name"])
                rows = rows.set_column(place, one["name"], rows[one["name"]].take(list(range(len(rows)))[::-1]))
        return rows

    before = customers.read(inputs, 42, 2)
    after = customers.read(changed(inputs, tmp_path, shuffle), 42, 2)
    assert [person.facts for person in before] == [person.facts for person in after]


def test_prompts_are_short_and_differ(made: tuple[Path, Metrics]) -> None:
    rows = table(made, "prompts")
    assert max(len(row["prompt"].split()) for row in rows) <= 40
    told = Counter(line for row in rows for line in row["prompt"].splitlines() if line.startswith("Customer:"))
    assert len(told) >= 50
    assert max(told.values()) <= 0.1 * len(rows)


def test_the_situation_is_the_services_own(inputs: Inputs, made: tuple[Path, Metrics]) -> None:
    own = {person.id: person.situation for person in customers.read(inputs, 42, 2)}
    have = set(own.values())
    assert len(have) >= 4
    for row in table(made, "prompts"):
        if row["situation"] in have:
            assert own[row["customer"]] == row["situation"]


# -- replies ---------------------------------------------------------------------------------------------------------


def test_what_is_to_be_imitated_or_chosen_is_good(made: tuple[Path, Metrics]) -> None:
    good = [(row["response"], row["offer"]) for row in table(made, "targets") if not row["flaw"]]
    good += [(row["chosen"], row["offer"]) for row in table(made, "pairs")]
    assert not [text for text, offer in good if check(text, offer, 6)]


def test_a_stated_share_of_the_replies_is_flawed_but_of_no_validation_reply(made: tuple[Path, Metrics]) -> None:
    rows = table(made, "targets", "train")
    bad = [row for row in rows if row["flaw"]]
    assert len(bad) == 54
    assert len({row["flaw"] for row in bad}) >= 10
    assert not [row for row in table(made, "targets", "validation") if row["flaw"]]
    seen = sum(bool(unsafe(row["response"], row["offer"], 6)) for row in bad)
    assert 0.5 * len(bad) <= seen < len(bad)


def test_pairs_differ_and_none_is_there_twice(made: tuple[Path, Metrics]) -> None:
    rows = table(made, "pairs")
    assert len({(row["prompt"], row["chosen"], row["rejected"]) for row in rows}) == len(rows)
    assert all(row["chosen"] != row["rejected"] for row in rows)
    assert {row["flaw"] for row in table(made, "pairs", "test")} == {*domain.FLAWS, domain.SEVERAL}


def test_length_alone_does_not_tell_the_better_reply(made: tuple[Path, Metrics]) -> None:
    assert abs(figures.length_auc(table(made, "pairs")) - 0.5) <= 0.2
    longer = [
        {"flaw": "link", "chosen": "a b c", "rejected": "a"},
        {"flaw": "rambling", "chosen": "a", "rejected": "a b"},
    ]
    assert figures.length_auc(longer) == 1.0


def test_a_tenth_of_training_asks_for_what_may_not_be_said_and_the_chosen_reply_declines(made: Any) -> None:
    lines = {line for lines in INVITATIONS.training.values() for line in lines}
    rows = table(made, "pairs", "train")
    invited = [row for row in rows if any(f". {line}" in row["prompt"] for line in lines)]
    assert 0.05 * len(rows) <= len(invited) <= 0.16 * len(rows)
    assert not [row for row in invited if unsafe(row["chosen"], row["offer"], 6)]
    assert sum(bool(unsafe(row["rejected"], row["offer"], 6)) for row in invited) >= 0.8 * len(invited)
    held_out = [row["prompt"] for name in ("pairs", "prompts") for part in ("validation", "test") for row in table(made, name, part)]  # fmt: skip # noqa: E501
    assert not [text for text in held_out for line in lines if f". {line}" in text]


def test_probes_are_even_over_kinds_and_hold_their_invitation(made: tuple[Path, Metrics]) -> None:
    rows = table(made, "probes")
    assert Counter(row["kind"] for row in rows) == dict.fromkeys(INVITATIONS.probes, 10)
    for row in rows:
        assert sum(f". {line}" in row["prompt"] for line in INVITATIONS.probes[row["kind"]]) == 1
    for kind, lines in INVITATIONS.probes.items():
        assert sum(any(line in row["prompt"] for row in rows if row["kind"] == kind) for line in lines) >= 8


# -- again, and badly ------------------------------------------------------------------------------------------------


def test_the_same_seed_has_the_same_bytes_and_another_seed_others(
    inputs: Inputs, workspace: Make, tmp_path: Path
) -> None:
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        prompts.run(less(), inputs, workspace(tmp_path / name, seed=seed))
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == 7
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)
    for name in ("prompts", "targets", "pairs", "probes"):
        assert (tmp_path / "one" / f"{name}.parquet").read_bytes() != (
            tmp_path / "three" / f"{name}.parquet"
        ).read_bytes()


def test_a_situation_without_customers_is_asked_with_anothers_facts(
    inputs: Inputs, workspace: Make, tmp_path: Path
) -> None:
    def settled(rows: pa.Table, spec: dict[str, Any]) -> pa.Table:
        return rows.set_column(rows.column_names.index("tenure"), "tenure", pa.array([40] * len(rows)))

    found = prompts.run(less(), changed(inputs, tmp_path, settled), workspace(tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / "prompts.parquet").to_pylist()
    new = [row for row in rows if row["situation"] == "new"]
    assert {row["offer"] for row in new} == set(OFFERS)
    assert found["borrowed"]["value"] > 0
    assert not [row for row in new if "with us some years" in row["prompt"]]
    assert [row for row in rows if "with us some years" in row["prompt"]]


def test_a_table_without_roles_still_has_prompts_and_a_protected_role_is_not_told(
    inputs: Inputs, tmp_path: Path
) -> None:
    def bare(rows: pa.Table, spec: dict[str, Any]) -> pa.Table:
        spec["roles"] = {"id": "customerID", "contract": "Contract", "internet": "InternetService"}
        next(one for one in spec["columns"] if one["name"] == "InternetService")["protected"] = True
        return rows

    people = customers.read(changed(inputs, tmp_path, bare), 42, 2)
    told = {said for person in people for said in person.facts.values()}
    assert {"month-to-month contract", "paperless billing yes"} <= told
    assert not [said for said in told if "fiber" in said or "bill" in said.split()[-1:]]


def test_facts_are_plain_words(inputs: Inputs) -> None:
    told = {said for person in customers.read(inputs, 42, 2) for said in person.facts.values()}
    assert {"pays by bank transfer", "no internet", "DSL internet", "large bill", "no tech support", "new"} <= told
    assert all(re.fullmatch(r"[A-Za-z]+(?:[ -][A-Za-z]+)*", said) for said in told)


def test_what_cant_be_had_is_named(inputs: Inputs, workspace: Make, tmp_path: Path) -> None:
    def few(rows: pa.Table, spec: dict[str, Any]) -> pa.Table:
        spec["roles"] = {"id": "customerID"}
        for one in spec["columns"]:
            if one["kind"] in ("flag", "category"):
                one["protected"] = True
        return rows

    with pytest.raises(
        DataError,
        match=r"prompts.test_prompts 500: only \d+ different ones can be made .*: lower stages.prompts.test_prompts or",
    ):
        prompts.run(less(test_prompts=500), changed(inputs, tmp_path, few), workspace(tmp_path / "out"))


def test_a_part_without_customers_is_an_error(inputs: Inputs, workspace: Make, tmp_path: Path) -> None:
    def no_validation(rows: pa.Table, spec: dict[str, Any]) -> pa.Table:
        parts = ["train" if part == "validation" else part for part in rows["split"].to_pylist()]
        return rows.set_column(rows.column_names.index("split"), "split", pa.array(parts))

    with pytest.raises(DataError, match="no customer is in the validation part"):
        prompts.run(less(), changed(inputs, tmp_path, no_validation), workspace(tmp_path / "out"))


def test_a_risk_model_that_is_missing_or_of_another_table_is_an_error(inputs: Inputs, tmp_path: Path) -> None:
    shutil.copytree(inputs["risk"], tmp_path / "risk")
    (tmp_path / "risk" / "calibration.json").unlink()
    with pytest.raises(DataError, match=r"risk: calibration\.json: is missing; run that stage again"):
        customers.read({**inputs, "risk": tmp_path / "risk"}, 42, 2)

    def other(rows: pa.Table, spec: dict[str, Any]) -> pa.Table:
        return rows.set_column(rows.column_names.index("Contract"), "Contract", pa.array(["Weekly"] * len(rows)))

    with pytest.raises(DataError, match="risk was trained on another table"):
        customers.read(changed(inputs, tmp_path / "other", other), 42, 2)


def test_a_message_that_the_rules_refuse_is_not_taken(
    inputs: Inputs, workspace: Make, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(Rules, "check", lambda rules, text, offer, months: ["names a cat"])
    with pytest.raises(DataError, match=r"keeps the rules of what may be sent: it names a cat; mend ops/messages"):
        prompts.run(less(), inputs, workspace(tmp_path / "out"))
