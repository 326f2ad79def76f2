"""What can't be learnt from is refused before anything is: one line that says what and where, and nothing is left."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from engine import records
from engine.artifact import ArtifactStore, canonical
from engine.errors import RetainError
from engine.fingerprint import ROOT, Identity, code_digests, library_versions
from engine.interval import CheckpointInterval
from engine.process import this_process
from engine.records import AttemptRecord
from engine.stage import BAD_INPUT, StageRequest, Workspace
from engine.store import FolderStore
from tasks.config import DecisionConfig
from tasks.decision import train
from tasks.stages import STAGES

CONFIG = Path(__file__).parents[3] / "ops" / "configs" / "experiment_exp_001_mvp.yaml"
DATA, SCHEMA = "customers/data.parquet", "customers/schema.json"
SCORES, BRIDGE = "risk/evidence/predictions.parquet", "accept/bridge.json"

Inputs = dict[str, Path]
Change = Callable[[Inputs], None]


def decision(**ppo: Any) -> DecisionConfig:
    """The locked experiment's keys, so that what is missed by a check shows in minutes of training."""
    stated = yaml.safe_load(CONFIG.read_text().replace("!include ", ""))["stages"]["decision"]
    return DecisionConfig.model_validate_json(json.dumps(stated | {"ppo": stated["ppo"] | ppo}))


def rewrite(name: str, change: Callable[[Any], None]) -> Change:
    """A change of a JSON file of the inputs."""

    def apply(inputs: Inputs) -> None:
        stage, _, file = name.partition("/")
        path = inputs[stage] / file
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def put(name: str, column: str, part: str, value: float, rows: slice = slice(None)) -> Change:
    """`value` in a column of some rows of one part of the split."""

    def apply(inputs: Inputs) -> None:
        stage, _, file = name.partition("/")
        table = pq.read_table(inputs[stage] / file)
        values = table[column].to_numpy().astype(np.float64)
        values[np.flatnonzero(table["split"].to_numpy() == part)[rows]] = value
        pq.write_table(
            table.set_column(table.column_names.index(column), column, pa.array(values)), path_of(inputs, name)
        )

    return apply


def path_of(inputs: Inputs, name: str) -> Path:
    stage, _, file = name.partition("/")
    return inputs[stage] / file


def keep_rows(part: str, most: int) -> Change:
    """At most so many customers in one part of the split, in the table and in what risk wrote of it."""

    def apply(inputs: Inputs) -> None:
        for name in (DATA, SCORES):
            table = pq.read_table(path_of(inputs, name))
            mine = table["split"].to_numpy() == part
            pq.write_table(table.filter(pa.array(~mine | (np.cumsum(mine) <= most))), path_of(inputs, name))

    return apply


def without_role(role: str) -> Change:
    return rewrite(SCHEMA, lambda schema: schema["roles"].pop(role))


def cells(**values: float) -> Change:
    """The same values in every cell of the bridge."""
    return rewrite(BRIDGE, lambda bridge: [cell.update(values) for cell in bridge["cells"].values()])


def cell(name: str, **values: float) -> Change:
    return rewrite(BRIDGE, lambda bridge: bridge["cells"][name].update(values))


def in_each_part(what: str, name: str, column: str, value: float, words: str) -> list[tuple[str, Change, str]]:
    """The value at one customer, in one part after the other: also where it would be met only at the end."""
    return [(f"{what} in {part}", put(name, column, part, value, ONE), words) for part in PARTS]


ONE = slice(3, 4)
PARTS = ("train", "validation", "test")
BAD: list[tuple[str, Change, str]] = [
    *in_each_part("a charge of 0", DATA, "MonthlyCharges", 0.0, "a monthly charge of 0: NRR is a share of revenue"),
    *in_each_part("a charge below 0", DATA, "MonthlyCharges", -5.0, "a monthly charge of -5: NRR is a share"),
    *in_each_part("no charge", DATA, "MonthlyCharges", np.nan, "a monthly charge of nan: NRR is a share of revenue"),
    *in_each_part("no tenure", DATA, "tenure", np.nan, "part: column 'tenure' is blank: a number is needed"),
    *in_each_part("no risk", SCORES, "margin", np.nan, "the risk is not a number"),
    *in_each_part("an endless risk", SCORES, "margin", np.inf, "the risk is not a number"),
    *((f"nobody in {part}", keep_rows(part, 0), f"no customer is in the {part} part") for part in PARTS),
    ("no revenue", put(DATA, "MonthlyCharges", "train", 0.0), "a monthly charge of 0: NRR is a share of revenue"),
    ("fewer customers than minibatches", keep_rows("train", 11), "11 training customers for 12 minibatches"),
    ("an empty cell", cell("0,1,0", rows=0), "cell 0,1,0 (senior, partner, paperless) has customers, but no client"),
    ("empty cells", cells(rows=0), "no client of the bank in any cell"),
    ("an acceptance of 0", cells(acceptance=0.0), "an acceptance is no probability between 0 and 1"),
    ("an acceptance of 1", cells(acceptance=1.0), "an acceptance is no probability between 0 and 1"),
    ("no column of what is charged", without_role("monthly_charge"), "no column of role monthly_charge"),
    ("no column of tenure", without_role("tenure"), "no column of role tenure"),
]


