"""Set-up by make, with a Python that only plays one: what is half made is mended or named, never taken for whole."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
# Lies beside its environment's `pip` once that is installed, and writes down how it was called. FAKE_KILL kills make
# while that module is at work; NO_ENSUREPIP and LACKS_LIBRARIES make it a Python of that kind.
FAKE = """#!/bin/sh
echo "$* ${PIP_TARGET:+into $PIP_TARGET}" >> "$CALLS"
here=$(dirname "$0")/..
killed() { [ "$FAKE_KILL" = "$1" ] && kill -9 $PPID $$; }
case "$*" in
  -V) echo "Python ${FAKE_VERSION:-3.11.9}" ;;
  "-c import sys"*) [ -z "$FAKE_VERSION" ] ;;
  *ensurepip*) [ -z "$NO_ENSUREPIP" ] && case "$1" in -m) touch "$here/pip" ;; esac ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && killed venv; touch "$3/pip" ;;
  "-m pip "*) [ -e "$here/pip" ] && { [ "$3" = --version ] || { killed pip; true; }; } ;;
  .ci/installed.py*) [ -z "$LACKS_LIBRARIES" ] ;;
esac
"""


class SetUp:
    """A checkout with a Makefile and a Python of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.venv = root, root / "calls", root / ".venv"
        (root / ".ci").mkdir()
        for name in ("Makefile", "pyproject.toml", ".ci/installed.py"):
            shutil.copy(PROJECT / name, root / name)
        self.python = self.fake(root / "python3.11")

    def fake(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(FAKE)
        path.chmod(0o755)
        return path

    def make(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`make run` unless told otherwise; the calls of this one alone are in `called`."""
        self.calls.write_text("")
        outer = {"EXPERIMENT", "STAGE", "VENV", "PYTHON", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
        environment = {
            key: value for key, value in os.environ.items() if key not in outer and not key.startswith("PIP")
        }
        return subprocess.run(
            ["make", "--no-print-directory", *(arguments or ("run", f"PYTHON={self.python}"))],
            cwd=self.root,
            env=environment | {"CALLS": str(self.calls)} | variables,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def called(self) -> list[str]:
        return [line.strip() for line in self.calls.read_text().splitlines()]

    @property
    def installed(self) -> bool:
        return (self.venv / ".installed-run").exists()

    def refused(self, says: str, **variables: str) -> None:
        ended = self.make(**variables)
        assert ended.returncode != 0
        lines = [line for line in ended.stderr.splitlines() if not line.startswith("make: ***")]
        assert len(lines) == 1, ended.stderr
        assert says in lines[0]
        assert not any(call.startswith("-m flows") for call in self.called)


@pytest.fixture
def checkout(tmp_path: Path) -> SetUp:
    return SetUp(tmp_path)


def test_an_empty_checkout_is_set_up_once(checkout: SetUp) -> None:
    assert checkout.make().returncode == 0
    assert "-m pip install --quiet --editable .[train,flows,serve]" in checkout.called
    assert checkout.called[-1] == "-m flows run --experiment local"
    assert checkout.make().returncode == 0
    assert checkout.called == ["-m flows run --experiment local"]


def test_containers_and_checks_add_to_what_a_run_needs(checkout: SetUp) -> None:
    assert checkout.make("images", f"PYTHON={checkout.python}").returncode == 0
    assert "-m pip install --quiet --editable .[train,flows,serve,docker]" in checkout.called
    assert checkout.make("types").returncode != 0  # there is no mypy here
    assert "-m pip install --quiet --editable .[train,flows,serve,docker,cloud,dev]" in checkout.called


@pytest.mark.parametrize("at", ["venv", "pip"])
def test_what_was_killed_half_way_is_finished_by_the_next_call(checkout: SetUp, at: str) -> None:
    assert checkout.make(FAKE_KILL=at).returncode != 0
    assert (checkout.venv / "bin" / "python").exists()
    assert not checkout.installed
    ended = checkout.make()
    assert ended.returncode == 0, ended.stderr
    assert checkout.installed
    assert checkout.called[-1] == "-m flows run --experiment local"


def test_a_python_without_ensurepip_is_refused_before_anything_is_made(checkout: SetUp) -> None:
    checkout.refused("has no ensurepip, so it can't make .venv. On Debian and Ubuntu: apt-get", NO_ENSUREPIP="1")
    assert not checkout.venv.exists()
    assert checkout.make().returncode == 0


def test_an_environment_without_pip_that_can_not_be_mended_says_what_to_remove(checkout: SetUp) -> None:
    checkout.make(FAKE_KILL="venv")
    checkout.refused("remove it (rm -r .venv) and run this again", NO_ENSUREPIP="1")


def test_an_environment_whose_python_is_gone_is_linked_to_another(checkout: SetUp) -> None:
    assert checkout.make().returncode == 0
    for name in ("python", "python3"):
        (checkout.venv / "bin" / name).unlink(missing_ok=True)
        (checkout.venv / "bin" / name).symlink_to(checkout.root / "uninstalled" / "python3.11")
    ended = checkout.make()
    assert ended.returncode == 0, ended.stderr
    assert "-m venv .venv" in checkout.called
    assert checkout.called[-1] == "-m flows run --experiment local"
    assert not any("install" in call for call in checkout.called)  # the libraries are still there


def test_an_environment_of_another_python_says_what_to_remove(checkout: SetUp) -> None:
    checkout.fake(checkout.venv / "bin" / "python")
    checkout.refused(
        "its Python is Python 3.12.1, and Retain needs 3.11. Remove it (rm -r .venv)", FAKE_VERSION="3.12.1"
    )


def test_libraries_that_pip_put_elsewhere_do_not_count_as_installed(checkout: SetUp) -> None:
    assert checkout.make(LACKS_LIBRARIES="1").returncode != 0
    assert not checkout.installed
    assert checkout.make(PIP_TARGET="/elsewhere").returncode == 0
    assert not any("elsewhere" in call for call in checkout.called)


def test_variables_of_the_shell_do_not_steer_make(checkout: SetUp) -> None:
    shell = {"VENV": "/elsewhere", "PYTHON": "/elsewhere/python2", "STAGE": "risk"}
    shown = checkout.make("--dry-run", "why", **shell).stdout
    assert "elsewhere" not in shown
    assert shown.splitlines()[-1].rstrip() == ".venv/bin/python -m flows why --experiment 'local'"
    given = checkout.make("--dry-run", "why", *(f"{name}={value}" for name, value in shell.items())).stdout
    assert given.splitlines()[-1] == "/elsewhere/bin/python -m flows why --experiment 'local' risk"
    assert "/elsewhere/python2 -m venv /elsewhere" in given


def test_what_is_installed_is_compared_with_the_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking: Callable[[list[str]], list[str]] = runpy.run_path(str(PROJECT / ".ci" / "installed.py"))["lacking"]
    assert lacking(["train", "flows", "serve"]) == []
    names = lacking.__globals__  # type: ignore[attr-defined]
    of_others = "nobody-has-this==1; sys_platform == 'another'"
    monkeypatch.setitem(names["PROJECT"], "dependencies", ["numpy==1.0", "nobody-has-this==1", "pyyaml>=6", of_others])
    assert lacking([]) == ["numpy==1.0", "nobody-has-this==1"]


def test_scripts_run_in_a_checkout_that_git_gives_windows_line_ends(tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    (origin / ".ci").mkdir(parents=True)
    for name in (".gitattributes", ".ci/run"):
        shutil.copy(PROJECT / name, origin / name)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    commands: list[tuple[str, ...]] = [("-C", str(origin), "init", "-q"), ("-C", str(origin), "add", ".")]
    commands += [("-C", str(origin), *identity, "commit", "-q", "-m", "a script")]
    commands += [("-c", "core.autocrlf=true", "clone", "-q", str(origin), str(clone))]
    for command in commands:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        subprocess.run(["git", *command], env=environment, check=True, capture_output=True)
    assert b"\r" not in (clone / ".ci" / "run").read_bytes()
