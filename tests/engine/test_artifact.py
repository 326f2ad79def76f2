"""An artifact is its hashes: equal content is equal bytes, and other bytes than the manifest's are refused."""

from __future__ import annotations

import errno
import getpass
import hashlib
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import store
from engine.artifact import (
    MANIFEST,
    ArtifactStore,
    ArtifactWriter,
    File,
    Manifest,
    canonical,
    open_artifact,
    parse_manifest,
)
from engine.errors import ArtifactError
from engine.store import FolderStore
from tests.engine.processes import killed_at, message_without_privileges, race

FP = "0123456789abcdef"
PROJECT = Path(__file__).resolve().parents[2]
COLUMNS: dict[str, Any] = {
    "row": np.arange(7, dtype=np.int64),
    "margin": np.linspace(-1, 1, 7, dtype=np.float32),
    "score": [0.1, 0.2, 0.3, 0.4, float("nan"), 0.6, 0.7],
    "split": ["train", "test", "train", "validation", "test", "train", "ünï"],
    "id": ["a", None, "c", None, "e", "f", "g"],
    "churned": np.array([True, False] * 3 + [True]),
}


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(FolderStore(tmp_path / "store"), "exp")


def make(folder: Path, **changes: Any) -> Path:
    """A small artifact's files, as a stage writes them."""
    out = ArtifactWriter(folder)
    out.json("metrics.json", {"auc": {"value": 0.85, "ci": [0.83, 0.87]}} | changes)
    out.bytes("model.json", b"{}\n" * 100)
    out.json("bridge/model.json", {"trees": []})
    out.parquet("evidence/predictions.parquet", COLUMNS)
    return folder


def folder_of(artifacts: ArtifactStore, stage: str = "risk") -> Path:
    assert isinstance(artifacts.store, FolderStore)
    return artifacts.store.root / artifacts.prefix(stage, FP)


# --- publish, open, verify ---------------------------------------------------------------------------------------


def test_what_was_published_opens_under_its_names(artifacts: ArtifactStore, tmp_path: Path) -> None:
    out = make(tmp_path / "out")
    manifest = artifacts.publish("risk", FP, out)
    names = ["bridge/model.json", "evidence/predictions.parquet", "metrics.json", "model.json"]
    assert [file.path for file in manifest.files] == names
    assert artifacts.manifest("risk", FP) == manifest
    linked = artifacts.open("risk", FP, tmp_path / "in")
    served = open_artifact(folder_of(artifacts))
    assert sorted(served) == names
    for file in manifest.files:
        content = (out / file.path).read_bytes()
        assert (linked / file.path).read_bytes() == content
        assert served[file.path].read_bytes() == content
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.bytes)
    assert artifacts.metrics("risk", FP) == {"auc": {"value": 0.85, "ci": [0.83, 0.87]}}


