from __future__ import annotations

import errno
import gzip
import hashlib
import http.server
import io
import os
import socket
import sys
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.errors import DataError, RetainError
from flows import sources
from flows.download import cached_name
from flows.wanted import Wanted, table_files, weight_files
from retain.dataset import DatasetSpec
from tasks.config import BaseConfig
from tasks.data import synthetic
from tests.engine.processes import message_without_privileges

CONTENT = b"a,b\n1,2\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9/none.csv"  # the discard port: nobody listens

Described = Callable[[str], DatasetSpec]


def telling(spec: DatasetSpec, url: str = NOWHERE, members: tuple[str, ...] = ()) -> tuple[Wanted, ...]:
    """A table whose published file is CONTENT."""
    changes = {"sha256": DIGEST, "url": url, "members": members, "files": ("table.csv",)}
    return table_files(spec.model_copy(update={"source": spec.source.model_copy(update=changes)}))


def text(name: str, url: str | None = None, sha256: str | None = None) -> Wanted:
    return Wanted(name, (name,), url, sha256)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/hangs":
            time.sleep(1.5)
            return
        body = self.server.bodies.get(self.path)  # type: ignore[attr-defined]
        self.send_response(200 if body is not None else 404)
        if self.path == "/short":
            self.send_header("content-length", "1000")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        served.bodies, served.asked = {}, []  # type: ignore[attr-defined]
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def address(server: http.server.ThreadingHTTPServer, path: str) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def test_the_published_file_in_a_folder(tmp_path: Path, spec: Described) -> None:
    (tmp_path / "table.csv").write_bytes(CONTENT)
    found = sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache")["customers"]
    assert (found.kind, found.path, found.sha256) == ("folder", tmp_path / "table.csv", DIGEST)
    assert [file.name for file in found.files] == ["source.csv"]
    assert found.digest.startswith("sha256:")
    assert found.note == str(tmp_path / "table.csv")


def test_a_folder_may_be_named_from_where_one_is(
    tmp_path: Path, spec: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table.csv").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path.parent)
    wanted = {"customers": telling(spec("telco"))}
    data = Path(tmp_path.name)
    assert sources.lacking(wanted, data, tmp_path / "cache") == {"customers": {}}
    assert sources.resolve(wanted, data, tmp_path / "cache")["customers"].kind == "folder"


def test_a_file_of_ones_own_is_taken_and_said_to_be_so(tmp_path: Path, spec: Described) -> None:
    (tmp_path / "table.csv").write_bytes(CONTENT + b"3,4\n")
    found = sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache")["customers"]
    assert found.sha256 == hashlib.sha256(CONTENT + b"3,4\n").hexdigest()
    assert "is not the published file" in found.note


@pytest.mark.parametrize("named", ["{own}/table.csv", "~/ours/table.csv", "{own}/zipped.csv"])
def test_a_file_is_found_at_the_path_that_is_its_name(
    named: str, tmp_path: Path, spec: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, folder = tmp_path / "ours", tmp_path / "data"
    own.mkdir()
    folder.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    (own / "table.csv").write_bytes(CONTENT)
    (own / "zipped.csv.gz").write_bytes(gzip.compress(CONTENT))
    wanted = {"customers": [Wanted("source.csv", (named.format(own=own),), None, None)]}
    for data_dir in (None, folder):
        file = sources.resolve(wanted, data_dir, tmp_path / "cache")["customers"].files[0]
        assert file.path.read_bytes() == CONTENT
    (own / "table.csv").unlink()
    (own / "zipped.csv.gz").unlink()
    gone = sources.resolve(wanted, folder, tmp_path / "cache")["customers"]
    assert (
        gone.note == f"{named.format(own=own).replace('~', str(tmp_path))} does not exist; no public address is stated"
    )


def test_a_table_without_address_and_hash_is_not_looked_for_among_downloads(tmp_path: Path) -> None:
    mine = Wanted("source.csv", ("mine.csv",), None, None)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / cached_name(mine)).write_bytes(CONTENT)
    assert sources.lacking({"customers": [mine]}, None, tmp_path / "cache") == {
        "customers": {"mine.csv": "RETAIN_DATA_DIR is not set; no public address is stated"}
    }
    assert not sources.resolve({"customers": [mine]}, None, tmp_path / "cache")["customers"].files


def test_a_gzip_file_is_the_table_inside(tmp_path: Path, spec: Described) -> None:
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(CONTENT))
    found = sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache")["customers"]
    assert found.sha256 == DIGEST
    assert found.path is not None
    assert found.path.read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{DIGEST}.csv"]


