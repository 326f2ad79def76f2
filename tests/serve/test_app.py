"""`python -m serve` as a real process: bodies as the network brings them, and starts that can't be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RetainError
from retain.release import Release
from serve.child import config_of
from serve.metrics import REFUSALS
from serve.protocol import MAX_HEAD, MAX_PIPELINE, LimitedProtocol
from serve.refusals import Refusal
from serve.settings import KEEP_ALIVE, SETTINGS, read
from serve.sockets import listen
from tests.releases import decided, rows
from tests.serve.client import Client
from tests.serve.services import ROOT, Address, Served, counted, get, serve

CHUNK = b"[" * 65_536


@pytest.fixture(scope="module")
def service(artifact: Path, store: Path) -> Iterator[Served]:
    with serve({"RELEASE_PATH": str(artifact), "RETAIN_STORE": str(store)}) as process:
        process.begun()
        assert process.line.startswith(f"Retain serves release {process.release} ({artifact}) on http://")
        yield process
        process.send_signal(signal.SIGINT)  # Ctrl-C
        assert process.wait(20) == 0
        said = [re.fullmatch(r"\S+Z WARNING (worker-\d) request=(\S+) (.*)", line) for line in process.said()]
        kinds = [(line[1], line[3]) for line in said if line]
        assert len(kinds) == len(said) == len(set(kinds))  # one of each kind from a worker, whatever the tests sent
        for _, text in kinds:
            assert re.fullmatch(f"a connection from 127.0.0.1 was refused: ({'|'.join(REFUSALS)})", text)


@pytest.fixture(scope="module")
def address(service: Served) -> Address:
    return service.api


def test_a_replaced_part_is_told_at_the_start_and_in_answers(artifact: Path, store: Path) -> None:
    risk = store / "toy" / "risk" / ("f" * 64)
    with serve({"RELEASE_PATH": str(artifact), "RISK_MODEL_PATH": str(risk), "RETAIN_STORE": str(store)}) as process:
        process.begun()
        assert "+risk:" in process.release
        assert f"({artifact}, risk of {risk})" in process.line
        ready = json.loads(get(process.api, "/readyz"))
        assert counted(process)[f'retain_release_info{{release="{process.release}"}}'] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert ready["release"] == process.release
        assert [f"warning: {warning}" for warning in ready["warnings"]] == process.said()
        assert len(ready["warnings"]) == 1


def test_the_learned_policy_answers_when_it_may(artifact: Path, store: Path, release: Release) -> None:
    decision = store / "toy" / "decision" / ("f" * 64)
    environment = {"FORCE_BASELINE": "false", "CANARY_PERCENT": "100", "PPO_POLICY_PATH": str(decision)}
    environment |= {"RETAIN_STORE": str(store)}
    with serve({"RELEASE_PATH": str(artifact), **environment}) as process:
        process.begun()
        assert "100 % of customers; messages: 24 of template, sft 48 of 48 approved, rlhf 48 of 48" in process.line
        assert "+decision:" in process.release
        body = json.dumps({"customer": rows(release.spec, 1, seed=4)[0]}).encode()
        status, answer = talk(process.api, head(f"Content-Length: {len(body)}"), body)
        assert (status, answer["mode"]) == (200, "learned")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_its_help_lists_every_setting() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serve", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    listed = re.findall(r"^([A-Z_]+)  +\S", done.stdout, flags=re.MULTILINE)
    assert listed == [setting.name for setting in SETTINGS]


def test_a_setting_that_means_nothing_is_one_line(artifact: Path) -> None:
    process = serve({"RELEASE_PATH": str(artifact), "CANARY_PERCENT": "all"})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (2, "", "CANARY_PERCENT=all: wants a number from 0 to 100\n")


def talk(address: Address, *pieces: bytes) -> tuple[int, Any]:
    """Sends the pieces of one request as they are; status and JSON of the answer."""
    with socket.create_connection(address, timeout=30) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = connection.makefile("rb")
        status = int(answer.readline().split()[1])
        headers = dict(line.strip().lower().split(b": ", 1) for line in iter(answer.readline, b"\r\n"))
        return status, json.loads(answer.read(int(headers[b"content-length"])))


def head(*headers: str) -> bytes:
    return "\r\n".join(
        ["POST /retain HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, "", ""]
    ).encode()


def chunked(*chunks: bytes) -> list[bytes]:
    return [f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks] + [b"0\r\n\r\n"]


def test_a_real_request_is_answered(address: Address, release: Release) -> None:
    customer = rows(release.spec, 1, seed=4)[0]
    request = urllib.request.Request(
        f"http://{address[0]}:{address[1]}/retain",
        json.dumps({"customer": customer}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert json.load(response)["risk"] == decided(release, customer)[0].risk


def test_a_chunked_body_is_read(address: Address, release: Release) -> None:
    body = json.dumps({"customer": rows(release.spec, 1, seed=4)[0]}).encode()
    pieces = chunked(*(body[start : start + 7] for start in range(0, len(body), 7)))
    status, answer = talk(address, head("Transfer-Encoding: chunked"), *pieces)
    assert status == 200
    assert answer["mode"] == "baseline"


def test_a_chunked_body_without_a_length_is_limited(address: Address) -> None:
    status, answer = talk(address, head("Transfer-Encoding: chunked"), *chunked(*[CHUNK] * 16))
    assert status == 413
    assert answer["detail"] == "a body may have 16384 bytes"


def test_fifty_megabytes_are_refused_with_an_answer(address: Address) -> None:
    pieces = 800
    length = f"Content-Length: {pieces * len(CHUNK)}"
    assert talk(address, head(length), *[CHUNK] * pieces)[0] == 413
    # Who asks first is told before sending anything.
    assert talk(address, head(length, "Expect: 100-continue"))[0] == 413


def test_a_caller_who_hangs_up_does_no_harm(service: Served, address: Address, release: Release) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head("Content-Length: 1000") + b"{")
    test_a_real_request_is_answered(address, release)
    found = counted(service)
    assert found['retain_requests_total{code="500",path="/retain"}'] == 0
    assert found['retain_requests_total{code="400",path="/retain"}'] == 1


def test_a_port_in_use_is_one_line(address: Address, artifact: Path) -> None:
    process = serve({"RELEASE_PATH": str(artifact), "PORT": str(address[1])})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err == f"RETAIN_HOST=127.0.0.1 PORT={address[1]}: can't listen there (Address already in use)\n"


def test_an_admin_port_in_use_is_one_line(service: Served, artifact: Path) -> None:
    process = serve({"RELEASE_PATH": str(artifact), "RETAIN_ADMIN_PORT": str(service.admin.port)})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    where = f"RETAIN_ADMIN_HOST=127.0.0.1 RETAIN_ADMIN_PORT={service.admin.port}"
    assert err == f"{where}: can't listen there (Address already in use)\n"


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", ".", os.fsdecode(b"\xff"), "no host", "a[/b]"])
@pytest.mark.parametrize("setting", ["RETAIN_HOST", "RETAIN_ADMIN_HOST"])
def test_a_host_that_is_none_is_one_line(setting: str, host: str) -> None:
    with pytest.raises(RetainError, match=f"^{setting}=") as error:
        listen((setting, "PORT"), host, 0, "RETAIN_API_KEYS")
    assert "\n" not in str(error.value)


def test_a_terminal_without_a_letter_of_the_path_stops_no_service(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "ü")
    with serve({"RELEASE_PATH": str(tmp_path / "ü"), "PYTHONIOENCODING": "ascii"}) as process:
        assert f"({tmp_path}/?)" in process.begun().line


def test_no_release_is_one_line(tmp_path: Path) -> None:
    process = serve({"RETAIN_STORE": str(tmp_path)})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"experiment local has no release in .*: run `make run` first, or set RELEASE_PATH\n", err)


@pytest.mark.parametrize("module", ["worker", "admin", "supervisor"])
def test_the_service_imports_no_training_library(module: str) -> None:
    code = (
        f"import sys, serve.{module}\n"
        "print(*sorted({'torch', 'pandas', 'sklearn', 'xgboost', 'pyarrow', 'prefect', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_supervisor_loads_nothing_that_only_others_need() -> None:
    code = (
        "import runpy, sys, serve.supervisor as s\n"
        "s.main = lambda: print(*sorted({'fastapi', 'numpy', 'sqlalchemy', 'uvicorn'} & set(sys.modules)))\n"
        "sys.argv = ['serve']; runpy.run_module('serve')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture(scope="module")
def hasty_service(artifact: Path) -> Iterator[Served]:
    """A service whose one worker waits one second for a head and serves four connections."""
    patch = "import serve.child, serve.protocol; serve.protocol.HEAD_SECONDS = 1.0; serve.child.MAX_CONNECTIONS = 4"
    with serve({"RELEASE_PATH": str(artifact), "RETAIN_WORKERS": "1"}, patch) as process:
        yield process.begun()


@pytest.fixture(scope="module")
def hasty(hasty_service: Served) -> Address:
    return hasty_service.api


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65_536):
            found += piece
    return found


def alive(connection: socket.socket) -> bool:
    """Whether one answer of /healthz comes."""
    found = b""
    while not found.endswith(b"}") and (piece := connection.recv(65_536)):
        found += piece
    return found.startswith(b"HTTP/1.1 200 ")


def refused_while_sending(address: Address, start: bytes, piece: bytes, most: int) -> bool:
    """Whether the service closes before it was sent `most` bytes."""
    with socket.create_connection(address, timeout=30) as connection:
        try:
            connection.sendall(start)
            for _ in range(most // len(piece)):
                connection.sendall(piece)
        except (ConnectionResetError, BrokenPipeError):
            return True
    return False


GET = b"GET /healthz HTTP/1.1\r\nHost: test\r\n"
ENDLESS = [
    pytest.param(GET + b"X: ", b"a" * 40_000, id="header"),
    pytest.param(GET, b"X: y\r\n" * 8_000, id="headers"),
    pytest.param(b"GET /", b"a" * 40_000, id="url"),
]


@pytest.mark.parametrize(("start", "piece"), ENDLESS)
def test_an_endless_head_is_answered_431_and_closed(address: Address, start: bytes, piece: bytes) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall((start + piece)[: MAX_HEAD + 1])
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    top, _, body = answer.partition(b"\r\n\r\n")
    refusal = json.loads(body)
    assert refusal["detail"] == "request line and headers may have 32768 bytes"
    assert f"\r\nx-request-id: {refusal['request_id']}\r\n".encode() in top
    assert refused_while_sending(address, start, piece, 64 * 1024 * 1024)


def test_endless_trailers_are_closed(address: Address) -> None:
    for path in (b"/retain", b"/nowhere"):
        start = head("Transfer-Encoding: chunked").replace(b"/retain", path) + b"0\r\n"
        assert refused_while_sending(address, start, b"X: y\r\n" * 8_000, 64 * 1024 * 1024)


def test_a_head_of_just_less_than_the_limit_is_read(address: Address) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(3):  # each head has its own limit
            connection.sendall(GET + b"X: " + b"a" * 30_000 + b"\r\n\r\n")
            assert alive(connection)


def test_a_few_pipelined_requests_are_answered_and_many_are_not(address: Address) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall((GET + b"\r\n") * MAX_PIPELINE + GET + b"Connection: close\r\n\r\n")
        assert everything(connection).count(b"HTTP/1.1 200 ") == MAX_PIPELINE + 1
    assert refused_while_sending(address, b"", (GET + b"\r\n") * 2_000, 64 * 1024 * 1024)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GET + b"X: a", id="half a head"),
        pytest.param(GET + b"\r\n" + GET, id="half a second head"),
    ],
)
def test_half_sent_heads_are_closed(hasty: Address, sent: bytes) -> None:
    with socket.create_connection(hasty, timeout=30) as connection:
        connection.sendall(sent)
        assert everything(connection).count(b"HTTP/1.1 200 ") == sent.count(b"\r\n\r\n")


def closed_while_dripping(connection: socket.socket, seconds: float) -> bool:
    """Whether the service closes although a line end, which belongs to no request, comes every tenth of a second."""
    connection.settimeout(0.1)
    for _ in range(round(seconds * 10)):
        try:
            connection.sendall(b"\r\n")
            if connection.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return True
    return False


def test_a_dripping_head_is_closed(hasty: Address) -> None:
    with socket.create_connection(hasty, timeout=30) as connection:
        connection.sendall(GET + b"\r\n")
        assert alive(connection)
        assert closed_while_dripping(connection, seconds=20)


def test_more_connections_than_the_limit_get_503(hasty: Address) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(hasty, timeout=30)) for _ in range(4)]
        connections[-1].sendall(GET + b"Connection: close\r\n\r\n")
        top, _, body = everything(connections[-1]).partition(b"\r\n\r\n")
        assert top.startswith(b"HTTP/1.1 503 ")
        assert b"content-type: application/json" in top
        assert f"x-request-id: {json.loads(body)['request_id']}".encode() in top
    with urllib.request.urlopen(f"http://{hasty[0]}:{hasty[1]}/healthz", timeout=30) as response:
        assert response.status == 200


# -- what is no HTTP/1 ---------------------------------------------------------------------------------------------

OFFERS = [
    pytest.param(("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), id="h2c"),
    pytest.param(
        ("Upgrade: websocket", "Connection: keep-alive, upgrade", "Sec-WebSocket-Version: 13"), id="websocket"
    ),
]


def answers(address: Address, *segments: bytes) -> list[tuple[int, bytes]]:
    """(status, body) of all that is answered to the segments, whose last request closes the connection."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for segment in segments:
            connection.sendall(segment)
        received = everything(connection)
    parsed = []
    while received:
        top, _, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", top)
        assert length, top
        parsed.append((int(top.split()[1]), rest[: int(length[1])]))
        received = rest[int(length[1]) :]
    return parsed


