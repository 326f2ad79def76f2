"""The release stage: what is judged, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.artifact import canonical
from engine.errors import CriteriaMissed, DataError
from retain.release import load
from tests.releases import PASSED, config, dataset, inputs, run_stage


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    return inputs(tmp_path / "inputs", dataset("telco"), dataset("bank"))


def measured(given: dict[str, Path], stage: str, **values: Any) -> None:
    metrics = {**PASSED[stage], **{name: {"value": value} for name, value in values.items() if value is not None}}
    for name, value in values.items():
        if value is None:
            del metrics[name]
    (given[stage] / "metrics.json").write_bytes(canonical(metrics))


def test_what_passed_is_put_together(tmp_path: Path, given: dict[str, Path]) -> None:
    out = run_stage(tmp_path, given)
    written = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    release = load(written)
    about = json.loads(written["release.json"].read_bytes())
    assert about["experiment"] == "toy"
    assert about["left_out"] == []
    assert [(verdict["stage"], verdict["metric"]) for verdict in about["verdicts"]] == [
        ("risk", "auc"),
        ("risk", "ece"),
        ("accept", "auc"),
    ]
    assert about["verdicts"][0] == {
        "stage": "risk", "metric": "auc", "value": 0.85, "ci": [0.83, 0.87],
        "op": ">=", "limit": 0.78, "gating": True, "passed": True,
    }  # fmt: skip
    assert about["parts"]["risk"]["digest"] == release.versions["risk"]
    assert about["decision"] == json.loads(written["decision.json"].read_bytes())
    assert json.loads(written["metrics.json"].read_bytes())["criteria_passed"]["value"] == 3
    for name in ("risk/model.json", "accept/bridge.json"):
        assert written[name].read_bytes() == (given[name.partition("/")[0]] / Path(name).name).read_bytes()


def test_the_same_inputs_make_the_same_bytes(tmp_path: Path, given: dict[str, Path]) -> None:
    first, second = run_stage(tmp_path / "1", given), run_stage(tmp_path / "2", given)
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("stage", "values", "says"),
    [
        ("risk", {"auc": 0.7}, ["risk auc 0.7 (wanted >= 0.78)"]),
        ("risk", {"ece": 0.05}, ["risk ece 0.05 (wanted < 0.05)"]),
        ("accept", {"auc": None}, ["accept auc missing (wanted >= 0.7)"]),
        ("risk", {"auc": 0.5, "ece": 0.3}, ["risk auc 0.5", "risk ece 0.3"]),
    ],
)
def test_a_missed_criterion_means_no_release(
    tmp_path: Path, given: dict[str, Path], stage: str, values: dict[str, Any], says: list[str]
) -> None:
    measured(given, stage, **values)
    with pytest.raises(CriteriaMissed, match="no release: ") as error:
        run_stage(tmp_path, given)
    assert all(text in str(error.value) for text in says)
    assert error.value.exit_code == 3
    assert not any((tmp_path / "out").iterdir())


def test_a_smaller_table_is_no_reason_to_refuse(tmp_path: Path, given: dict[str, Path]) -> None:
    measured(given, "customers", rows=5)  # its criterion is the verdict's affair; what is served is the models'
    assert (run_stage(tmp_path, given) / "release.json").exists()


def test_a_criterion_that_is_not_gating_is_shown_and_stops_nothing(tmp_path: Path, given: dict[str, Path]) -> None:
    measured(given, "risk", ece=0.2)
    lenient = config()
    lenient.criteria["risk"]["ece"] = lenient.criteria["risk"]["ece"].model_copy(update={"gating": False})
    out = run_stage(tmp_path, given, lenient)
    verdicts = json.loads((out / "release.json").read_bytes())["verdicts"]
    assert [verdict["passed"] for verdict in verdicts if verdict["metric"] == "ece"] == [False]


@pytest.mark.parametrize(
    ("stage", "name", "content", "says"),
    [
        ("risk", "metrics.json", b"{", "risk/metrics.json: is damaged"),
        ("risk", "metrics.json", None, "risk/metrics.json: is missing"),
        ("risk", "model.json", None, "risk/model.json: is missing"),
        ("risk", "model.json", b"{}", "risk/model.json"),
        ("accept", "bridge.json", b"{}", "bridge.json"),
        ("customers", "schema.json", b"{}", "schema.json"),
    ],
)
def test_a_damaged_input_is_one_clear_error(
    tmp_path: Path, given: dict[str, Path], stage: str, name: str, content: bytes | None, says: str
) -> None:
    if content is None:
        (given[stage] / name).unlink()
    else:
        (given[stage] / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        run_stage(tmp_path, given)
    assert says in str(error.value)


def test_a_rule_that_can_not_be_served_is_refused(tmp_path: Path, given: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"decision\.json: offer is not one of"):
        run_stage(tmp_path, given, config(offer=15))