@pytest.mark.parametrize("damaged", [gzip.compress(CONTENT * 99)[:-9], b"a,b\n"], ids=["cut off", "no gzip"])
def test_a_damaged_gzip_file_is_an_error(damaged: bytes, tmp_path: Path, spec: Described) -> None:
    (tmp_path / "table.csv.gz").write_bytes(damaged)
    with pytest.raises(DataError, match=r"table\.csv\.gz: not a whole gzip file .* get it again"):
        sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache")


def test_a_gzip_file_is_read_up_to_the_limit(tmp_path: Path, spec: Described) -> None:
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(bytes(50_000_000)))
    wanted = tuple(replace(file, max_bytes=10_000) for file in telling(spec("telco")))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"table\.csv\.gz: holds more than 10,000 bytes"):
            sources.resolve({"customers": wanted}, tmp_path, tmp_path / "cache")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert not list((tmp_path / "cache").iterdir())
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(bytes(10_000)))
    assert sources.resolve({"customers": wanted}, tmp_path, tmp_path / "cache")["customers"].path


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_a_link_that_leads_nowhere_is_an_error(name: str, tmp_path: Path, spec: Described) -> None:
    (tmp_path / name).symlink_to(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=rf"{name}: can't be read \(No such file or directory\)"):
        sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache")


def test_a_store_without_room_is_an_error_and_keeps_no_half_file(
    tmp_path: Path, spec: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(CONTENT))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RetainError, match=r"table\.csv can't be kept\. .*cache: .*\(No space left on device\)\. Free some space\."
    ):
        sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_store_that_cannot_be_written_to_is_an_error(tmp_path: Path, spec: Described) -> None:
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "cache").write_text("a file, where the folder should be")
    with pytest.raises(RetainError, match=r"can't be kept\. .* \(File exists\)\. RETAIN_STORE may name another folder"):
        sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache")


def test_what_a_store_in_a_bucket_keeps_here_lies_in_the_cache(
    tmp_path: Path, spec: Described, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETAIN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "cache").write_text("a file, where the folder should be")
    with pytest.raises(RetainError, match=r"can't be kept\. .*\. RETAIN_CACHE may name another folder"):
        sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache" / "stores" / "downloads")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, spec: Described) -> None:
    with pytest.raises(DataError, match=r"RETAIN_DATA_DIR is .*gone: no such folder"):
        sources.resolve({"customers": telling(spec("telco"))}, tmp_path / "gone", tmp_path / "cache")


@pytest.mark.parametrize("place", ["", "table.csv"])
def test_what_may_not_be_read_is_not_taken_for_missing(place: str, tmp_path: Path, spec: Described) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_bytes(CONTENT)
    wanted = {"customers": telling(spec("telco"))}
    path = tmp_path / "data" / place
    path.chmod(0)
    try:
        message = message_without_privileges(sources.resolve, wanted, tmp_path / "data", tmp_path / "cache")
        assert "table.csv: can't be read (Permission denied)" in message
    finally:
        path.chmod(0o755)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, spec: Described) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(DataError, match=r"table\.csv: can't be read \(Is a directory\)"):
        sources.resolve({"customers": telling(spec("telco"))}, tmp_path, tmp_path / "cache")


def test_without_folder_and_network_it_is_synthetic_and_says_why(tmp_path: Path, spec: Described) -> None:
    found = sources.resolve({"customers": telling(spec("telco"))}, None, tmp_path / "cache")["customers"]
    assert (found.kind, found.path, found.sha256) == ("synthetic", None, None)
    assert found.digest == f"synthetic:v{synthetic.GENERATOR_VERSION}"
    assert "RETAIN_DATA_DIR is not set" in found.note
    assert NOWHERE in found.note
    assert found.note.endswith("Connection refused")  # and no word of what is made of that: some refuse it