def decision(answer: tuple[int, bytes]) -> dict[str, Any]:
    """What was decided, without what differs from call to call."""
    assert answer[0] == 200, answer
    content: dict[str, Any] = json.loads(answer[1])
    return content | {"decision_id": ""}


def protocol_errors(service: Served) -> dict[str, float]:
    """By reason, of all workers."""
    found = {name: re.fullmatch(r'retain_protocol_errors_total{reason="(\w+)"}', name) for name in counted(service)}
    return {match[1]: counted(service)[name] for name, match in found.items() if match}


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("split", ["one segment", "head and body", "bytes"])
def test_an_offer_to_upgrade_is_ignored(
    address: Address, release: Release, offer: tuple[str, ...], framing: str, split: str
) -> None:
    """Java's HttpClient and curl --http2 make one with every first request."""
    body = json.dumps({"customer": rows(release.spec, 1, seed=4)[0]}).encode()
    length, framed = f"Content-Length: {len(body)}", body
    if framing == "chunks":
        length, framed = "Transfer-Encoding: chunked", b"".join(chunked(body[:100], body[100:]))
    offered, plain = head(*offer, length) + framed, head(length, "Connection: close") + framed
    sent = offered + offered + plain
    segments = [sent]
    if split == "bytes":
        segments = [bytes([byte]) for byte in sent]
    elif split == "head and body":
        segments = [head(*offer, length), framed + head(*offer, length), framed + plain]
    received = answers(address, *segments)
    assert len(received) == 3
    assert decision(received[0]) == decision(received[1]) == decision(received[2])


