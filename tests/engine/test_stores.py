"""What every store holds to, whether it is a folder or a bucket: a key holds all of its bytes or none, and changes only
from the version that was expected."""

from __future__ import annotations

import hashlib
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import engine.bucket
import engine.claim
from engine import approvals, ledger
from engine.artifact import MANIFEST, ArtifactStore, open_artifact
from engine.bucket import BucketStore
from engine.claim import Fenced, Watch, acquire
from engine.errors import BudgetExceeded, RetainError, StoreUnavailable
from engine.patience import Outage, PatientStore
from engine.process import this_process
from engine.store import ABSENT, Conflict, FolderStore, Store, open_store
from tests.engine.bucket_double import Buckets, Handler, Server, Session, Stored, serving
from tests.engine.processes import FORK, PATIENCE_S, increment, message_without_privileges, race, start

OLD, NEW = b"old" * 40_000, b"new" * 50_000
NEVER = "1234567890"  # a version that nobody gave out


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with serving(Buckets("bucket")) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
        yield server


@pytest.fixture
def buckets(server: Server) -> Buckets:
    return server.buckets


@pytest.fixture
def bucket(server: Server) -> BucketStore:
    return open_bucket("gs://bucket/some/prefix")


def open_bucket(url: str) -> BucketStore:
    store = open_store(url)
    assert isinstance(store, BucketStore)
    return store


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return FolderStore(tmp_path / "store")
    found: Store = request.getfixturevalue("bucket")
    return found


def operations(store: Store, key: str, tmp_path: Path) -> tuple[Callable[[], object], ...]:
    """Each of them once, with that key."""
    source = tmp_path / "source"
    source.write_bytes(b"1")
    return (
        lambda: store.read(key),
        lambda: list(store.list(key)),
        lambda: store.write(key, b"gotcha"),
        lambda: store.delete(key),
        lambda: store.put_file(key, source),
        lambda: store.local(key, tmp_path),
    )


def test_reads_what_was_written(store: Store) -> None:
    assert store.read("a/b") is None
    version = store.write("a/b", b"one")
    assert store.read("a/b") == (b"one", version)
    assert store.write("a/b", b"two") != version
    assert store.read("a/b/c") is None  # "a/b" is no folder
    store.write("a/empty", b"")
    stored = store.read("a/empty")
    assert stored is not None
    assert stored[0] == b""


def test_a_write_replaces_just_the_expected_version(store: Store) -> None:
    first = store.write("key", b"1", expect=ABSENT)
    with pytest.raises(Conflict):
        store.write("key", b"2", expect=ABSENT)
    second = store.write("key", b"2", expect=first)
    for key, expect in (("key", first), ("other", second), ("key", NEVER), ("other", NEVER), ("key", "0" * 64)):
        with pytest.raises(Conflict):
            store.write(key, b"3", expect=expect)
    assert store.read("key") == (b"2", second)
    assert store.read("other") is None


def test_the_last_look_may_still_refuse_and_then_nothing_is_written(store: Store) -> None:
    class Late(Exception):
        pass

    def late() -> None:
        raise Late

    version = store.write("key", b"first", last_look=lambda: None)
    with pytest.raises(Late):
        store.write("key", b"second", last_look=late)
    with pytest.raises((Late, Conflict)):
        store.write("key", b"second", NEVER, last_look=late)
    assert store.read("key") == (b"first", version)


def test_a_delete_removes_just_the_expected_version(store: Store) -> None:
    version = store.write("key", b"1")
    for expect in (NEVER, ABSENT, "0" * 64):
        with pytest.raises(Conflict):
            store.delete("key", expect=expect)
    assert store.read("key") is not None
    store.delete("key", expect=version)
    assert store.read("key") is None
    store.delete("key")
    store.delete("key", expect=ABSENT)
    with pytest.raises(Conflict):
        store.delete("key", expect=version)


