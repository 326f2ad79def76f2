"""Plans of the real table of stages, and what is refused before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError, DataError
from engine.fingerprint import ROOT
from flows.plan import load_experiment, make_plan, put_sources, stage_config
from retain.dataset import DatasetSpec
from tasks.data import sources, synthetic
from tasks.data.sources import Source
from tasks.stages import STAGES


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store and a data folder of this test, with seeded tables."""
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    data = tmp_path / "data"
    data.mkdir()
    monkeypatch.setenv("RETAIN_DATA_DIR", str(data))
    for name in ("telco", "bank"):
        spec = _spec(name)
        (data / spec.source.files[0]).write_bytes(synthetic.csv(spec, seed=1))
    return data


def _spec(name: str) -> DatasetSpec:
    stages = load_experiment("local").stages
    return {"telco": stages.customers, "bank": stages.campaigns}[name].dataset


def test_a_stage_comes_with_what_it_reads_from(tables: Path) -> None:
    assert [stage.name for stage in make_plan("local", ["risk"]).stages] == ["customers", "risk"]
    assert [stage.name for stage in make_plan("local", ["risk", "accept"]).stages] == [
        "customers",
        "campaigns",
        "risk",
        "accept",
    ]
    assert [stage.name for stage in make_plan("local").stages] == list(STAGES)
    # campaigns' table isn't looked for when only risk is wanted
    next(tables.glob("bank*")).unlink()
    assert set(make_plan("local", ["risk"]).sources) == {"customers"}


def test_only_what_has_its_inputs_has_an_identity(tables: Path) -> None:
    plan = make_plan("local")
    known = {name for name, identity in plan.standing().items() if identity is not None}
    assert known == {"customers", "campaigns"}
    assert plan.reusable() == {}


def test_an_unknown_stage_and_an_unknown_experiment_are_named(tables: Path) -> None:
    with pytest.raises(ConfigError, match=r"no stage 'rsik'\. Known: customers, campaigns, risk"):
        make_plan("local", ["rsik"])
    with pytest.raises(ConfigError, match=r"no experiment 'lokal'.*Known: chaos, exp_001_mvp, local"):
        make_plan("lokal")


def test_criteria_are_in_the_slice_of_release_alone(tables: Path) -> None:
    plan = make_plan("local")
    for name in STAGES:
        holds = "criteria" in stage_config(plan.experiment, name)
        assert holds == (name == "release")
    # and of them only those that release judges: the threshold of another stage may change without it
    judged = {"risk", "accept", "decision", "sft", "rm", "text_eval", "messages"}
    assert set(stage_config(make_plan("local").experiment, "release")["criteria"]) == judged


def test_the_locked_experiment_refuses_synthetic_data_naming_every_missing_file(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Source(kind="synthetic", path=None, sha256=None, note="not in the folder; offline")
    monkeypatch.setattr(sources, "resolve", lambda specs, data_dir, cache: dict.fromkeys(specs, found))
    with pytest.raises(DataError) as refused:
        make_plan("exp_001_mvp")
    message = str(refused.value)
    assert "refuses synthetic data" in message
    assert "customers: Telco-Customer-Churn.csv (not in the folder; offline)" in message
    assert "campaigns: bank-additional-full.csv" in message
    assert "Set RETAIN_DATA_DIR" in message
    assert make_plan("local").sources["customers"].kind == "synthetic"


@pytest.mark.parametrize(("harm", "words"), [("removed", "can't be read any more"), ("changed", "changed since")])
def test_a_table_that_is_not_what_was_planned_with_is_refused(tables: Path, harm: str, words: str) -> None:
    plan = make_plan("local", ["risk"])
    (path,) = tables.glob("Telco*")
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(DataError, match=words):
        put_sources(plan)


def test_synthetic_rows_of_another_seed_are_another_source(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Source(kind="synthetic", path=None, sha256=None, note="")
    monkeypatch.setattr(sources, "resolve", lambda specs, data_dir, cache: dict.fromkeys(specs, found))
    plan = make_plan("local")
    identity = plan.identity(STAGES["customers"], {})
    assert identity.source == f"{found.digest}, seed {plan.experiment.seed}"
    assert plan.source_key("customers") is None


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["run", "--stage", "rsik"], {}, "no stage 'rsik'"),
        (["why", "rsik"], {}, "no stage 'rsik'"),
        (["run", "--experiment", "nothing"], {}, "no experiment 'nothing'"),
        (["run"], {"RETAIN_DATA_DIR": "/no/such/folder"}, "RETAIN_DATA_DIR is /no/such/folder: no such folder"),
        (["run"], {"RETAIN_STORE": "/dev/null/store"}, "RETAIN_STORE=/dev/null/store: can't be used"),
        (["run"], {"RETAIN_STORE": "gs://bucket/x"}, "only a folder can be a store so far"),
    ],
)
def test_what_can_not_run_is_said_in_a_line(
    tables: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "flows", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_the_plan_is_made_without_prefect_or_training_libraries(tables: Path) -> None:
    code = (
        "import sys; from flows.plan import make_plan; make_plan('local').standing();"
        "print([m for m in ('prefect', 'pandas', 'xgboost', 'sklearn', 'pyarrow', 'pandera') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