def test_what_is_not_there(artifacts: ArtifactStore, tmp_path: Path) -> None:
    assert artifacts.manifest("risk", FP) is None
    assert artifacts.metrics("risk", FP) == {}
    with pytest.raises(ArtifactError, match=f"exp/risk/{FP}: no such artifact"):
        artifacts.open("risk", FP, tmp_path / "in")
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json"):
        open_artifact(tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json"):
        open_artifact(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["metrics.json", "model.json", "bridge/model.json", "evidence/predictions.parquet"])
@pytest.mark.parametrize("how", ["first byte", "last byte", "cut", "longer", "empty", "gone", "folder"])
def test_other_bytes_than_the_manifests_are_refused_naming_the_file(
    artifacts: ArtifactStore, tmp_path: Path, name: str, how: str
) -> None:
    manifest = artifacts.publish("risk", FP, make(tmp_path / "out"))
    digest = next(file.sha256 for file in manifest.files if file.path == name)
    path = folder_of(artifacts) / "files" / digest
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "first byte":
        content[0] ^= 1
    elif how == "last byte":
        content[-1] ^= 1
    parts: dict[str, bytes] = {"cut": bytes(content[:-1]), "longer": bytes(content + b"\n"), "empty": b""}
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes(parts.get(how, bytes(content)))
    with pytest.raises(ArtifactError, match=f"{name} is missing or damaged"):
        open_artifact(folder_of(artifacts))
    with pytest.raises(ArtifactError, match=f"exp/risk/{FP}: {name} is missing or damaged"):
        artifacts.open("risk", FP, tmp_path / "in")
    if name == "metrics.json" and how != "folder":
        with pytest.raises(ArtifactError, match=r"metrics\.json is damaged"):
            artifacts.metrics("risk", FP)


@pytest.mark.parametrize("name", ["", MANIFEST, "files", "one file"])
def test_what_may_not_be_read_is_neither_damaged_nor_to_be_removed(
    artifacts: ArtifactStore, tmp_path: Path, name: str
) -> None:
    manifest = artifacts.publish("risk", FP, make(tmp_path / "out"))
    folder = folder_of(artifacts)
    place = folder / (f"files/{manifest.files[0].sha256}" if name == "one file" else name)
    place.chmod(0)
    try:
        for call in (lambda: open_artifact(folder), lambda: artifacts.verify("risk", FP)):
            message = message_without_privileges(call)
            assert "can't be read (Permission denied)" in message
            assert f"User {os.geteuid()} has to be let in" in message
            assert not re.search("damaged|remove|missing", message)
            assert "\n" not in message
    finally:
        place.chmod(0o755)


def test_a_machine_without_room_for_another_open_file_says_so(
    artifacts: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.publish("risk", FP, make(tmp_path / "out"))

    def too_many(path: Path) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(store, "sha256_of", too_many)
    with pytest.raises(ArtifactError, match=r"bridge/model\.json can't be read \(Too many open files\)$"):
        open_artifact(folder_of(artifacts))


def test_publishing_again_mends_a_damaged_file(artifacts: ArtifactStore, tmp_path: Path) -> None:
    manifest = artifacts.publish("risk", FP, make(tmp_path / "out"))
    path = folder_of(artifacts) / "files" / manifest.files[0].sha256
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(b"X" + content[1:])
    (folder_of(artifacts) / MANIFEST).unlink()
    artifacts.publish("risk", FP, tmp_path / "out")
    assert open_artifact(folder_of(artifacts))[manifest.files[0].path].read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"files": null}',
        b'{"files": [1]}',
        b'{"files": {"path": 1}}',
        b'{"files": [{"path": "a", "sha256": "' + b"0" * 64 + b'"}]}',
        b'{"files": [{"path": "a", "sha256": "' + b"0" * 64 + b'", "bytes": "x"}]}',
        b'{"files": [{"path": "a", "sha256": "' + b"0" * 64 + b'", "bytes": 1e400}]}',
        b"[" * 100_000,
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json: not a manifest; remove the artifact"):
        open_artifact(tmp_path)


BAD_NAMES = ["../x", "/etc/passwd", "a/../../x", "..", ".", "", "a/..", "./a", "a//b", "a/", "a\0b"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_hostile_manifest_is_refused(artifacts: ArtifactStore, tmp_path: Path, name: str) -> None:
    content = b"gotcha"
    digest = hashlib.sha256(content).hexdigest()
    artifacts.store.write(f"exp/risk/{FP}/files/{digest}", content)
    hostile = {"files": [{"path": name, "sha256": digest, "bytes": len(content)}]}
    artifacts.store.write(f"exp/risk/{FP}/{MANIFEST}", json.dumps(hostile).encode())
    (tmp_path / "in").mkdir()
    for call in (
        lambda: open_artifact(folder_of(artifacts)),
        lambda: artifacts.open("risk", FP, tmp_path / "in"),
        lambda: artifacts.manifest("risk", FP),
    ):
        with pytest.raises(ArtifactError, match="names a file outside the artifact"):
            call()
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize(
    "digest", ["../../../../etc/passwd", "0" * 63, "0" * 65, "0" * 64 + "\n", "A" * 64, "", "0" * 60 + "/../"]
)
def test_a_hash_that_is_none_is_refused(digest: str) -> None:
    hostile = {"files": [{"path": "a", "sha256": digest, "bytes": 1}]}
    with pytest.raises(ArtifactError, match="do not use it"):
        parse_manifest(json.dumps(hostile).encode(), "here")


def test_a_name_that_stands_twice_is_refused() -> None:
    entry = {"path": "a", "sha256": "0" * 64, "bytes": 1}
    with pytest.raises(ArtifactError, match="here: not a manifest"):
        parse_manifest(json.dumps({"files": [entry, entry | {"sha256": "1" * 64}]}).encode(), "here")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_the_writer_refuses_names_that_escape_or_name_two_things(tmp_path: Path, name: str) -> None:
    out = ArtifactWriter(tmp_path / "out")
    writes: tuple[Callable[[], None], ...] = (
        lambda: out.bytes(name, b"gotcha"),
        lambda: out.json(name, {}),
        lambda: out.parquet(name, {"a": [1]}),
    )
    for write in writes:
        with pytest.raises(ValueError, match="is no name of an artifact's file"):
            write()
    assert not (tmp_path / "x").exists()


# --- the manifest ------------------------------------------------------------------------------------------------


def test_a_manifest_knows_nothing_of_when_where_or_by_whom(artifacts: ArtifactStore, tmp_path: Path) -> None:
    artifacts.publish("risk", FP, make(tmp_path / "out"))
    found = artifacts.store.read(f"exp/risk/{FP}/{MANIFEST}")
    assert found is not None
    content = json.loads(found[0])
    assert content.keys() == {"files"}
    assert all(file.keys() == {"path", "sha256", "bytes"} for file in content["files"])
    for word in (socket.gethostname(), getpass.getuser(), str(tmp_path), FP, "exp", "risk/"):
        assert word.encode() not in found[0], word


def test_the_same_files_make_the_same_manifest_anywhere(tmp_path: Path) -> None:
    manifests = []
    for place, stage in (("here", "risk"), ("there", "accept")):
        out = tmp_path / place / "out"
        for name in ("b", "a/c", "a-b", "a") if place == "here" else ("a-b", "a/c", "b"):
            if name != "a":
                ArtifactWriter(out).bytes(name, name.encode())
        os.utime(out / "b", (place == "here", 1))
        (out / "b").chmod(0o600 if place == "here" else 0o644)
        store = ArtifactStore(FolderStore(tmp_path / place / "store"), place)
        manifests.append(store.publish(stage, FP[::-1] if place == "here" else FP, out))
    assert manifests[0].dump() == manifests[1].dump()
    assert manifests[0].digest == manifests[1].digest


def test_the_digest_depends_on_names_and_bytes(tmp_path: Path) -> None:
    one = Manifest((File("a", "0" * 64, 1),))
    others = [Manifest(()), Manifest((File("b", "0" * 64, 1),)), Manifest((File("a", "1" * 64, 1),))]
    assert len({manifest.digest for manifest in (one, *others)}) == 4
    assert parse_manifest(one.dump(), "here") == one


def test_of_two_racers_with_other_bytes_the_first_manifest_stands(artifacts: ArtifactStore, tmp_path: Path) -> None:
    for number in range(4):
        make(tmp_path / str(number), seed={"value": number})

    def publish(number: int) -> tuple[bytes, bytes]:
        manifest = artifacts.publish("risk", FP, tmp_path / str(number))
        return manifest.dump(), (folder_of(artifacts) / MANIFEST).read_bytes()

    told = race(4, publish)
    assert len({dump for pair in told for dump in pair}) == 1, "they were told different things"
    [number] = {int(metrics["seed"]["value"]) for metrics in [artifacts.metrics("risk", FP)]}
    files = open_artifact(folder_of(artifacts))
    assert files["metrics.json"].read_bytes() == (tmp_path / str(number) / "metrics.json").read_bytes()


def test_publishing_other_bytes_later_changes_nothing(artifacts: ArtifactStore, tmp_path: Path) -> None:
    first = artifacts.publish("risk", FP, make(tmp_path / "first"))
    assert artifacts.publish("risk", FP, make(tmp_path / "second", auc={"value": 0.1})) == first
    assert artifacts.metrics("risk", FP)["auc"]["value"] == 0.85


@pytest.mark.parametrize(
    "point",
    ["artifact.publish", "artifact.seal", "artifact.sealed", "store.write", "store.rename@3", "store.renamed@5"],
)
def test_killed_anywhere_there_is_the_whole_artifact_or_none(
    artifacts: ArtifactStore, tmp_path: Path, point: str
) -> None:
    out = make(tmp_path / "out")
    assert killed_at(point, artifacts.publish, "risk", FP, out) == -signal.SIGKILL
    done = point in ("artifact.sealed", "store.renamed@5")
    assert (artifacts.manifest("risk", FP) is not None) == done
    manifest = artifacts.publish("risk", FP, out)
    assert open_artifact(folder_of(artifacts)).keys() == {file.path for file in manifest.files}


def test_a_reader_can_not_write_through_its_links(artifacts: ArtifactStore, tmp_path: Path) -> None:
    artifacts.publish("risk", FP, make(tmp_path / "out"))
    linked = artifacts.open("risk", FP, tmp_path / "in")
    for path in linked.rglob("*.json"):
        assert path.stat().st_mode & 0o222 == 0


# --- current -----------------------------------------------------------------------------------------------------


def test_current_names_what_completed_last(artifacts: ArtifactStore) -> None:
    assert isinstance(artifacts.store, FolderStore)
    root = artifacts.store.root
    assert artifacts.current() == {}
    assert artifacts.folder_of_current("risk") is None
    artifacts.set_current("risk", "f00")
    artifacts.set_current("accept", "f01")
    artifacts.set_current("risk", "f02")
    artifacts.set_current("risk", "f02")
    assert artifacts.current() == {"accept": "f01", "risk": "f02"}
    assert artifacts.folder_of_current("accept") == root / "exp/accept/f01"
    assert artifacts.folder_of_current("risk") == root / "exp/risk/f02"
    assert ArtifactStore(artifacts.store, "other").folder_of_current("risk") is None


def test_no_current_of_eight_processes_is_lost(artifacts: ArtifactStore) -> None:
    def name(number: int) -> None:
        for turn in range(5):
            artifacts.set_current(f"stage{number}-{turn}", f"f{number}")

    race(8, name)
    assert artifacts.current() == {f"stage{n}-{turn}": f"f{n}" for n in range(8) for turn in range(5)}


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b"null", b'{"risk": ""}', b'{"risk": "../../x"}'])
def test_a_damaged_current_is_one_clear_error(artifacts: ArtifactStore, damage: bytes) -> None:
    artifacts.store.write("exp/current.json", damage)
    for call in (
        artifacts.current,
        lambda: artifacts.folder_of_current("risk"),
        lambda: artifacts.set_current("risk", "f00"),
    ):
        with pytest.raises(ArtifactError, match=r"exp/current\.json: .*remove it and run again"):
            call()