def test_an_offer_to_upgrade_without_a_body_is_ignored_and_a_close_is_kept(address: Address) -> None:
    offer = b"Connection: Upgrade%s\r\nUpgrade: h2c\r\n\r\n"
    assert [status for status, _ in answers(address, (GET + offer % b"") * 2 + GET + offer % b", close")] == [200] * 3


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 of TLS", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /healthz HTTP/2.0\r\nHost: test\r\n\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),  # HTTP/0.9
        (b"GET /healthz HTTP/1.1\r\nHost: test\r\n folded\r\n\r\n", 400),
        (b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n" + GET + b"\r\n", 405),
        (head("Transfer-Encoding: chunked", "Content-Length: 3") + b"0\r\n\r\n", 400),
        (head("Transfer-Encoding: chunked") + b"zz\r\n", 400),
    ],
)
def test_what_is_no_http_1_is_answered_once_and_closed(
    service: Served, address: Address, sent: bytes, status: int
) -> None:
    before = protocol_errors(service)["malformed"]
    ((answered, content),) = answers(address, sent)
    assert answered == status
    Refusal.model_validate_json(content, strict=True)
    assert protocol_errors(service)["malformed"] == before + 1


@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
def test_requests_before_what_is_no_http_are_answered_first(address: Address, offer: bytes) -> None:
    received = answers(address, (GET + offer + b"\r\n") * 3 + b"\x00 is no request\r\n\r\n" + GET + b"\r\n")
    assert received == [(200, b'{"status":"alive"}')] * 3