@pytest.fixture
def changeable(inputs: Inputs, tmp_path: Path) -> Inputs:
    """The artifacts that the stage reads from, to be harmed."""
    for name, folder in inputs.items():
        shutil.copytree(folder, tmp_path / "inputs" / name)
    return {name: tmp_path / "inputs" / name for name in inputs}


@pytest.mark.parametrize(("change", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_refused_before_anything_is_learnt(
    changeable: Inputs, workspace: Callable[..., Workspace], tmp_path: Path, change: Change, words: str
) -> None:
    change(changeable)
    made = workspace(tmp_path / "made")
    with pytest.raises(RetainError) as refused:
        train.run(decision(), changeable, made)
    assert words in str(refused.value)
    assert refused.value.exit_code == BAD_INPUT
    assert "\n" not in str(refused.value)
    assert made.checkpoints.saves == 0  # type: ignore[attr-defined]
    assert list((tmp_path / "made").iterdir()) == []


def test_a_charge_that_only_the_budget_counts_is_refused(
    changeable: Inputs, workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    """Nobody looks at test customers here, but what may be spent is a share of what they are charged, too."""
    put(DATA, "MonthlyCharges", "test", -5.0, ONE)(changeable)
    made = workspace(tmp_path / "made")
    looked = decision().evaluation.model_copy(update={"part": "validation"})
    with pytest.raises(RetainError, match="a monthly charge of -5"):
        train.run(decision().model_copy(update={"evaluation": looked}), changeable, made)
    assert made.checkpoints.saves == 0  # type: ignore[attr-defined]


def test_too_few_customers_for_the_random_test_are_refused(
    changeable: Inputs, workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    keep_rows("train", 3)(changeable)
    made = workspace(tmp_path / "made")
    with pytest.raises(RetainError, match="3 customers are too few to learn 5 actions from"):
        train.run(decision(minibatches=1), changeable, made)
    assert made.checkpoints.saves == 0  # type: ignore[attr-defined]


def test_the_process_ends_with_one_line_and_leaves_no_artifact(changeable: Inputs, tmp_path: Path) -> None:
    """As the engine runs it: exit code 2, the reason in the record, no claim, checkpoint or manifest."""
    put(DATA, "MonthlyCharges", "validation", -5.0, ONE)(changeable)
    store = FolderStore(tmp_path / "store")
    artifacts = ArtifactStore(store, "test")
    for name, folder in changeable.items():
        (folder / "metrics.json").write_bytes(canonical({}))
        artifacts.publish(name, "f" * 64, folder)
    stage = STAGES["decision"]
    identity = Identity(
        stage=stage.name,
        code=code_digests(stage.entry),
        libraries=library_versions(stage.libraries),
        config=decision().model_dump(mode="json"),
        seed=42,
        inputs={name: artifacts.manifest(name, "f" * 64).digest for name in changeable},  # type: ignore[union-attr]
        source=None,
    )
    request = StageRequest(
        experiment="test",
        stage=stage.name,
        entry=stage.entry,
        config_model=stage.config,
        identity=identity,
        inputs=dict.fromkeys(changeable, "f" * 64),
        sources={},
        number=1,
        store=str(tmp_path / "store"),
        work=str(tmp_path / "work"),
        threads=2,
        device="cpu",
        time_limit_s=120,
        heartbeat_s=1,
        checkpoint=CheckpointInterval(mean_hours_between_preemptions=4.0, every_s=None, every_steps=None),
        shared=False,
        store_patience_s=10.0,
    )
    planned = AttemptRecord(
        number=0,
        status="planned",
        host="here",
        machine_type="e2-standard-4",
        usd_per_hour=0.134,
        commit="none",
        libraries={},
        started_at="2026-11-23T00:00:00+00:00",
        holder=this_process(),
    )
    prefix = f"test/decision/{request.fingerprint}"
    request = request.model_copy(update={"number": records.create(store, prefix, planned).number})
    (tmp_path / "work").mkdir()
    path = tmp_path / "work" / "request.json"
    path.write_text(request.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "engine", str(path)], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == BAD_INPUT, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "a monthly charge of -5: NRR is a share of revenue, so every charge is above 0" in line
    record = records.read(store, prefix, request.number)
    assert record is not None
    assert (record.status, record.message) == ("failed", line)
    left = {path.name for path in (tmp_path / "store" / prefix).rglob("*") if path.is_file()}
    assert left == {f"{request.number:04d}.json"}
