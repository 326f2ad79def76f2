"""The README and the list of settings say what is true: rooms, commands, environment variables."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from deploy import settings as deploy_settings
from engine import environment
from flows import server
from serve.settings import SETTINGS
from tests.docs.documents import named_targets, section

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text()
ENVIRONMENT = "What a run takes from the environment"  # tests/docs/test_environment.py compares it with the code
PACKAGES = ["engine", "retain", "tasks", "flows", "serve", "deploy", "eval", "images"]


def tree() -> dict[str, str]:
    """Folder -> its line in the README's tree; a folder of tasks is indented below it."""
    (block,) = re.findall(r"```\n(engine/.*?)```", README, flags=re.DOTALL)
    found = {}
    for line in block.splitlines():
        indent, name, what = re.fullmatch(r"( *)(\S+)/ +(.+)", line).groups()  # type: ignore[union-attr]
        found[f"tasks/{name}" if indent else name] = what
    return found


def rooms() -> set[str]:
    """Folders that git knows at the top."""
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return {path.partition("/")[0] for path in listed.stdout.splitlines() if "/" in path}


def test_every_room_has_a_line_and_every_line_a_room() -> None:
    named = {name for name in tree() if "/" not in name}
    assert named == rooms()


def test_stage_families_have_a_line() -> None:
    families = {path.parent.name for path in (PROJECT / "tasks").glob("*/__init__.py")}
    assert {name.partition("/")[2] for name in tree() if "/" in name} == families


def test_it_is_short_and_names_the_two_commands() -> None:
    assert len(README.splitlines()) <= 140
    assert {"run", "test", "serve"} <= named_targets(README)


def settings_of_code() -> set[str]:
    """Environment variables that the packages, the benchmarks and the Makefile read."""
    used: set[str] = set()
    for package in (*PACKAGES, "bench"):
        for path in (PROJECT / package).rglob("*.py"):
            text = path.read_text()
            used |= set(re.findall(r"environ(?:ment)?(?:\.get\(|\[)\s*\"([A-Z_]+)\"(?!\] *=)", text))
            used |= set(re.findall(r"\"([A-Z_]+_PATH)\"", text))
    used |= {setting.name for setting in (*SETTINGS, *deploy_settings.SETTINGS)}
    makefile = (PROJECT / "Makefile").read_text()
    given = (
        "EXPERIMENT",
        "STAGE",
        "USD",
        "FOR",
        "PYTHON",
        "VENV",
        "BY",
        "EXCEPT",
        "ONLY",
        "PUSH",
        "SERVER",
        "ACCELERATOR",
    )
    used |= {name for name in given if f"$({name})" in makefile}
    others = ("PREFECT_", "OMP_", "OPENBLAS_")  # of libraries
    handed_on = {*environment.TAKEN, *server.TAKEN}  # tests/docs/test_environment.py looks for these
    return {name for name in used - handed_on if not name.startswith(others) and name != "PYTHONHASHSEED"}


def test_every_setting_is_explained() -> None:
    """A setting that only the code knows is none, and one that only the document knows is no longer there."""
    settings = settings_of_code()
    assert {"RETAIN_STORE", "RELEASE_PATH", "PPO_POLICY_PATH", "FORCE_BASELINE", "PYTHON", "VENV", "STAGE"} <= settings
    document = (PROJECT / "docs" / "SETTINGS.md").read_text()
    text = document.replace(section(document, ENVIRONMENT), "")
    explained = set(re.findall(r"`([A-Z][A-Z_]+)(?:=[^`]*)?`", text))
    assert settings == explained


def test_no_path_of_a_machine_is_in_the_repository() -> None:
    """Data comes by RETAIN_DATA_DIR; .ci/run alone looks for a folder beside the project."""
    pattern = r"(?<![\w.])/(?:work|home|Users|tmp|root)/\w|\.\./shared"
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = set()
    for name in listed.stdout.splitlines():
        path = PROJECT / name
        if path.is_file() and path != Path(__file__) and re.search(pattern, path.read_text(errors="replace")):
            found.add(name)
    assert found <= {".ci/run"}