# --- JSON --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_nan_and_infinity_are_refused_anywhere_in_json(tmp_path: Path, value: float) -> None:
    out = ArtifactWriter(tmp_path)
    for content in (value, [value], {"a": {"b": [1, value]}}):
        with pytest.raises(ValueError, match="JSON"):
            out.json("metrics.json", content)
    assert not (tmp_path / "metrics.json").exists()


def test_json_bytes_do_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    assert canonical({"b": 1, "a": {"d": [2, 1], "c": "é"}}) == canonical({"a": {"c": "é", "d": [2, 1]}, "b": 1})
    assert canonical({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'.encode()
    with pytest.raises(TypeError):
        canonical({"a": {1, 2}})  # a set has no order, so it has no bytes


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(exclude_categories=["Cs"])),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text("abé"), inner, max_size=4)),
)


@given(json_values)
def test_json_reads_back_as_it_was(value: Any) -> None:
    assert json.loads(canonical(value)) == value
    assert canonical(json.loads(canonical(value))) == canonical(value)


# --- parquet -----------------------------------------------------------------------------------------------------


def test_parquet_reads_back_with_pyarrow_and_pandas(tmp_path: Path) -> None:
    ArtifactWriter(tmp_path).parquet("t.parquet", COLUMNS)
    table = pq.read_table(tmp_path / "t.parquet")
    types = [pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.string(), pa.bool_()]
    assert dict(zip(table.column_names, table.schema.types, strict=True)) == dict(zip(COLUMNS, types, strict=True))
    frame = pd.read_parquet(tmp_path / "t.parquet")
    for name in ("row", "margin", "churned"):
        assert frame[name].to_numpy().dtype == COLUMNS[name].dtype
        np.testing.assert_array_equal(frame[name].to_numpy(), COLUMNS[name])
    np.testing.assert_array_equal(frame["score"].to_numpy(), COLUMNS["score"])
    assert frame["split"].tolist() == COLUMNS["split"]
    assert [None if pd.isna(value) else value for value in frame["id"]] == COLUMNS["id"]