def test_a_missing_file_comes_from_its_public_place_and_is_kept(
    tmp_path: Path, spec: Described, server: http.server.ThreadingHTTPServer
) -> None:
    server.bodies["/table.csv"] = CONTENT  # type: ignore[attr-defined]
    table = telling(spec("telco"), address(server, "/table.csv"))
    (tmp_path / "folder").mkdir()
    found = sources.resolve({"customers": table}, tmp_path / "folder", tmp_path / "cache")["customers"]
    assert (found.kind, found.path) == ("download", tmp_path / "cache" / f"{DIGEST}.csv")
    assert "has no table.csv; downloaded from" in found.note
    again = sources.resolve({"customers": table}, None, tmp_path / "cache")["customers"]
    assert (again.kind, again.path, again.digest) == ("download", found.path, found.digest)
    assert server.asked == ["/table.csv"]  # type: ignore[attr-defined]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [f"{DIGEST}.csv"]


def test_a_damaged_cache_is_downloaded_again(
    tmp_path: Path, spec: Described, server: http.server.ThreadingHTTPServer
) -> None:
    server.bodies["/table.csv"] = CONTENT  # type: ignore[attr-defined]
    (tmp_path / f"{DIGEST}.csv").write_bytes(b"half a fi")
    table = telling(spec("telco"), address(server, "/table.csv"))
    found = sources.resolve({"customers": table}, None, tmp_path)["customers"]
    assert found.path is not None
    assert found.path.read_bytes() == CONTENT


def test_a_download_with_another_hash_is_not_used(
    tmp_path: Path, spec: Described, server: http.server.ThreadingHTTPServer
) -> None:
    server.bodies["/table.csv"] = CONTENT + b"<html>"  # type: ignore[attr-defined]
    table = telling(spec("telco"), address(server, "/table.csv"))
    found = sources.resolve({"customers": table}, None, tmp_path)["customers"]
    assert found.kind == "synthetic"
    assert "served something else" in found.note
    assert not list(tmp_path.iterdir())


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def test_the_way_through_nested_zip_files(
    tmp_path: Path, spec: Described, server: http.server.ThreadingHTTPServer
) -> None:
    server.bodies["/outer.zip"] = zipped("inner.zip", zipped("inner/table.csv", CONTENT))  # type: ignore[attr-defined]
    table = telling(spec("bank"), address(server, "/outer.zip"), ("inner.zip", "inner/table.csv"))
    found = sources.resolve({"campaigns": table}, None, tmp_path)["campaigns"]
    assert found.path is not None
    assert found.path.read_bytes() == CONTENT
    lost = telling(spec("bank"), address(server, "/outer.zip"), ("inner.zip", "table.csv"))
    (tmp_path / f"{DIGEST}.csv").unlink()
    assert "no item named" in sources.resolve({"campaigns": lost}, None, tmp_path)["campaigns"].note


def test_a_server_that_hangs_holds_all_tables_up_once(
    tmp_path: Path, spec: Described, server: http.server.ThreadingHTTPServer
) -> None:
    server.bodies["/table.csv"] = CONTENT  # type: ignore[attr-defined]
    hangs = telling(spec("telco"), address(server, "/hangs"))
    found = sources.resolve({"a": hangs, "b": hangs, "c": hangs}, None, tmp_path, offline_budget_s=0.3)
    assert [source.kind for source in found.values()] == ["synthetic"] * 3
    # all three were asked at once, not one after the other
    assert server.asked.count("/hangs") == 3  # type: ignore[attr-defined]


