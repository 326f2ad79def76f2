"""RETAIN_DATA_DIR in a bucket: the sources are those of a folder with the same bytes, and what is refused is said."""

from __future__ import annotations

import gc
import gzip
import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import engine.bucket
from engine.errors import DataError, RetainError, StoreUnavailable
from engine.ledger import entries
from engine.store import FolderStore
from flows import sources
from flows.__main__ import main
from flows.attempt import run_attempt
from flows.changes import begin
from flows.data_folder import BucketFolder, data_folder
from flows.plan import load_experiment, make_plan, put_sources
from flows.sources import Source
from flows.wanted import Wanted, weight_files
from tasks.config import BaseConfig
from tasks.data import synthetic
from tests.datasets import described
from tests.engine.bucket_double import Buckets, Server, Session, serving
from tests.engine.processes import message_without_privileges, race

URL = "gs://bucket/data"
CONTENT = b"a,b\n1,2\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving(Buckets("bucket")) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
        yield server


@pytest.fixture
def buckets(server: Server) -> Buckets:
    return server.buckets


def put(buckets: Buckets, name: str, content: bytes, encoding: str | None = None) -> None:
    """Another program's upload into the data folder."""
    assert buckets.put(Session("bucket", f"data/{name}", None, {}, encoding, bytearray(content)))


def wanted(name: str = "table.csv", **changes: Any) -> Wanted:
    return replace(Wanted(name, (name,), None, None), **changes)


def resolve(tmp_path: Path, *files: Wanted, data: Path | None = None) -> Source:
    """As a new plan finds the files: in the bucket, unless in a folder."""
    return sources.resolve({"x": files}, data or BucketFolder(URL), tmp_path / "downloads")["x"]


def fetched(buckets: Buckets) -> int:
    """How many downloads were asked for since the last call."""
    number = sum("alt=media" in line for line in buckets.requests)
    buckets.requests.clear()
    return number


# --- what is there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "encoding"),
    [
        ("table.csv", CONTENT, None),
        ("table.csv.gz", gzip.compress(CONTENT), None),
        ("table.csv", gzip.compress(CONTENT), "gzip"),  # as `gcloud storage cp --gzip-local-all` leaves it
        ("table.csv", b"", None),
    ],
)
def test_a_file_of_the_bucket_is_the_file_of_a_folder(
    buckets: Buckets, tmp_path: Path, name: str, content: bytes, encoding: str | None
) -> None:
    put(buckets, name, content, encoding)
    plain = CONTENT if content else b""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "table.csv").write_bytes(plain)
    there = resolve(tmp_path, wanted())
    assert there.digest == resolve(tmp_path, wanted(), data=tmp_path / "folder").digest
    assert (there.kind, there.note) == ("bucket", f"{URL}/{name}")
    assert there.path is not None
    assert there.path.read_bytes() == plain
    assert there.sha256 == hashlib.sha256(plain).hexdigest()


def test_texts_and_weights_in_folders_of_their_own(buckets: Buckets, tmp_path: Path) -> None:
    for name in ("texts/a.jsonl", "facebook/opt-350m/model.safetensors", "facebook/opt-350m/"):
        put(buckets, name, name.encode())
    files = ({"name": "model.safetensors", "url": None, "sha256": None},)
    base = BaseConfig.model_validate(
        {
            "model": "facebook/opt-350m",
            "weights": "hub",
            "tokenizer": "own",
            "precision": "float32",
            "shape": None,
            "pretraining": None,
            "files": files,
        }
    )
    found = resolve(tmp_path, wanted("texts/a.jsonl"), wanted("./texts/a.jsonl"), *weight_files(base))
    assert [file.path.read_bytes().decode() for file in found.files] == [
        "texts/a.jsonl",
        "texts/a.jsonl",
        "facebook/opt-350m/model.safetensors",
    ]


