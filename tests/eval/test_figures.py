"""Figures: copied from a store as they are, read back strictly, and shown where a document asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import config, ledger
from engine.artifact import ArtifactStore, ArtifactWriter, canonical
from engine.errors import RetainError
from engine.fingerprint import Identity
from engine.stage import IDENTITY
from engine.store import FolderStore
from eval import docs, figures

EXPERIMENT = """
tag: tried
costs: {scope: tried}
criteria:
  risk: {auc: {at_least: 0.78}, ece: {below: 0.05}, rounds: {above: 2, gating: false}}
  rm: {lift_gain: {at_least: 0.12}, lift_gain_low: {above: 0.05}}
"""
METRICS = {
    "auc": {"value": 0.85, "ci": [0.83, 0.87]},
    "ece": {"value": 0.06, "ci": [0.05, 0.07], "chance": 0.03},
    "rounds": {"value": 1},
}


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """An experiment and a store of its own, in which `risk` has completed; figures go to a folder of its own."""
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "experiment_tried.yaml").write_text(EXPERIMENT)
    monkeypatch.setattr(config, "CONFIGS", configs)
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "figures")
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    artifacts = ArtifactStore(FolderStore(tmp_path / "store"), "tried")
    complete(artifacts, "risk", METRICS, tmp_path / "risk")
    return artifacts


def complete(artifacts: ArtifactStore, stage: str, metrics: dict[str, object], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    ArtifactWriter(folder).json("metrics.json", metrics)
    artifacts.publish(stage, "f" * 32, folder)
    artifacts.set_current(stage, "f" * 32)
    prefix = artifacts.prefix(stage, "f" * 32)
    identity = Identity(stage=stage, code={"a.py": "0" * 64}, libraries={}, config={}, seed=1, inputs={}, source=None)
    artifacts.store.write(f"{prefix}/{IDENTITY}", canonical(identity.model_dump(mode="json")))


def attempt(artifacts: ArtifactStore, stage: str, number: int, status: str, commit: str) -> None:
    """The record of an attempt, and its log beside it."""
    record = {
        **{"attempt": number, "status": status, "host": "h", "machine_type": "m", "usd_per_hour": 0.1},
        **{"commit": commit, "libraries": {}, "started_at": "t", "seconds": 1.0},
        "holder": {"machine": "m", "pid": 1, "start": 0.0},
    }
    path = f"{artifacts.prefix(stage, 'f' * 32)}/execution/{number:04d}"
    artifacts.store.write(f"{path}.json", json.dumps(record).encode())
    artifacts.store.write(f"{path}.log", b"a log is no attempt")


def rendered(marker: str, tmp_path: Path) -> str:
    return docs.render(f"before <!-- figures: {marker} -->old<!-- /figures --> after", tmp_path / "figures")


def test_what_is_written_is_what_the_store_has(artifacts: ArtifactStore, tmp_path: Path) -> None:
    assert figures.main(["--experiment", "tried"]) == 0
    (made,) = json.loads((tmp_path / "figures" / "tried.json").read_text())["stages"].values()
    manifest = artifacts.manifest("risk", "f" * 32)
    assert manifest is not None
    assert (made["fingerprint"], made["content"], made["metrics"]) == ("f" * 32, manifest.digest, METRICS)
    assert figures.read("tried", tmp_path / "figures") == figures.collect(artifacts, "tried")


def test_time_and_money_are_what_the_ledger_charged(artifacts: ArtifactStore) -> None:
    """For every attempt of this artifact, with the overhead of its machine in the dollars; for no other artifact."""
    for fingerprint, number, seconds in (("f" * 32, 1, 10.0), ("f" * 32, 2, 20.0), ("e" * 32, 1, 99.0)):
        attempt_id = f"{artifacts.prefix('risk', fingerprint)}/{number:04d}"
        ledger.reserve(
            artifacts.store,
            "tried",
            cap_usd=1,
            attempt_id=attempt_id,
            experiment="tried",
            stage="risk",
            usd_per_hour=0.1,
            limit_s=100,
            overhead_s=3,
        )
        ledger.settle(artifacts.store, "tried", attempt_id, seconds, estimated=False)
    made = figures.collect(artifacts, "tried").stages["risk"]
    assert (made.seconds, made.usd) == (30.0, pytest.approx(0.001, abs=2e-6))


def test_figures_name_the_code_that_made_them(artifacts: ArtifactStore, tmp_path: Path) -> None:
    """The commit of the last attempt that completed, and a digest that changes with the code of the stage alone."""
    attempt(artifacts, "risk", 1, "complete", "a" * 40)
    attempt(artifacts, "risk", 2, "complete", "b" * 40)
    attempt(artifacts, "risk", 3, "killed", "c" * 40)
    before = figures.collect(artifacts, "tried").stages["risk"]
    assert before.commit == "b" * 40
    assert len(before.code) == 32
    complete(artifacts, "rm", {}, tmp_path / "rm")
    key = f"{artifacts.prefix('rm', 'f' * 32)}/{IDENTITY}"
    stored = artifacts.store.read(key)
    assert stored is not None
    assert figures.collect(artifacts, "tried").stages["rm"].code == before.code
    artifacts.store.write(key, stored[0].replace(b"0" * 64, b"1" * 64))
    assert figures.collect(artifacts, "tried").stages["rm"].code != before.code


def test_several_commits_are_all_named(artifacts: ArtifactStore, tmp_path: Path) -> None:
    attempt(artifacts, "risk", 1, "complete", "b" * 40)
    figures.main(["--experiment", "tried"])
    assert ">commit `bbbbbbbb`<" in rendered("commit tried", tmp_path)
    complete(artifacts, "rm", {}, tmp_path / "rm")
    attempt(artifacts, "rm", 1, "complete", "a" * 40 + "+")
    figures.main(["--experiment", "tried"])
    assert ">commits `bbbbbbbb`, `aaaaaaaa` with uncommitted files<" in rendered("commit tried", tmp_path)


def test_an_empty_store_is_refused(artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "empty"))
    assert figures.main(["--experiment", "tried"]) == 2


def test_a_table_of_results_tells_met_from_missed(artifacts: ArtifactStore, tmp_path: Path) -> None:
    """A criterion on the lower end of an interval stands in the row of the value, and both have to hold."""
    gain = {"lift_gain": {"value": 0.13, "ci": [0.04, 0.2]}, "lift_gain_low": {"value": 0.04}}
    complete(artifacts, "rm", gain, tmp_path / "rm")
    figures.main(["--experiment", "tried"])
    auc, ece, lift = [line for line in rendered("results tried", tmp_path).splitlines() if line.startswith("| ")][1:]
    assert auc.endswith("| 0.850 (0.830 .. 0.870) | ≥ 0.78 | met |")
    assert ece.endswith("| 0.060 (0.050 .. 0.070); 0.030 by chance | < 0.05 | **missed** |")
    assert lift == "| `rm.lift_gain` | 0.1300 (0.0400 .. 0.2000) | ≥ 0.12, interval > 0.05 | **missed** |"
    assert "rm" not in rendered("results tried risk", tmp_path)


@pytest.mark.parametrize(
    ("marker", "shown"),
    [
        ("metric tried risk.auc", "0.8500 (0.8300 .. 0.8700)"),
        ("metric tried risk.ece", "0.0600 (0.0500 .. 0.0700; 0.0300 by chance)"),
        ("metric tried risk.rounds count", "1"),
        ("dollars tried", "$0.0000"),
        ("dollars tried risk", "$0.0000"),
    ],
)
def test_a_marker_shows_one_figure(artifacts: ArtifactStore, tmp_path: Path, marker: str, shown: str) -> None:
    figures.main(["--experiment", "tried"])
    assert rendered(marker, tmp_path) == f"before <!-- figures: {marker} -->{shown}<!-- /figures --> after"


@pytest.mark.parametrize(
    "marker",
    [
        "metric tried risk.nothing",
        "metric tried nothing.auc",
        "metric tried risk.auc nonsense",
        "results",
        "nonsense tried",
    ],
)
def test_a_marker_that_means_nothing_is_named(artifacts: ArtifactStore, tmp_path: Path, marker: str) -> None:
    figures.main(["--experiment", "tried"])
    with pytest.raises(RetainError, match=f"'figures: {marker}'"):
        rendered(marker, tmp_path)


def test_figures_that_are_missing_or_damaged_say_how_to_write_them(artifacts: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(RetainError, match="make figures EXPERIMENT=tried"):
        rendered("dollars tried", tmp_path)
    figures.FOLDER.mkdir()
    (figures.FOLDER / "tried.json").write_text('{"experiment": "tried", "stages": {"risk": {}}}')
    with pytest.raises(RetainError, match=r"stages\.risk\.fingerprint: Field required"):
        rendered("dollars tried", tmp_path)


def test_check_writes_nothing_and_names_what_differs(
    artifacts: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures.main(["--experiment", "tried"])
    page = tmp_path / "PAGE.md"
    page.write_text("<!-- figures: metric tried risk.rounds count -->5<!-- /figures -->")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.main(["--check"]) == 1
    assert "PAGE.md" in capsys.readouterr().out
    assert ">5<" in page.read_text()
    assert docs.main([]) == 0
    assert ">1<" in page.read_text()
    assert docs.main(["--check"]) == 0