def test_a_body_that_is_refused_unread_is_not_waited_for(address: Address) -> None:
    """Whoever expects 100 and gets a refusal may send the next request at once: it must not be taken for the body."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head("Expect: 100-continue", "Content-Length: 100", "Content-Encoding: gzip"))
        received = everything(connection)
    assert received.startswith(b"HTTP/1.1 415 ")
    assert b"\r\nconnection: close\r\n" in received


def test_what_connections_are_refused_for_is_counted(
    service: Served, address: Address, hasty_service: Served, hasty: Address
) -> None:
    before = protocol_errors(service)
    assert set(before) == set(REFUSALS)
    assert [status for status, _ in answers(address, GET + b"X: " + b"a" * MAX_HEAD)] == [431]
    refused_while_sending(address, b"", (GET + b"\r\n") * 2_000, 64 * 1024 * 1024)
    after = protocol_errors(service)
    assert after["head_too_large"] == before["head_too_large"] + 1
    assert after["too_many_pipelined"] == before["too_many_pipelined"] + 1
    before = protocol_errors(hasty_service)
    with socket.create_connection(hasty, timeout=30) as connection:
        connection.sendall(GET)
        assert everything(connection) == b""
    assert protocol_errors(hasty_service)["too_slow"] == before["too_slow"] + 1


def test_head_has_no_body(address: Address) -> None:
    ask = b"HEAD /healthz/ HTTP/1.1\r\nHost: evil.example\r\n"
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(ask + b"\r\n" + ask + b"Connection: close\r\n\r\n")
        received = everything(connection)
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"alive" not in received
    assert received.count(b"content-length: 18") == 2


def test_who_has_been_idle_longest_makes_room(hasty: Address) -> None:
    """At four connections the fifth would be refused; idle ones are kept for minutes."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(socket.create_connection(hasty, timeout=30))
            connection.sendall(GET + b"\r\n")
            assert alive(connection)
        for _ in range(3):
            with urllib.request.urlopen(f"http://{hasty[0]}:{hasty[1]}/healthz", timeout=30) as response:
                assert response.status == 200


def test_the_server_is_told_how_long_a_connection_may_be_idle(client: Client) -> None:
    for setting, seconds in (({}, KEEP_ALIVE), ({"RETAIN_KEEP_ALIVE": "75"}, 75)):
        settings = read({"RELEASE_PATH": str(Path(__file__).parent), **setting})
        config = config_of(client.app, LimitedProtocol, settings.keep_alive)
        assert config.timeout_keep_alive == seconds
