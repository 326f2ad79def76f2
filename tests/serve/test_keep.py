"""What operators do with the database: deletion, keeping, export, backup."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from retain.decision import History
from serve import backup as backups
from serve import keep
from serve.database import Database, wall_clock
from serve.keep import add_commands, exported, forget, prune, run
from serve.operations import Ask, Complete, Past, Suppress
from tests.serve.databases import Server
from tests.serve.memory import DAY, MONTH, START, Clock, Memory, balance, nobody, offer


def main(arguments: list[str]) -> int:
    """As `python -m serve` does."""
    parser = argparse.ArgumentParser()
    add_commands(parser)
    return run(parser.parse_args(arguments))


@pytest.fixture
def memory(url: str) -> Iterator[Memory]:
    memory = Memory(url)
    yield memory
    memory.close()


def count(database: Database, table: str) -> int:
    with database.reading() as connection:
        rows: int = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar() or 0
        return rows


# -- deletion ------------------------------------------------------------------------------------------------------


def test_a_forgotten_customer_leaves_money_and_opt_out(memory: Memory) -> None:
    accepted = memory.ask("Ann", key="k").decision_id
    memory.tell(accepted, "accepted")
    memory.clock.now += 7 * MONTH
    waiting = memory.ask("Ann").decision_id
    stays = memory.ask("Ben").decision_id
    memory.do(Suppress("Ann", "by post"))
    committed = memory.state.standing.committed
    assert memory.state.standing.open == 2
    assert forget(memory.database, "Ann") == 2
    assert forget(memory.database, "Ann") == 0
    assert memory.find(accepted) is memory.find(waiting) is None
    assert memory.find(stays) is not None
    assert (memory.state.standing.committed, memory.state.standing.open) == (committed, 1)
    assert count(memory.database, "outcome") == count(memory.database, "request_key") == 0
    seen: list[Past] = []
    memory.ask("Ann", offer(seen=seen))
    assert seen == [Past(History(), True)]


def test_what_is_older_than_it_is_kept_goes(memory: Memory) -> None:
    old = memory.ask("Ann", key="old").decision_id
    memory.tell(old, "complained")
    unsettled = memory.ask("Ben").decision_id
    memory.clock.now += 31 * DAY
    for number in range(keep.AT_ONCE + 7):
        memory.state.carry_out([Ask(None, f"k{number}", b"", nobody)])
    memory.ask("Cem", key="new")
    memory.clock.now += 20 * DAY
    memory.ask("Dan", key="newer")
    assert prune(memory.database, 400, memory.clock.now) == 0
    assert count(memory.database, "request_key") == keep.AT_ONCE + 9  # without the one of 51 days ago
    memory.clock.now = START + 31 * DAY + 400 * DAY
    assert prune(memory.database, 400, memory.clock.now) == 1 + 1
    assert memory.find(old) is memory.find(unsettled) is None
    memory.clock.now += DAY
    assert prune(memory.database, 400, memory.clock.now) == keep.AT_ONCE + 8
    assert (count(memory.database, "decision"), count(memory.database, "outcome")) == (1, 0)
    assert count(memory.database, "request_key") == 0


def test_an_offer_that_was_not_settled_yet_is_kept(url: str) -> None:
    """Nothing ran for a year: the wallet still holds for it."""
    memory = Memory(url)
    memory.ask("Ann")
    assert prune(memory.database, 400, START + 500 * DAY) == 0
    memory.clock.now += 500 * DAY
    memory.state.carry_out([])
    balance(memory.database)
    assert prune(memory.database, 400, START + 500 * DAY) == 1
    memory.close()


# -- export --------------------------------------------------------------------------------------------------------


def test_an_export_has_every_decision_once_with_its_outcomes(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep, "AT_ONCE", 3)
    names = []
    for number in range(10):
        memory.clock.now += number % 2 * DAY  # two at a time
        names.append(memory.ask(f"c{number % 7}" if number else None, nobody).decision_id)
    memory.tell(names[4], "churned")
    memory.tell(names[4], "revenue", month=2, amount=19.5)
    memory.do(Complete(names[5], b'{"offer":20}'))
    lines = [json.loads(line) for line in exported(memory.database, "key")]
    assert sorted(line["decision_id"] for line in lines) == sorted(names)
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    by_name = {line["decision_id"]: line for line in lines}
    told = by_name[names[4]]["outcomes"]
    assert [(one["kind"], one["month"], one["amount"]) for one in told] == [
        ("churned", None, None),
        ("revenue", 2, 19.5),
    ]
    assert by_name[names[5]]["shadow"] == {"offer": 20}
    assert by_name[names[0]]["answer"] == {"decision_id": names[0]}
    assert by_name[names[0]]["detail"] == {"risk": 0.5}
    assert by_name[names[0]]["customer"] is None
    assert by_name[names[1]]["customer"] == by_name[names[8]]["customer"] != by_name[names[2]]["customer"]


def test_a_pseudonym_is_no_id_and_another_with_another_key(memory: Memory) -> None:
    memory.ask("Ann")
    first, second, third = (json.loads(next(exported(memory.database, key))) for key in ("a", "b", None))
    assert len({first["customer"], second["customer"], third["customer"]}) == 3
    with memory.database.reading() as connection:
        kept = connection.exec_driver_sql("SELECT customer FROM decision").scalar()
    assert bytes(kept).hex() not in {first["customer"], second["customer"], third["customer"]}
    assert [json.loads(line) for line in exported(memory.database, "a")] == [first]


def test_an_export_keeps_no_writer_waiting(memory: Memory, url: str) -> None:
    for number in range(3):
        memory.ask(f"c{number}")
    lines = exported(memory.database, "key")
    first = next(lines)
    other = Memory(url, clock=memory.clock)
    other.ask("Zoe")
    other.close()
    assert len([first, *lines]) >= 3


# -- backup --------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "state" / "serving.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")
    return file


def test_a_backup_of_a_running_service_is_put_back(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = Memory(f"sqlite:///{file}")
    before = memory.ask("Ann", key="k").decision_id
    copy = tmp_path / "copy.db"
    assert main(["backup", str(copy)]) == 0
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == ["copy.db"]
    after = memory.ask("Ben").decision_id
    assert main(["backup", str(copy)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["restore", str(copy), "--replace"]) == 2
    assert "stop the service first" in capsys.readouterr().err
    memory.close()
    assert main(["restore", str(copy)]) == 2
    assert "holds decisions, which would be lost: say --replace" in capsys.readouterr().err
    assert main(["restore", str(copy), "--replace"]) == 0
    restored = Memory(f"sqlite:///{file}", clock=memory.clock)
    assert restored.ask("Ann", key="k").decision_id == before
    assert restored.find(after) is None
    assert balance(restored.database) == (1.0, 1)
    restored.close()
    assert file.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in file.parent.iterdir()} == {
        f"serving.db{name}" for name in ("", "-next", "-turn", "-users")
    }


def test_a_backup_takes_the_place_of_a_damaged_database(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a log beside it that SQLite would write into the restored file."""
    memory = Memory(f"sqlite:///{file}")
    before = memory.ask("Ann").decision_id
    assert main(["backup", str(tmp_path / "copy.db")]) == 0
    memory.ask("Ben")
    shutil.copy(f"{file}-wal", tmp_path / "wal")
    memory.close()
    file.write_bytes(b"x" * 10_000)
    shutil.copy(tmp_path / "wal", f"{file}-wal")
    assert main(["restore", str(tmp_path / "copy.db")]) == 2
    monkeypatch.setattr(backups, "_holds_decisions", lambda path: True)  # which looks, and so writes the log
    shutil.copy(tmp_path / "wal", f"{file}-wal")
    assert main(["restore", str(tmp_path / "copy.db"), "--replace"]) == 0
    restored = Memory(f"sqlite:///{file}", clock=memory.clock)
    assert restored.ask("Ann").decision_id == before
    assert count(restored.database, "decision") == 1
    restored.close()