def test_weights_of_another_hash_are_not_used(buckets: Buckets, tmp_path: Path) -> None:
    put(buckets, "model.safetensors", CONTENT)
    found = resolve(tmp_path, wanted("model.safetensors", sha256="0" * 64, exact=True))
    assert found.missing["model.safetensors"].startswith(f"{URL}/model.safetensors is not the published file (sha256 ")


def test_a_file_on_this_machine_and_one_that_is_nowhere(buckets: Buckets, tmp_path: Path) -> None:
    put(buckets, "other.csv", CONTENT)
    (tmp_path / "own.csv").write_bytes(CONTENT)
    found = resolve(tmp_path, wanted(str(tmp_path / "own.csv")), wanted())
    assert [file.kind for file in found.files] == ["folder"]
    assert found.missing == {"table.csv": f"{URL} has no table.csv; no public address is stated"}
    lacking = sources.lacking({"x": [wanted(), wanted("other.csv")]}, BucketFolder(URL), tmp_path / "downloads")
    assert lacking == {"x": found.missing}


def test_no_more_is_asked_for_than_a_reader_may(buckets: Buckets, tmp_path: Path) -> None:
    put(buckets, "table.csv", CONTENT)
    resolve(tmp_path, wanted())
    assert [line.split("?")[0] for line in buckets.requests] == [
        "HEAD /",  # what time it is
        "GET /storage/v1/b/bucket/o",
        "GET /download/storage/v1/b/bucket/o/data%2Ftable.csv",
    ]


def test_it_is_fetched_once_and_again_when_it_was_replaced(buckets: Buckets, tmp_path: Path) -> None:
    put(buckets, "table.csv", CONTENT)
    put(buckets, "other.csv", b"other")
    both = wanted(), wanted("other.csv")
    first = resolve(tmp_path, *both)
    assert fetched(buckets) == 2
    assert resolve(tmp_path, *both).digest == first.digest
    assert fetched(buckets) == 0
    put(buckets, "table.csv", CONTENT + b"3,4\n")
    second = resolve(tmp_path, *both)
    assert fetched(buckets) == 1
    assert second.digest != first.digest
    assert second.path is not None
    assert first.path is not None
    assert (first.path.read_bytes(), second.path.read_bytes()) == (CONTENT, CONTENT + b"3,4\n")
    put(buckets, "table.csv", CONTENT)  # another upload of what was there
    assert resolve(tmp_path, *both).digest == first.digest
    assert fetched(buckets) == 1


def test_a_damaged_copy_and_a_lost_one_are_fetched_again(buckets: Buckets, tmp_path: Path) -> None:
    put(buckets, "table.csv", CONTENT)
    digest = resolve(tmp_path, wanted()).digest
    kept = tmp_path / "cache" / hashlib.sha256(CONTENT).hexdigest()
    kept.chmod(0o644)
    kept.write_bytes(b"damaged")
    assert resolve(tmp_path, wanted()).digest == digest
    kept.unlink()
    assert resolve(tmp_path, wanted()).digest == digest
    (note,) = (tmp_path / "cache" / "versions").iterdir()
    note.write_text("half a no")
    assert resolve(tmp_path, wanted()).digest == digest
    assert note.read_text() == kept.name


def test_what_the_cache_lets_go_stays_with_the_plan(
    buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.cache.GIGABYTE", 1)
    monkeypatch.setattr("engine.cache.SIZES", lambda name, text: 10)
    for name in ("a", "b", "c"):
        put(buckets, name, name.encode() * 8)
    found = resolve(tmp_path, wanted("a"), wanted("b"), wanted("c"))
    assert [file.path.read_bytes() for file in found.files] == [b"a" * 8, b"b" * 8, b"c" * 8]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_file()]) == 1


# --- on the way --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_download_that_breaks_goes_on_and_is_checked(buckets: Buckets, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    put(buckets, "table.csv", content)
    buckets.set(torn=0.6, refused=0.2, seed=2)
    found = resolve(tmp_path, wanted())
    assert fetched(buckets) > 1, "nothing broke"
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    gc.collect()  # sockets of broken downloads, which Google's library leaves open