def test_what_speaks_no_http_is_a_server_without_the_file(tmp_path: Path, spec: Described) -> None:
    """As a SOCKS proxy that HTTP_PROXY names; such an answer is no OSError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"\x05\xff\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/table.csv"
        found = sources.resolve({"a": telling(spec("telco"), url)}, None, tmp_path)["a"]
        thread.join()
    assert found.kind == "synthetic"
    assert f"{url}: \x05" in found.note


# -- several files, texts and weights


def test_files_of_a_stage_come_from_different_places_in_the_order_wanted(
    tmp_path: Path, server: http.server.ThreadingHTTPServer
) -> None:
    server.bodies["/b.jsonl.gz"] = gzip.compress(CONTENT)  # type: ignore[attr-defined]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.jsonl.gz").write_bytes(gzip.compress(b"1\n"))
    (tmp_path / "c.jsonl").write_bytes(b"3\n")
    wanted = [text("deep/a.jsonl"), text("b.jsonl", address(server, "/b.jsonl.gz")), text("c.jsonl")]
    found = sources.resolve({"dialogues": wanted}, tmp_path, tmp_path / "cache")["dialogues"]
    assert [file.name for file in found.files] == ["deep/a.jsonl", "b.jsonl", "c.jsonl"]
    assert [file.path.read_bytes() for file in found.files] == [b"1\n", CONTENT, b"3\n"]
    assert [file.sha256 for file in found.files] == [
        hashlib.sha256(content).hexdigest() for content in (b"1\n", CONTENT, b"3\n")
    ]
    assert found.kind == "folder and download"
    # without a stated hash, what was downloaded is known by its address
    again = sources.resolve({"dialogues": wanted}, tmp_path, tmp_path / "cache")["dialogues"]
    assert again.digest == found.digest
    assert "downloaded before from" in again.note
    assert server.asked == ["/b.jsonl.gz"]  # type: ignore[attr-defined]


def test_names_order_and_bytes_are_in_the_digest(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"2"), ("same", b"1")):
        (tmp_path / name).write_bytes(content)

    def digest(*names: str) -> str:
        return sources.resolve({"x": [text(name) for name in names]}, tmp_path, tmp_path / "cache")["x"].digest

    assert digest("a", "b") == digest("a", "b")
    assert len({digest("a", "b"), digest("b", "a"), digest("a"), digest("same"), digest("same", "b")}) == 5
    before = digest("a", "b")
    (tmp_path / "b").write_bytes(b"3")
    assert digest("a", "b") != before


def test_what_is_missing_is_said_with_what_was_tried(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(CONTENT)
    wanted = [text("a.jsonl"), text("b.jsonl"), text("c.jsonl", NOWHERE)]
    found = sources.resolve({"dialogues": wanted}, tmp_path, tmp_path / "cache")["dialogues"]
    assert [file.name for file in found.files] == ["a.jsonl"]
    assert found.missing["b.jsonl"] == f"{tmp_path} has no b.jsonl; no public address is stated"
    assert found.missing["c.jsonl"].endswith("Connection refused")
    assert found.note.startswith(str(tmp_path / "a.jsonl"))
    assert f"without {tmp_path} has no b.jsonl" in found.note
    assert sources.resolve({"dialogues": wanted[1:]}, tmp_path, tmp_path / "cache")["dialogues"].digest.startswith(
        "synthetic text:v"
    )


def test_what_is_lacking_is_told_without_a_download(tmp_path: Path, server: http.server.ThreadingHTTPServer) -> None:
    server.bodies["/there"] = CONTENT  # type: ignore[attr-defined]
    wanted = [text("there", address(server, "/there")), text("gone", address(server, "/gone")), text("nowhere")]
    gone = sources.lacking({"x": wanted, "y": [text("there", address(server, "/there"))]}, tmp_path, tmp_path / "cache")
    assert {stage: list(files) for stage, files in gone.items()} == {"x": ["gone", "nowhere"], "y": []}
    assert gone["x"]["nowhere"] == f"{tmp_path} has no nowhere; no public address is stated"
    assert "Not Found" in gone["x"]["gone"]
    assert not (tmp_path / "cache").exists()


def test_what_is_lacking_is_told_by_names_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies in the folder: nothing of it is opened, however large."""
    cached = text("kept", NOWHERE)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / cached_name(cached)).write_bytes(CONTENT)
    (tmp_path / "damaged.gz").write_bytes(b"no gzip")
    (tmp_path / "plain").write_bytes(CONTENT)
    monkeypatch.setattr(Path, "open", lambda *_: pytest.fail("was opened"))
    wanted = [cached, text("damaged"), text("plain")]
    assert sources.lacking({"x": wanted}, tmp_path, tmp_path / "cache") == {"x": {}}
    assert not sources.unobtainable(wanted, tmp_path, tmp_path / "cache")
    assert sources.unobtainable([*wanted, text("gone")], tmp_path, tmp_path / "cache")
    assert not sources.unobtainable([text("gone", NOWHERE)], tmp_path, tmp_path / "cache")


