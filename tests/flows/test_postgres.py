"""The database of `make up` where it is built from Debian's packages: its making is killed at every step."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from flows import platform

# What PostgreSQL's programs leave, as far as start.sh is concerned. Each may be killed by its name in $KILLED.
INITDB = """
for argument; do case $argument in --pgdata=*) folder=${argument#--pgdata=};; esac; done
[ -z "$(ls -A "$folder")" ] || { echo "$folder is not empty"; exit 1; }
echo 15 > "$folder/PG_VERSION"  # as early as initdb does
[ "$KILLED" = initdb ] && kill -9 $PPID
mkdir "$folder/base"
echo local > "$folder/pg_hba.conf"
"""
POSTGRES = """
if [ "$1" = --single ]; then
  [ "$KILLED" = postgres ] && kill -9 $PPID
  cat > "$3/base/databases"
else
  echo serving
fi
"""
FIND = """
[ "$KILLED" = find ] && case $* in *!*) mv "$1/base" "$PGDATA/base"; kill -9 $PPID;; esac
exec /usr/bin/find "$@"
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("initdb", INITDB), ("postgres", POSTGRES), ("find", FIND)):
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(stat.S_IRWXU)
    return folder


def start(programs: Path, killed: str) -> subprocess.CompletedProcess[str]:
    data = programs.parent / "data"
    data.mkdir(exist_ok=True)
    given = {"POSTGRES_USER": "prefect", "POSTGRES_DB": "prefect", "POSTGRES_PASSWORD": "x", "PGDATA": str(data)}
    return subprocess.run(
        ["bash", str(platform.POSTGRES_FOLDER / "start.sh")],
        env={"PATH": f"{programs}:{os.environ['PATH']}", "KILLED": killed, **given},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("killed", ["", "initdb", "postgres", "find"])
def test_a_database_that_was_killed_while_it_was_made_is_made_anew(programs: Path, killed: str) -> None:
    data = programs.parent / "data"
    first = start(programs, killed)
    assert (first.stdout == "serving\n") == (killed == "")
    for _ in range(2):  # the second time it is there
        again = start(programs, "")
        assert (again.returncode, again.stdout) == (0, "serving\n"), again.stderr
        assert (data / "base" / "databases").read_text() == 'CREATE DATABASE "prefect"\n'
        assert (data / "pg_hba.conf").read_text() == "local\nhost all all all scram-sha-256\n"
        assert sorted(path.name for path in data.iterdir()) == ["PG_VERSION", "base", "pg_hba.conf"]


def test_what_is_no_half_made_database_is_not_removed(programs: Path) -> None:
    """A folder without PG_VERSION that nobody here has begun to make."""
    (programs.parent / "data").mkdir()
    (programs.parent / "data" / "theirs").write_text("x")
    for _ in range(2):
        refused = start(programs, "")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "holds something else than a database" in refused.stderr
    assert [path.name for path in (programs.parent / "data").iterdir()] == ["theirs"]