def test_list_gives_the_keys_below_a_folder_sorted(store: Store) -> None:
    for key in ("p/z", "p/a/x", "p/a/b/y", "p/m/x", "pq/x", "p.json"):
        store.write(key, b"")
    assert list(store.list("p")) == ["p/a/b/y", "p/a/x", "p/m/x", "p/z"]
    assert list(store.list("p/a")) == ["p/a/b/y", "p/a/x"]
    assert list(store.list("p/z")) == []
    assert list(store.list("nothing")) == []
    store.write("p/z", b"another")
    versions = store.versions("p")
    assert versions == {key: version_of(store, key) for key in store.list("p")}
    assert store.versions("nothing") == {}


def test_a_list_goes_on_from_page_to_page(bucket: Store, buckets: Buckets) -> None:
    keys = [f"p/{number}" for number in range(5)]
    for key in keys:
        bucket.write(key, b"")
    buckets.set(page=2)
    assert list(bucket.list("p")) == keys


def test_put_file_writes_once_and_what_is_brought_is_read_only(store: Store, tmp_path: Path) -> None:
    content = os.urandom(1000)
    source = tmp_path / "source"
    source.write_bytes(content)
    key = "files/" + hashlib.sha256(content).hexdigest()
    store.put_file(key, source)
    stored = store.read(key)
    store.put_file(key, source)
    assert store.read(key) == stored, "written again"
    path = store.local(key, tmp_path)
    assert path.read_bytes() == content
    assert path.stat().st_mode & 0o222 == 0