def test_a_server_that_did_not_have_a_file_is_not_asked_again(
    tmp_path: Path, server: http.server.ThreadingHTTPServer
) -> None:
    server.bodies["/a"] = CONTENT  # type: ignore[attr-defined]
    wanted = {"x": [text("a", address(server, "/a")), text("b", address(server, "/b"))]}
    gone = sources.lacking(wanted, None, tmp_path / "cache")
    found = sources.resolve(wanted, None, tmp_path / "cache", given_up=gone)["x"]
    assert [file.name for file in found.files] == ["a"]
    assert found.missing == gone["x"]
    assert sorted(server.asked) == ["/a", "/a", "/b"]  # type: ignore[attr-defined]


def test_a_gzip_download_that_is_cut_short_is_not_used(tmp_path: Path, server: http.server.ThreadingHTTPServer) -> None:
    server.bodies["/a.gz"] = gzip.compress(CONTENT * 99)[:-9]  # type: ignore[attr-defined]
    found = sources.resolve({"x": [text("a", address(server, "/a.gz"))]}, None, tmp_path / "cache")["x"]
    assert "end-of-stream" in found.missing["a"]
    assert not list((tmp_path / "cache").iterdir())


def test_a_download_that_ends_too_early_is_not_kept(tmp_path: Path, server: http.server.ThreadingHTTPServer) -> None:
    server.bodies["/short"] = CONTENT  # type: ignore[attr-defined]
    wanted = [text("a", address(server, "/short"))]
    for _ in range(2):  # nor taken from the cache the next time
        found = sources.resolve({"x": wanted}, None, tmp_path / "cache")["x"]
        assert "ended 992 bytes too early" in found.missing["a"]
        assert not list((tmp_path / "cache").iterdir())


def base(weights: str, **changes: object) -> BaseConfig:
    file = {"name": "model.safetensors", "url": None, "sha256": None}
    content = {"model": "some/model", "weights": weights, "tokenizer": "own", "precision": "float32", "shape": None}
    return BaseConfig.model_validate({**content, "pretraining": None, "files": (file,), **changes})


def test_published_weights_lie_in_a_folder_of_the_models_name(tmp_path: Path) -> None:
    wanted = weight_files(base("hub"))
    missing = sources.resolve({"base": wanted}, tmp_path, tmp_path / "cache")["base"].missing
    assert list(missing) == ["some/model/model.safetensors"]
    (tmp_path / "some" / "model").mkdir(parents=True)
    (tmp_path / "some" / "model" / "model.safetensors").write_bytes(CONTENT)
    (file,) = sources.resolve({"base": wanted}, tmp_path, tmp_path / "cache")["base"].files
    assert (file.name, file.sha256) == ("model.safetensors", DIGEST)


def test_weights_of_another_hash_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "some" / "model").mkdir(parents=True)
    (tmp_path / "some" / "model" / "model.safetensors").write_bytes(CONTENT + b"x")
    exact = base("hub", files=({"name": "model.safetensors", "url": None, "sha256": DIGEST},))
    found = sources.resolve({"base": weight_files(exact)}, tmp_path, tmp_path / "cache")["base"]
    assert "is not the published file" in found.missing["some/model/model.safetensors"]


def test_weights_in_a_package_are_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "w.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    wanted = weight_files(base("package", files=({"name": "made_up_weights/w.gguf", "url": None, "sha256": DIGEST},)))
    found = sources.resolve({"base": wanted}, None, tmp_path / "cache")["base"]
    assert (found.kind, found.path) == ("package", package / "w.gguf")
    assert "made_up_weights" not in sys.modules
    (package / "w.gguf").write_bytes(CONTENT + b"x")
    found = sources.resolve({"base": wanted}, None, tmp_path / "cache")["base"]
    assert "is not the published file" in found.missing["made_up_weights/w.gguf"]


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    wanted = weight_files(base("package", files=({"name": "no_such_package/w.gguf", "url": None, "sha256": DIGEST},)))
    missing = sources.resolve({"base": wanted}, tmp_path, tmp_path / "cache")["base"].missing
    assert missing == {"no_such_package/w.gguf": "the Python package no_such_package is not installed"}