def test_a_backup_is_restored_where_there_is_no_database(file: Path, tmp_path: Path) -> None:
    memory = Memory(f"sqlite:///{file}")
    before = memory.ask("Ann").decision_id
    memory.close()
    assert main(["backup", str(tmp_path / "copy.db")]) == 0
    shutil.rmtree(file.parent)
    assert main(["restore", str(tmp_path / "copy.db")]) == 0
    restored = Memory(f"sqlite:///{file}", clock=memory.clock)
    assert restored.ask("Ann").decision_id == before
    restored.close()


def test_only_a_whole_backup_is_restored(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Memory(f"sqlite:///{file}").close()
    copy = tmp_path / "copy.db"
    assert main(["restore", str(copy)]) == 2
    assert "no such file" in capsys.readouterr().err
    copy.write_bytes(b"x" * 5000)
    assert main(["restore", str(copy)]) == 2
    assert "is no backup" in capsys.readouterr().err
    copy.unlink()
    with sqlite3.connect(copy) as other:
        other.execute("CREATE TABLE x (y)")
    other.close()
    assert main(["restore", str(copy)]) == 2
    assert "is no backup" in capsys.readouterr().err
    copy.unlink()
    assert main(["backup", str(copy)]) == 0
    with sqlite3.connect(copy) as other:
        other.execute("UPDATE retain_schema SET version_num = '9999'")
    other.close()
    assert main(["restore", str(copy)]) == 2
    assert "schema 9999 is newer" in capsys.readouterr().err


def test_a_backup_that_fails_leaves_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(f"sqlite:///{file}").close()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    assert main(["backup", str(tmp_path / "copy.db")]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_what_postgresql_has_tools_for_is_left_to_them(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", server.create("kept"))
    Memory(os.environ["DATABASE_URL"]).close()
    for command, tool in (("backup", "pg_dump"), ("restore", "pg_restore")):
        assert main([command, str(tmp_path / "copy")]) == 2
        assert tool in capsys.readouterr().err


# -- commands ------------------------------------------------------------------------------------------------------


def test_commands_work_beside_a_service(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    memory = Memory(f"sqlite:///{file}", clock=Clock(wall_clock() - 500 * DAY))
    memory.ask("Ann", nobody)
    memory.ask("Ben", nobody)
    monkeypatch.setenv("PSEUDONYM_KEY", "key")
    assert main(["export"]) == 0
    assert capfdbinary.readouterr().out.splitlines(True) == list(exported(memory.database, "key"))
    assert main(["forget", "Ann"]) == 0
    assert main(["prune"]) == 0
    assert capfdbinary.readouterr().out == b"deleted 1 decisions\ndeleted 1 decisions older than 400 days\n"
    memory.close()


def test_commands_make_no_database(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export"]) == 2
    assert "there is no database" in capsys.readouterr().err
    assert not file.exists()
