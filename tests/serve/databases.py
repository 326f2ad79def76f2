"""Databases for tests: an SQLite file and, where PostgreSQL's programs are installed, a private server."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

# Debian keeps them out of the path.
FOLDERS = [os.environ.get("PATH", ""), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]
REQUIRED = "RETAIN_TEST_POSTGRES"  # set where tests on PostgreSQL may not be skipped


@dataclass
class Server:
    """PostgreSQL behind a Unix socket in `folder`, where nobody else looks."""

    folder: Path
    command: list[str]
    options: dict[str, Any]  # of the process
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, **self.options)
        for _ in range(600):
            try:
                with self.admin():
                    return
            except psycopg.OperationalError:
                assert self.process.poll() is None, "PostgreSQL didn't start"
                time.sleep(0.1)
        raise AssertionError("PostgreSQL doesn't answer")

    def stop(self) -> None:
        """Without waiting for its clients."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)

    def url(self, database: str) -> str:
        return f"postgresql://retain@/{database}?host={self.folder}"

    def create(self, database: str, folder: Path | None = None) -> str:
        """An empty database, whose tables lie below `folder`, if one is given; its address."""
        with self.admin() as connection:
            if folder is None:
                connection.execute(f'CREATE DATABASE "{database}"')
            else:
                tables = folder / "tables"
                tables.mkdir()
                os.chown(tables, self.options.get("user", -1), self.options.get("group", -1))
                connection.execute(f"CREATE TABLESPACE \"{database}\" LOCATION '{tables}'")
                connection.execute(f'CREATE DATABASE "{database}" TABLESPACE "{database}"')
        return self.url(database)

    @contextmanager
    def admin(self) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            yield connection


def _program(name: str) -> str | None:
    return next((found for folder in FOLDERS if (found := shutil.which(name, path=folder))), None)


@contextmanager
def postgresql() -> Iterator[Server]:
    """A server of its own; skips where there is none to start."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        missing = "PostgreSQL's initdb and postgres aren't installed"
        if os.environ.get(REQUIRED):
            pytest.fail(missing)
        pytest.skip(missing)
    # It refuses to run as root. Its socket's path has room for 107 characters, fewer than those of tmp_path.
    nobody = pwd.getpwnam("nobody")
    other = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="retain-pg-"))
    if other:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": folder, **other}
    try:
        options = ["--auth=trust", "--username=retain", "--encoding=UTF8", "--no-locale", "--no-sync"]
        subprocess.run([initdb, f"--pgdata={folder}/data", *options], check=True, **quiet)
        settings = {"unix_socket_directories": folder, "listen_addresses": "", "max_connections": 50, "fsync": "off"}
        arguments = [f"-c{name}={value}" for name, value in settings.items()]
        server = Server(folder, [postgres, "-D", f"{folder}/data", *arguments], quiet)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
