"""Google Cloud Storage as its JSON API describes it, as far as the store uses it: a server of buckets in memory.

It honours generations and their preconditions, hashes, pages, multipart and resumable uploads, and asks for no
credentials. `Faults` are what goes wrong on the way.
https://cloud.google.com/storage/docs/json_api/v1/objects, .../resumable-uploads.
"""

from __future__ import annotations

import base64
import email.parser
import hashlib
import json
import random
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from google_crc32c import Checksum

PAGE = 1000
OBJECTS = re.compile(r"/storage/v1/b/([^/]+)/o(?:/(.+))?")
PIECE = 64 << 10  # of a body, between two looks at what is to go wrong


@dataclass
class Faults:
    """`refused`: share of requests answered 429 or 503. `lost`: share of answers that never arrive though the request
    was carried out. `cut`: share of uploads whose connection breaks in the middle. `torn`: the same of downloads.
    `bytes_s`: of uploads, 0: as fast as it gets. `denied`: permissions that the account lacks. `clock_s`: by which the
    server's clock is ahead. `page`: how many objects one answer lists. All draws come from `seed`."""

    seed: int = 0
    refused: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    torn: float = 0.0
    bytes_s: float = 0.0
    denied: list[str] = field(default_factory=list)
    clock_s: float = 0.0
    page: int = PAGE


@dataclass
class Stored:
    content: bytes
    generation: int
    metadata: dict[str, str]
    encoding: str | None = None


@dataclass
class Session:
    """Of a resumable upload."""

    bucket: str
    name: str
    match: str | None
    metadata: dict[str, str]
    encoding: str | None = None
    content: bytearray = field(default_factory=bytearray)
    made: Stored | None = None


class Buckets:
    """What is stored; one change at a time."""

    def __init__(self, *names: str, versioning: bool = True) -> None:
        self.objects: dict[str, dict[str, Stored]] = {name: {} for name in names}
        self.older: dict[str, list[tuple[str, Stored]]] = {name: [] for name in names}
        self.versioning = versioning
        self.sessions: dict[str, Session] = {}
        self.faults = Faults()
        self.lock = threading.RLock()
        self.requests: list[str] = []
        self._generation = 1_700_000_000_000_000
        self._draws = random.Random(0)

    def set(self, **faults: Any) -> None:
        with self.lock:
            self.faults = Faults(**faults)
            self._draws = random.Random(self.faults.seed)

    def happens(self, share: float) -> bool:
        with self.lock:
            return self._draws.random() < share

    def put(self, session: Session) -> Stored | None:
        """None: the precondition does not hold."""
        with self.lock:
            there = self.objects[session.bucket].get(session.name)
            if session.match is not None and int(session.match) != (there.generation if there else 0):
                return None
            self.keep_older(session.bucket, session.name)
            self._generation += 1
            stored = Stored(bytes(session.content), self._generation, session.metadata, session.encoding)
            self.objects[session.bucket][session.name] = stored
            return stored

    def get(self, bucket: str, name: str, generation: str | None) -> Stored | None:
        """The object; of a stated generation, whichever it is, as long as it is kept."""
        with self.lock:
            live = self.objects[bucket].get(name)
            older = [stored for other, stored in self.older[bucket] if other == name]
            if generation is None:
                return live
            return next((each for each in (live, *older) if each and each.generation == int(generation)), None)

    def keep_older(self, bucket: str, name: str) -> None:
        """What is there is about to be replaced or deleted."""
        stored = self.objects[bucket].pop(name, None)
        if stored is not None and self.versioning:
            self.older[bucket].append((name, stored))


