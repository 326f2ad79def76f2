"""exp_001_mvp's language stages: at full size without its weights, and the list of what is missing where it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.artifact import ArtifactStore
from engine.fingerprint import ROOT
from engine.store import FolderStore

TEXT = ("base", "prompts", "sft", "rm", "judge", "ppo_text", "text_eval", "messages")


def run(store: Path, experiment: str, *stages: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    wanted = [part for stage in stages for part in ("--stage", stage)]
    return subprocess.run(
        [sys.executable, "-m", "flows", "run", "--experiment", experiment, *wanted],
        cwd=ROOT,
        env=kept | {"RETAIN_STORE": str(store)} | more,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )


@pytest.mark.slow
def test_every_language_stage_runs_at_full_size_on_a_cpu(tmp_path: Path) -> None:
    done = run(tmp_path, "dryrun", "text_eval", "messages")
    assert done.returncode == 0, done.stdout + done.stderr
    artifacts = ArtifactStore(FolderStore(tmp_path), "dryrun")
    made = artifacts.current()
    assert set(TEXT) <= made.keys()
    parameters = artifacts.metrics("base", made["base"])["parameters"]["value"]
    assert 325e6 < parameters < 340e6
    for stage in TEXT:
        assert artifacts.metrics(stage, made[stage]), stage


@pytest.mark.parametrize("stage", ["sft", "rm", "text_eval"])
def test_without_weights_the_locked_experiment_lists_all_that_is_missing(tmp_path: Path, stage: str) -> None:
    (tmp_path / "data").mkdir()
    done = run(tmp_path / "store", "exp_001_mvp", stage, RETAIN_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 2, done.stdout + done.stderr
    for missing in ("model.safetensors", "tokenizer.json", "Telco-Customer-Churn.csv", "GPU"):
        assert missing in done.stderr
    assert "2023-04-12_oasst_ready" in done.stderr
    assert "Traceback" not in done.stderr
    # Refused before anything was attempted, and so not tried again either.
    assert list((tmp_path / "store").rglob("execution/*")) == []
    assert not (tmp_path / "store" / "ledger").exists()