def test_what_arrives_damaged_is_not_used(buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.bucket, "RETRY", engine.bucket.RETRY.with_timeout(0.3))
    put(buckets, "table.csv", CONTENT)
    folder = BucketFolder(URL)
    buckets.objects["bucket"]["data/table.csv"].content = b"x,y\n1,2\n"
    with pytest.raises(StoreUnavailable, match=r"^RETAIN_DATA_DIR: gs://bucket/data: .*table\.csv arrived damaged"):
        sources.resolve({"x": [wanted()]}, folder, tmp_path / "downloads")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_file()] == []


def test_a_plan_has_the_files_of_one_moment(buckets: Buckets, tmp_path: Path) -> None:
    put(buckets, "table.csv", CONTENT)
    folder = BucketFolder(URL)
    put(buckets, "table.csv", b"newer")
    found = sources.resolve({"x": [wanted()]}, folder, tmp_path / "downloads")["x"]
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_what_is_gone_before_it_is_fetched(buckets: Buckets, tmp_path: Path) -> None:
    """In a bucket that keeps no older versions."""
    put(buckets, "table.csv", CONTENT)
    folder = BucketFolder(URL)
    buckets.versioning = False
    put(buckets, "table.csv", b"newer")
    with pytest.raises(DataError, match=r"^gs://bucket/data/table\.csv: was replaced or deleted while it was fetched"):
        sources.resolve({"x": [wanted()]}, folder, tmp_path / "downloads")


def test_a_file_that_is_too_large_is_not_fetched(buckets: Buckets, tmp_path: Path) -> None:
    put(buckets, "table.csv", bytes(1001))
    with pytest.raises(DataError, match=r"gs://bucket/data/table\.csv: holds more than 1,000 bytes"):
        resolve(tmp_path, wanted(max_bytes=1000))
    assert fetched(buckets) == 0


def test_a_cache_that_can_not_be_written_is_named(buckets: Buckets, tmp_path: Path) -> None:
    put(buckets, "table.csv", CONTENT)
    (tmp_path / "cache").mkdir(mode=0o555)
    message = message_without_privileges(resolve, tmp_path, wanted())
    assert message == (
        f"{tmp_path}/cache: can't be written (Permission denied). User {os.geteuid()} has to be let in. "
        "RETAIN_CACHE may name another folder"
    )


# --- plans and runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def tables(buckets: Buckets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seeded tables in the bucket, with a store of this test; and the same bytes in a folder, which is returned."""
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RETAIN_DATA_DIR", URL)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in made_up().items():
        (folder / name).write_bytes(content)
        put(buckets, name, content)
    return folder


@cache
def made_up() -> dict[str, bytes]:
    specs = [described(name) for name in ("telco", "bank")]
    return {spec.source.files[0]: synthetic.csv(spec, seed=1) for spec in specs}


def table(folder: Path) -> Path:
    (found,) = folder.glob("Telco*")
    return found