def test_a_frame_and_a_mapping_make_the_same_bytes(tmp_path: Path) -> None:
    out = ArtifactWriter(tmp_path)
    columns = {"row": COLUMNS["row"], "margin": COLUMNS["margin"]}
    out.parquet("mapping.parquet", columns)
    out.parquet("frame.parquet", pd.DataFrame(columns))
    out.parquet("index.parquet", pd.DataFrame(columns, index=np.arange(7)[::-1]))
    frame = pd.DataFrame(columns)
    frame.attrs["made"] = "today"
    out.parquet("attrs.parquet", frame)
    content = (tmp_path / "mapping.parquet").read_bytes()
    for name in ("frame", "index", "attrs"):
        assert (tmp_path / f"{name}.parquet").read_bytes() == content, name


def test_parquet_carries_no_version_and_no_metadata_of_pandas(tmp_path: Path) -> None:
    ArtifactWriter(tmp_path).parquet("t.parquet", pd.DataFrame(COLUMNS))
    content = (tmp_path / "t.parquet").read_bytes()
    for word in (pa.__version__, pd.__version__, np.__version__, "pandas", "ARROW:schema"):
        assert word.encode() not in content, word
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    assert metadata.metadata is None
    assert set(metadata.created_by.partition("version ")[2]) <= set("0.")


def test_text_that_looks_like_the_version_is_left_alone(tmp_path: Path) -> None:
    text = "parquet-cpp-arrow version 9.9.9"
    ArtifactWriter(tmp_path).parquet("t.parquet", {text: [text, f"{text}, twice {text}"]})
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.to_pydict() == {text: [text, f"{text}, twice {text}"]}


WRITE = """
import sys
from pathlib import Path
from engine.artifact import ArtifactWriter
import numpy as np
names = {"gamma", "alpha", "beta"}
out = ArtifactWriter(Path(sys.argv[1]))
rng = np.random.default_rng(7)
out.parquet("t.parquet", {name: rng.normal(size=3000) for name in sorted(names)} | {"s": ["x", "y", None] * 1000})
out.json("t.json", {name: len(name) for name in names})
"""


def test_bytes_are_equal_in_every_process(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        # One thread against many, and strings hashed otherwise.
        environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed, "TZ": f"Etc/GMT+{seed}"}
        done = subprocess.run(
            [sys.executable, "-c", WRITE, str(tmp_path / seed)],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
    for name in ("t.parquet", "t.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_opening_an_artifact_loads_no_table_library() -> None:
    code = "import sys, engine.artifact; assert not {'pyarrow', 'pandas', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0
