"""exp_001_mvp's language stages: at full size without its weights, and the list of what is missing where it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engine.artifact import ArtifactStore
from engine.fingerprint import ROOT
from engine.store import FolderStore
from flows import preflight
from flows.plan import load_experiment
from tests.end_to_end import public_files

TEXT = ("base", "prompts", "sft", "rm", "judge", "ppo_text", "text_eval", "messages")
# Nobody listens on the discard port: every server refuses at once, on a machine with a network too.
OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")


def run(store: Path, experiment: str, *stages: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    wanted = [part for stage in stages for part in ("--stage", stage)]
    return subprocess.run(
        [sys.executable, "-m", "flows", "run", "--experiment", experiment, *wanted],
        cwd=ROOT,
        env=kept | OFFLINE | {"RETAIN_STORE": str(store)} | more,
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """A data folder with files of the public names and schemas."""
    if "RETAIN_DATA_DIR" not in os.environ:
        pytest.skip("RETAIN_DATA_DIR is not set")
    data = Path(os.environ["RETAIN_DATA_DIR"])
    if lacking := public_files.lacking(data):
        pytest.skip(f"RETAIN_DATA_DIR has no {', '.join(lacking)}")
    folder = tmp_path / "data"
    folder.mkdir()
    public_files.write(folder, data)
    return folder


def eight_bit_layers(base: Path) -> int:
    """How many layers of the artifact's language model bitsandbytes computes in 8 bit, loaded as the stages load it."""
    from bitsandbytes.nn import Linear8bitLt

    from tasks.rlhf.language import lm

    return sum(isinstance(module, Linear8bitLt) for module in lm.load(base, 8, "cpu").model.modules())


def test_the_files_are_those_that_the_locked_experiment_names(public: Path) -> None:
    stages = load_experiment("exp_001_mvp").stages
    named = [file.names[0] for config in (stages.dialogues, stages.preferences) for file in config.files]
    assert named == list(public_files.TEXTS_MADE)
    keys = {}
    for name in named:
        rows = [json.loads(line) for line in (public / name).read_text().splitlines()]
        assert len(rows) > 300
        # One shape in a file: of the messages, that of OASST1's own, which are among them.
        (keys[name],) = {tuple(row) for row in rows}
    assert {keys[name] for name in named if name.startswith("hh-rlhf")} == {("chosen", "rejected")}


@pytest.mark.slow
def test_every_language_stage_runs_at_full_size_on_a_cpu(tmp_path: Path, public: Path) -> None:
    done = run(tmp_path / "store", "dryrun", "text_eval", "messages", RETAIN_DATA_DIR=str(public))
    assert done.returncode == 0, done.stdout + done.stderr
    artifacts = ArtifactStore(FolderStore(tmp_path / "store"), "dryrun")
    made = artifacts.current()
    assert set(TEXT) <= made.keys()
    assert "SYNTHETIC" not in done.stdout
    read = []
    for stage in ("dialogues", "preferences"):
        catalog = artifacts.open(stage, made[stage], tmp_path / "read" / stage) / "catalog.json"
        found = json.loads(catalog.read_bytes())
        assert (found["synthetic"], found["missing"]) == (False, [])
        assert [file["name"] for file in found["files"] if not file["used"] or file["broken"]] == []
        read += [file["name"] for file in found["files"]]
    assert read == list(public_files.TEXTS_MADE)
    parameters = artifacts.metrics("base", made["base"])["parameters"]["value"]
    assert 325e6 < parameters < 340e6
    base = artifacts.open("base", made["base"], tmp_path / "read" / "base")
    # As many of the 50,272 as OASST1's words here give pairs that repeat.
    assert Tokenizer.from_file(str(base / "tokenizer.json")).get_vocab_size() > 40_000
    # Six projections in each of 24 layers, and OPT's own in and out.
    assert eight_bit_layers(base) == 6 * 24 + 2
    for stage in TEXT:
        assert artifacts.metrics(stage, made[stage]), stage


@pytest.mark.parametrize("stage", ["sft", "rm", "text_eval"])
def test_without_weights_the_locked_experiment_lists_all_that_is_missing(tmp_path: Path, stage: str) -> None:
    (tmp_path / "data").mkdir()
    done = run(tmp_path / "store", "exp_001_mvp", stage, RETAIN_DATA_DIR=str(tmp_path / "data"))
    assert done.returncode == 2, done.stdout + done.stderr
    for missing in ("model.safetensors", "tokenizer.json", "Telco-Customer-Churn.csv", "2023-04-12_oasst_ready"):
        assert missing in done.stderr
    assert ("no NVIDIA GPU is found" in done.stderr) is not preflight.has_gpu()
    assert "Traceback" not in done.stderr
    # Refused before anything was attempted, and so not tried again either.
    assert list((tmp_path / "store").rglob("execution/*")) == []
    assert not (tmp_path / "store" / "ledger").exists()