def test_put_file_replaces_what_is_damaged(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    store.write("files/x", b"01234")
    store.put_file("files/x", source)
    stored = store.read("files/x")
    assert stored is not None
    assert stored[0] == b"0123456789"


def test_a_large_file_is_never_held_whole(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where the double, in this process, does."""
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(1 << 20) * 30 + b"end")
    store.put_file("files/warm", tmp_path / "weights")
    monkeypatch.setattr(Path, "read_bytes", None)
    held = 0 if isinstance(store, FolderStore) else 3 * source.stat().st_size
    tracemalloc.start()
    try:
        store.put_file("files/x", source)
        assert tracemalloc.get_traced_memory()[1] < held + (4 << 20 if not held else 20 << 20)
    finally:
        tracemalloc.stop()
    monkeypatch.undo()
    assert store.local("files/x", tmp_path).read_bytes() == source.read_bytes()


def test_a_file_that_is_not_there_is_none(store: Store, tmp_path: Path) -> None:
    for key in ("files/x", "files/" + "0" * 64):
        assert not store.local(key, tmp_path).exists()


@pytest.mark.parametrize(
    "key",
    ["/etc/passwd", "../x", "a/../../x", "..", "a/..", "", ".", "a//b", "a/./b", "a/", "a\0b", ".lock", "aside/x"],
)
def test_a_key_that_would_leave_the_store_or_name_two_things_is_refused(store: Store, tmp_path: Path, key: str) -> None:
    (tmp_path / "x").write_text("outside")
    for call in operations(store, key, tmp_path):
        with pytest.raises(ValueError, match="is no key of a store"):
            call()
    assert (tmp_path / "x").read_text() == "outside"


def test_an_artifact_has_a_folder_on_this_machine(store: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(store, "exp")
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    for name in ("a.json", "b.json", "deep/a.json"):
        (made / name).write_text(name[-6:])  # two of them are the same
    assert not (artifacts.folder("risk", "f00") / MANIFEST).exists()
    artifacts.publish("risk", "f00", made)
    artifacts.set_current("risk", "f00")
    folder = artifacts.folder_of_current("risk")
    assert folder is not None
    assert folder.is_relative_to(store.here)
    assert {name: path.read_text() for name, path in open_artifact(folder).items()} == {
        name: name[-6:] for name in ("a.json", "b.json", "deep/a.json")
    }
    assert artifacts.folder("risk", "f00") == folder
    assert artifacts.fingerprints("risk") == ["f00"]
    assert artifacts.fingerprints("ris") == []
    assert {path.name for path in folder.iterdir()} == {MANIFEST, "files"}, "nothing else is left"


def test_a_cache_that_can_not_be_written_is_named_by_the_store(bucket: Store, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"1")
    key = f"files/{hashlib.sha256(b'1').hexdigest()}"
    bucket.put_file(key, tmp_path / "source")
    (tmp_path / "cache").mkdir(mode=0o555)
    message = message_without_privileges(bucket.local, key, tmp_path, kind=StoreUnavailable)
    assert message.startswith(f"{tmp_path}/cache: can't be written (Permission denied). ")
    assert message.endswith("RETAIN_CACHE may name another folder")


def test_a_copy_of_an_artifact_that_can_not_be_written_names_the_cache(bucket: Store, tmp_path: Path) -> None:
    artifacts = ArtifactStore(bucket, "exp")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.json").write_text("{}")
    artifacts.publish("risk", "f00", tmp_path / "made")
    (tmp_path / "cache").mkdir(mode=0o555)
    message = message_without_privileges(artifacts.folder, "risk", "f00", kind=StoreUnavailable)
    assert message.endswith("has to be let in. RETAIN_CACHE may name another folder")


def test_what_people_read_is_heard_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "SETTLED_NS", 0)
    watch = approvals.Watch(store.url)
    store.write("else", b"")
    first = watch.changed()
    assert first is not None
    assert not first.readings
    assert watch.changed() is None
    approvals.record(store, "Hello", "approved", "Ann")
    approvals.record(store, "Good day", "approved", "Ann")
    changed = watch.changed()
    assert changed is not None
    assert changed.verdicts == {"Hello": "approved", "Good day": "approved"}
    assert watch.changed() is None
    approvals.record(store, "Hello", "rejected", "Bob")
    changed = watch.changed()
    assert changed is not None
    assert changed.verdicts["Hello"] == "rejected"


def test_a_ledger_lets_nobody_spend_twice(store: Store) -> None:
    """Four that reserve a dollar each of a cap of two."""

    def reserve(number: int) -> bool:
        try:
            ledger.reserve(
                store,
                "scope",
                cap_usd=2.0,
                attempt_id=f"exp/risk/f{number}/1",
                experiment="exp",
                stage="risk",
                usd_per_hour=1.0,
                limit_s=3600.0,
                overhead_s=0.0,
            )
        except BudgetExceeded:
            return False
        return True

    assert sorted(race(4, reserve)) == [False, False, True, True]


# --- several processes -------------------------------------------------------------------------------------------


def count(store: Store) -> int:
    found = store.read("counter")
    assert found is not None
    return int(found[0])


def test_no_increment_of_several_processes_is_lost(store: Store) -> None:
    runners, times = (8, 25) if isinstance(store, FolderStore) else (4, 10)
    lost = race(runners, lambda _: increment(store, times))
    assert sum(lost) > 0, "they never met, so this shows nothing"
    assert count(store) == runners * times


def test_one_of_eight_creates(store: Store) -> None:
    def create(number: int) -> list[bool]:
        created = []
        for key in range(10):
            try:
                store.write(f"keys/{key}", b"%d" % number, expect=ABSENT)
                created.append(True)
            except Conflict:
                created.append(False)
        return created

    for key, winners in enumerate(zip(*race(8, create), strict=True)):
        assert sum(winners) == 1
        found = store.read(f"keys/{key}")
        assert found is not None
        assert int(found[0]) == winners.index(True)


def test_a_reader_never_sees_a_part(store: Store) -> None:
    store.write("key", OLD)

    def work(number: int) -> set[bytes]:
        if number == 0:
            for _ in range(20):
                store.write("key", NEW)
                store.write("key", OLD)
            return set()
        seen = set()
        for _ in range(300 if isinstance(store, FolderStore) else 60):
            found = store.read("key")
            assert found is not None
            seen.add(found[0])
        return seen

    [_, seen] = race(2, work)
    assert seen <= {OLD, NEW}


# --- a bucket that can be reached only now and then --------------------------------------------------------------


@pytest.mark.parametrize("fault", ["refused", "lost"])
def test_no_change_is_lost_or_made_twice_over_a_bad_network(bucket: Store, buckets: Buckets, fault: str) -> None:
    buckets.set(**{fault: 0.25}, seed=1)
    race(2, lambda _: increment(bucket, 8))
    assert count(bucket) == 16
    keys = [f"made/{number}" for number in range(6)]
    for key in keys:
        version = bucket.write(key, key.encode(), expect=ABSENT)  # not refused by itself
        assert bucket.read(key) == (key.encode(), version)
    for key in keys:
        bucket.delete(key, expect=version_of(bucket, key))
    buckets.set()
    assert list(bucket.list("made")) == []


def test_a_write_whose_answer_stays_away_is_known_when_it_is_made_again(
    bucket: Store, buckets: Buckets, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made, then the network broke for longer than the store tries, and somebody else wrote meanwhile."""
    monkeypatch.setattr(engine.bucket, "RETRY", engine.bucket.RETRY.with_timeout(0.3))
    bucket.read("ledger")
    put, said = buckets.put, []

    def put_and_break(session: Session) -> Stored | None:
        made = put(session)
        monkeypatch.setattr(buckets, "put", put)
        buckets.set(lost=1.0)
        server.gone = True
        return made

    def wait(_: float) -> bool:
        buckets.set()
        if server.gone:
            with serving(buckets) as another:
                monkeypatch.setenv("STORAGE_EMULATOR_HOST", another.url)
                other = open_store(bucket.url)
                replaced.append(other.write("ledger", b"ours and theirs", expect=version_of(other, "ledger")))
        server.gone = False
        return False

    replaced: list[str] = []
    monkeypatch.setattr(buckets, "put", put_and_break)
    patient = PatientStore(bucket, Outage(60.0, wait=wait, say=said.append))
    version = patient.write("ledger", b"ours", expect=ABSENT)
    assert said, "nothing was unavailable"
    assert [version] != replaced
    assert bucket.read("ledger") == (b"ours and theirs", replaced[0])
    with pytest.raises(Conflict):
        patient.write("ledger", b"ours", expect=ABSENT)  # known once: this one is new


@pytest.mark.parametrize("made_anew", [False, True])
@pytest.mark.parametrize("outage", [False, True])
def test_a_delete_whose_answer_is_lost_is_no_conflict(
    bucket: Store, buckets: Buckets, server: Server, monkeypatch: pytest.MonkeyPatch, made_anew: bool, outage: bool
) -> None:
    """Whether it is tried again at once or by a caller after an outage, and whoever took the place meanwhile."""
    monkeypatch.setattr(engine.bucket, "RETRY", engine.bucket.RETRY.with_timeout(0.3 if outage else 20.0))
    version = bucket.write("key", b"1")
    keep_older = buckets.keep_older

    def delete_and_break(name: str, key: str) -> None:
        keep_older(name, key)
        monkeypatch.setattr(buckets, "keep_older", keep_older)
        if made_anew:
            assert buckets.put(Session(name, key, "0", {engine.bucket.AFTER: "0"}, content=bytearray(b"2")))
        server.gone = outage

    monkeypatch.setattr(buckets, "keep_older", delete_and_break)
    buckets.set(lost=1.0)
    if outage:
        with pytest.raises(StoreUnavailable):
            bucket.delete("key", expect=version)
        server.gone = False
    bucket.delete("key", expect=version)
    buckets.set()
    found = bucket.read("key")
    assert (found and found[0]) == (b"2" if made_anew else None)
    with pytest.raises(Conflict):
        bucket.delete("key", expect=version)  # known once: this one is new


def test_a_delete_that_is_tried_again_knows_that_another_write_came_first(
    bucket: Store, buckets: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bucket.write("key", b"1", expect=ABSENT)
    delete = Handler._delete

    def refuse_once(handler: Handler, name: str, key: str, query: dict[str, str]) -> None:
        monkeypatch.setattr(Handler, "_delete", delete)
        open_store(bucket.url).write("key", b"2", expect=first)
        handler._refuse(503, "try again later")

    monkeypatch.setattr(Handler, "_delete", refuse_once)
    with pytest.raises(Conflict):
        bucket.delete("key", expect=first)
    found = bucket.read("key")
    assert found is not None
    assert found[0] == b"2"


def version_of(store: Store, key: str) -> str:
    found = store.read(key)
    assert found is not None
    return found[1]


def test_an_upload_that_breaks_goes_on_where_it_broke(bucket: Store, buckets: Buckets, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(os.urandom(20 << 20))
    buckets.set(cut=0.5, lost=0.2, seed=5)
    bucket.put_file("files/x", source)
    begun = [line for line in buckets.requests if line.startswith("POST") and "resumable" in line]
    assert len(begun) == 1, "it began again"
    assert len([line for line in buckets.requests if line.startswith("PUT")]) > 3, "nothing broke"
    buckets.set()
    assert bucket.local("files/x", tmp_path).read_bytes() == source.read_bytes()


def test_a_bucket_that_is_away_is_unavailable_and_waited_for(
    bucket: Store, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.bucket, "RETRY", engine.bucket.RETRY.with_timeout(0.3))
    bucket.write("key", b"1")
    server.gone = True
    for call in operations(bucket, "key", tmp_path):
        with pytest.raises(StoreUnavailable, match="gs://bucket/some/prefix: can't be used now"):
            call()
    tried: list[float] = []

    def wait(pause: float) -> bool:
        tried.append(pause)
        server.gone = False
        return False

    said: list[str] = []
    patient = PatientStore(bucket, Outage(60.0, wait=wait, say=said.append))
    assert patient.read("key") is not None
    assert tried
    assert said[-1].startswith("the store is available again")


def test_a_zombie_whose_network_comes_back_writes_nothing(
    buckets: Buckets, bucket: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes at one artifact. The network of the first is cut until the second has taken its claim."""
    cut, back = FORK.Event(), FORK.Event()

    def zombie(url: str) -> None:
        os.environ["STORAGE_EMULATOR_HOST"] = url
        engine.bucket.RETRY = engine.bucket.RETRY.with_timeout(0.2)
        store = open_store("gs://bucket/some/prefix")
        elsewhere = this_process().model_copy(update={"machine": "another machine"})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine.claim, "this_process", lambda: elsewhere)
            claim = acquire(store, "claim.json", 1, 0.1)
        assert claim is not None
        claim.check()
        cut.set()
        with pytest.raises(StoreUnavailable):
            for _ in iter(claim.renew, "never"):
                pass
        assert back.wait(PATIENCE_S)
        for call in (claim.renew, claim.check):
            with pytest.raises(Fenced):
                call()
        claim.release()

    with serving(buckets) as its_own:
        process = start(zombie, its_own.url)
        assert cut.wait(PATIENCE_S)
        its_own.gone = True
        watch, successor = Watch(bucket, "claim.json"), None
        while successor is None:
            successor = acquire(bucket, "claim.json", 2, 0.1, watch)
        bucket.write("result", b"second")
        its_own.gone = False
        back.set()
        process.join(PATIENCE_S)
    assert process.exitcode == 0
    successor.check()


# --- a bucket that can't be used ---------------------------------------------------------------------------------


def test_a_bucket_that_is_gone_is_unavailable_and_not_empty(server: Server, tmp_path: Path) -> None:
    for call in operations(open_store("gs://gone"), "key", tmp_path):
        with pytest.raises(StoreUnavailable, match="gs://gone: the bucket is gone, or never was"):
            call()


def test_a_bucket_that_will_do(bucket: BucketStore) -> None:
    bucket.check()


@pytest.mark.parametrize(
    ("url", "faults", "versioning", "says"),
    [
        ("gs://other", {}, True, "gs://other: there is no bucket other; make it, or mend RETAIN_STORE"),
        ("gs://bucket", {"denied": ["storage.objects.delete"]}, True, "lacks storage.objects.delete; grant it roles/"),
        ("gs://bucket", {"denied": ["storage.buckets.get"]}, True, "grant it roles/storage.legacyBucketReader"),
        (
            "gs://bucket",
            {},
            False,
            "keeps no older versions, so whatever is deleted by mistake is gone; gcloud storage",
        ),
        ("gs://bucket", {"clock_s": -7200.0}, True, "this machine's clock is 120 minutes ahead"),
        ("gs://bucket", {"clock_s": 7200.0}, True, "this machine's clock is 120 minutes behind"),
    ],
)
def test_a_bucket_that_would_keep_a_run_from_working(
    buckets: Buckets, server: Server, url: str, faults: dict[str, Any], versioning: bool, says: str
) -> None:
    buckets.set(**faults)
    buckets.versioning = versioning
    with pytest.raises(RetainError) as raised:
        open_bucket(url).check()
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_right_that_is_missing_is_named_by_whoever_needs_it(bucket: Store, buckets: Buckets, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"1")
    bucket.write("key", b"1")
    for permission, call in (
        ("storage.objects.get", lambda: bucket.read("key")),
        ("storage.objects.create", lambda: bucket.write("key", b"2")),
        ("storage.objects.create", lambda: bucket.put_file("file", tmp_path / "source")),
        ("storage.objects.list", lambda: list(bucket.list("folder"))),
        ("storage.objects.delete", lambda: bucket.delete("key")),
    ):
        buckets.set(denied=[permission])
        with pytest.raises(RetainError, match=f"this account lacks {permission}") as raised:
            call()
        assert not isinstance(raised.value, StoreUnavailable), "trying again would change nothing"


@pytest.mark.parametrize("url", ["gs://", "gs:///x", "gs://Bucket", "gs://b", "gs://bucket/../x", "gs://bucket/a//b"])
def test_what_is_no_address_of_a_bucket(url: str) -> None:
    with pytest.raises(RetainError, match="is no address of a bucket; write it as gs://bucket or gs://bucket/prefix"):
        open_store(url)


@pytest.mark.parametrize("address", ["localhost", "localhost:9023", "http://", "no address"])
def test_an_emulator_s_address_that_is_none(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    store = open_store("gs://bucket")
    for call in (store.check, lambda: store.read("key")):
        with pytest.raises(RetainError, match=f"STORAGE_EMULATOR_HOST={address}: wants an address") as raised:
            call()
        assert not isinstance(raised.value, StoreUnavailable), "trying again would change nothing"


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(RetainError, match=r"no credentials of Google Cloud that work .*gcloud auth") as raised:
        open_store("gs://bucket").read("key")
    assert "\n" not in str(raised.value)


def test_without_google_s_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "engine.bucket", raising=False)
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(RetainError, match=r"isn't installed: pip install --editable '\.\[cloud\]'"):
        open_store("gs://bucket")


# --- the cache ---------------------------------------------------------------------------------------------------


def test_a_file_is_fetched_once_and_again_where_it_is_damaged(bucket: Store, buckets: Buckets, tmp_path: Path) -> None:
    content = os.urandom(5000)
    (tmp_path / "source").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    bucket.put_file(f"a/{sha256}", tmp_path / "source")

    def fetched() -> int:
        buckets.requests.clear()
        assert bucket.local(f"a/{sha256}", tmp_path / "scratch").read_bytes() == content
        return sum("alt=media" in line for line in buckets.requests)

    assert [fetched(), fetched()] == [1, 0]
    kept = tmp_path / "cache" / sha256
    kept.chmod(0o644)
    kept.write_bytes(b"damaged")
    assert [fetched(), fetched()] == [1, 0]
    bucket.write(f"b/{sha256}", b"not what its name says")
    kept.unlink()
    assert bucket.local(f"b/{sha256}", tmp_path / "scratch").read_bytes() == b"not what its name says"
    assert not kept.exists(), "it isn't what its name says"