def test_a_stage_sees_a_folder_of_this_machine_and_its_artifact_is_that_of_the_folder(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("local", ["customers"])
    put_sources(plan)
    (stage,) = plan.stages
    identity = plan.identity(stage, {})
    ending = run_attempt(plan, stage, identity, {}, lambda child: None)
    assert ending.code == 0, ending.record.message
    monkeypatch.setenv("RETAIN_DATA_DIR", str(tables))
    assert make_plan("local", ["customers"]).reusable() == {"customers": identity.fingerprint}


def test_a_store_in_the_same_bucket(tables: Path, buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", "gs://bucket/store")
    put_sources(plan := make_plan("local", ["risk"]))
    (key,) = plan.source_keys("customers").values()
    stored = plan.store.read(key)
    assert stored is not None
    assert stored[0] == table(tables).read_bytes()


def test_a_newer_object_is_a_change(tables: Path, buckets: Buckets) -> None:
    name, content = table(tables).name, table(tables).read_bytes()
    plan = make_plan("local", ["customers"])
    identity = plan.standing()["customers"]
    assert identity is not None
    plan.artifacts.publish("customers", identity.fingerprint, tables)
    plan.artifacts.set_current("customers", identity.fingerprint)
    plan.store.write(
        f"{plan.artifacts.prefix('customers', identity.fingerprint)}/identity.json", identity.model_dump_json().encode()
    )
    assert begin(make_plan("local", ["customers"]), owner="").changed == ()
    put(buckets, name, content + content.splitlines(keepends=True)[-1])
    (line,) = begin(make_plan("local", ["customers"]), owner="").changed
    assert line.startswith("data of customers (sha256:")


def test_all_that_is_missing_is_said_at_once(tables: Path, buckets: Buckets) -> None:
    buckets.objects["bucket"].pop(f"data/{table(tables).name}")
    with pytest.raises(DataError) as refused:
        make_plan("retrain")
    lines = str(refused.value).splitlines()
    assert any(f"  customers: {table(tables).name} ({URL} has no {table(tables).name}" in line for line in lines)


@pytest.mark.parametrize(
    ("url", "faults", "says"),
    [
        ("gs://other/data", {}, "RETAIN_DATA_DIR=gs://other/data: there is no bucket other; name another one"),
        ("gs://bucket/dta", {}, "RETAIN_DATA_DIR=gs://bucket/dta: nothing lies there. Name the folder of the bucket"),
        ("gs://Bucket", {}, "RETAIN_DATA_DIR: gs://Bucket: is no address of a bucket; write it as gs://bucket"),
        ("s3://bucket/data", {}, "RETAIN_DATA_DIR=s3://bucket/data: is neither a folder nor gs://bucket/folder"),
        (
            URL,
            {"denied": ["storage.objects.list"]},
            "RETAIN_DATA_DIR: gs://bucket/data: this account lacks storage.objects.list",
        ),
        (URL, {"denied": ["storage.objects.get"]}, "grant it roles/storage.objectViewer"),
        (URL, {"clock_s": -7200.0}, "RETAIN_DATA_DIR: gs://bucket/data: this machine's clock is 120 minutes ahead"),
        (URL, {"clock_s": 7200.0}, "this machine's clock is 120 minutes behind"),
    ],
)
def test_what_can_not_be_read_is_said_in_a_line_before_money_is_reserved(
    tables: Path,
    buckets: Buckets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str,
    faults: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.setenv("RETAIN_DATA_DIR", url)
    buckets.set(**faults)
    assert main(["run", "--stage", "customers"]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: RETAIN_DATA_DIR")
    assert says in line
    assert entries(FolderStore(tmp_path / "store"), load_experiment("local").costs.scope) == []


def test_a_network_that_is_gone(
    tables: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.gone = True
    assert main(["why", "customers"]) == StoreUnavailable.exit_code
    assert "error: RETAIN_DATA_DIR: gs://bucket/data: http://127.0.0.1" in capsys.readouterr().err


def test_no_credentials(tables: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.bucket.BucketStore.check_clock", lambda self: None)  # it asks Google
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(RetainError, match=r"^RETAIN_DATA_DIR: gs://bucket/data: no credentials of Google Cloud") as e:
        make_plan("local", ["customers"])
    assert "\n" not in str(e.value)


def test_without_google_s_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "engine.bucket", raising=False)
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(RetainError, match=r"RETAIN_DATA_DIR=gs://bucket/data: wants google-cloud-storage, which isn't"):
        data_folder({"RETAIN_DATA_DIR": URL})


def test_plans_that_are_made_at_once(tables: Path, tmp_path: Path) -> None:
    """Four processes, each with a cache that has nothing yet."""

    def plan(_: int) -> str:
        made = make_plan("local", ["risk", "accept"])
        put_sources(made)
        return "".join(source.digest for source in made.sources.values())

    assert len(set(race(4, plan))) == 1
    assert {path.name for path in (tmp_path / "store" / "sources").iterdir()} == {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in tables.iterdir()
    }