class Broken(Exception):
    """The connection is closed without an answer."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer whose head and body are two packets takes 40 ms
    server: Server

    @property
    def buckets(self) -> Buckets:
        return self.server.buckets

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate((timestamp or time.time()) + self.buckets.faults.clock_s, usegmt=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answered()

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _answered(self) -> None:
        try:
            self._route()
        except (Broken, ConnectionError):
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _route(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        faults = self.buckets.faults
        self.buckets.requests.append(f"{self.command} {self.path}")
        if self.server.gone:
            raise Broken
        if self.command == "HEAD":
            return self._send(404)
        if self.buckets.happens(faults.refused):
            self._drain()
            code = 429 if self.buckets.happens(0.5) else 503
            return self._refuse(code, "try again later")
        if url.path.startswith("/upload/"):
            return self._upload(url.path.removeprefix("/upload"), query)
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)(/iam/testPermissions)?", url.path):
            return self._bucket(match[1], bool(match[2]), parse_qs(url.query))
        match = OBJECTS.fullmatch(url.path.removeprefix("/download"))
        if match is None:
            return self._refuse(400, f"the double does not know {self.command} {self.path}")
        bucket, name = match[1], unquote(match[2]) if match[2] else None
        if bucket not in self.buckets.objects:
            return self._refuse(404, "The specified bucket does not exist.")
        if name is None:
            return self._list(bucket, query)
        if self.command == "DELETE":
            return self._delete(bucket, name, query)
        return self._get(bucket, name, query)

    def _bucket(self, name: str, asked: bool, query: dict[str, list[str]]) -> None:
        if name not in self.buckets.objects:
            return self._refuse(404, "The specified bucket does not exist.")
        denied = self.buckets.faults.denied
        if asked:
            granted = [each for each in query["permissions"] if each not in denied]
            return self._send(200, {"kind": "storage#testIamPermissionsResponse", "permissions": granted})
        if self._denied("storage.buckets.get"):
            return None
        versioning = {"versioning": {"enabled": True}} if self.buckets.versioning else {}
        return self._send(200, {"kind": "storage#bucket", "name": name, "location": "US-CENTRAL1", **versioning})

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        if self._denied("storage.objects.list"):
            return
        with self.buckets.lock:
            found = list(self.buckets.objects[bucket].items())
            found += self.buckets.older[bucket] if query.get("versions", "").lower() == "true" else []
        found = sorted(
            (each for each in found if each[0].startswith(query.get("prefix", ""))), key=lambda each: each[0]
        )
        begin = int(query.get("pageToken") or 0)
        end = begin + self.buckets.faults.page
        more = {"nextPageToken": str(end)} if len(found) > end else {}
        items = [resource(bucket, name, stored) for name, stored in found[begin:end]]
        self._send(200, {"kind": "storage#objects", "items": items, **more})

    def _get(self, bucket: str, name: str, query: dict[str, str]) -> None:
        if self._denied("storage.objects.get"):
            return None
        stored = self.buckets.get(bucket, name, query.get("generation"))
        if stored is None:
            return self._refuse(404, f"No such object: {bucket}/{name}")
        if query.get("alt") != "media":
            return self._send(200, resource(bucket, name, stored))
        content, code = stored.content, 200
        headers = {
            "X-Goog-Hash": f"crc32c={crc32c(content)},md5={md5(content)}",
            "X-Goog-Generation": str(stored.generation),
        }
        if stored.encoding:  # to a client that takes it as it is stored
            headers["Content-Encoding"] = stored.encoding
        if (asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))) and content:
            begin, end = int(asked[1]), int(asked[2] or len(content) - 1)
            if begin >= len(content):
                return self._refuse(416, "The requested range cannot be satisfied.")
            headers["Content-Range"] = f"bytes {begin}-{min(end, len(content) - 1)}/{len(content)}"
            content, code = content[begin : end + 1], 206
        return self._send(code, content, headers)

    def _delete(self, bucket: str, name: str, query: dict[str, str]) -> None:
        if self._denied("storage.objects.delete"):
            return None
        with self.buckets.lock:
            stored = self.buckets.objects[bucket].get(name)
            match = query.get("ifGenerationMatch")
            if stored is None:
                return self._refuse(404, f"No such object: {bucket}/{name}")
            if match is not None and int(match) != stored.generation:
                return self._refuse(412, "At least one of the pre-conditions you specified did not hold.")
            self.buckets.keep_older(bucket, name)
        return self._carried_out(204)

    def _upload(self, path: str, query: dict[str, str]) -> None:
        match = OBJECTS.fullmatch(path)
        assert match is not None
        if self._denied("storage.objects.create"):
            self._drain()
            return None
        if match[1] not in self.buckets.objects:
            self._drain()
            return self._refuse(404, "The specified bucket does not exist.")
        if "upload_id" in query:
            return self._go_on(query["upload_id"])
        if query["uploadType"] == "resumable":
            described = json.loads(self._body())
            session = self._session(match[1], query, described)
            token = f"{len(self.buckets.sessions)}-{id(session):x}"
            self.buckets.sessions[token] = session
            host = self.headers["Host"]
            return self._send(200, {}, {"Location": f"http://{host}{self.path}&upload_id={token}"})
        body = self._body(slowly=True)
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        boundary = b"--" + str(email.parser.BytesParser().parsebytes(head).get_boundary()).encode()
        _, first, second, _ = body.split(boundary, 3)
        session = self._session(match[1], query, json.loads(first.partition(b"\r\n\r\n")[2]))
        session.content[:] = second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        return self._finish(session)

    def _session(self, bucket: str, query: dict[str, str], described: dict[str, Any]) -> Session:
        metadata = dict(described.get("metadata") or {})
        encoding = described.get("contentEncoding")
        return Session(bucket, str(described["name"]), query.get("ifGenerationMatch"), metadata, encoding)

    def _go_on(self, token: str) -> None:
        session = self.buckets.sessions.get(token)
        if session is None:
            self._drain()
            return self._refuse(410, "this upload has expired")
        if session.made is not None:
            self._drain()
            return self._carried_out(200, resource(session.bucket, session.name, session.made))
        asked = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", self.headers.get("Content-Range", ""))
        assert asked is not None, self.headers
        if asked[1] is not None:
            begin = int(asked[1])
            if begin > len(session.content):
                self._drain()
                return self._refuse(503, "bytes are missing before these")
            for piece in self._pieces(slowly=True):
                new = len(session.content) - begin  # bytes that are there already are ignored
                session.content += piece[max(0, new) :] if new < len(piece) else b""
                begin += len(piece)
        if asked[3] != "*" and len(session.content) == int(asked[3]):
            return self._finish(session)
        received = {"Range": f"bytes=0-{len(session.content) - 1}"} if session.content else {}
        return self._send(308, b"", received)

    def _finish(self, session: Session) -> None:
        stored = self.buckets.put(session)
        if stored is None:
            return self._refuse(412, "At least one of the pre-conditions you specified did not hold.")
        session.made = stored
        return self._carried_out(200, resource(session.bucket, session.name, stored))

    def _carried_out(self, code: int, content: dict[str, Any] | bytes = b"") -> None:
        if self.buckets.happens(self.buckets.faults.lost):
            raise Broken
        self._send(code, content)

    def _denied(self, permission: str) -> bool:
        if permission not in self.buckets.faults.denied:
            return False
        self._refuse(403, f"trainer@example.iam does not have {permission} access to the Google Cloud Storage object.")
        return True

    def _refuse(self, code: int, message: str) -> None:
        self._send(code, {"error": {"code": code, "message": message, "errors": [{"message": message}]}})

    def _send(self, code: int, content: dict[str, Any] | bytes = b"", headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json; charset=UTF-8"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        torn = self.buckets.faults.torn
        if torn and code in (200, 206) and isinstance(content, bytes) and self.buckets.happens(torn):
            self.wfile.write(body[: len(body) // 2])
            raise Broken
        self.wfile.write(body)

    def _body(self, *, slowly: bool = False) -> bytes:
        return b"".join(self._pieces(slowly=slowly))

    def _drain(self) -> None:
        self._body()

    def _pieces(self, *, slowly: bool = False) -> Iterator[bytes]:
        """Of the body, at the rate of the faults; perhaps its connection breaks in the middle."""
        left, faults = int(self.headers.get("Content-Length") or 0), self.buckets.faults
        break_at = left // 2 if slowly and left > 1 and self.buckets.happens(faults.cut) else -1
        while left > 0:
            piece = self.rfile.read(min(left, PIECE))
            if not piece or self.server.gone:
                raise Broken
            left -= len(piece)
            if slowly and faults.bytes_s:
                time.sleep(len(piece) / faults.bytes_s)
            yield piece
            if left <= break_at:
                raise Broken


class Server(ThreadingHTTPServer):
    """One address of the buckets. `gone`: the network between it and those who use it is cut."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, buckets: Buckets, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.buckets = buckets
        self.gone = False
        self.url = f"http://{host}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def crc32c(content: bytes) -> str:
    return base64.b64encode(Checksum(content).digest()).decode()


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def resource(bucket: str, name: str, stored: Stored) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{stored.generation}",
        "selfLink": f"https://www.googleapis.com/storage/v1/b/{bucket}/o/{quote(name, safe='')}",
        "bucket": bucket,
        "name": name,
        "generation": str(stored.generation),
        "metageneration": "1",
        "size": str(len(stored.content)),
        "crc32c": crc32c(stored.content),
        "md5Hash": md5(stored.content),
        "metadata": stored.metadata,
        **({"contentEncoding": stored.encoding} if stored.encoding else {}),
    }


@contextmanager
def serving(buckets: Buckets, host: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(buckets, host)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
