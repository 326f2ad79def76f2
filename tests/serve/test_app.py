"""`python -m serve` as a real process: bodies as the network brings them, and starts that can't be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retain.release import Release
from serve.protocol import MAX_HEAD, MAX_PIPELINE
from tests.releases import decided, rows

ROOT = Path(__file__).resolve().parents[2]
CHUNK = b"[" * 65_536


class Served(subprocess.Popen[str]):
    """Killed rather than waited for when a test fails."""

    def __exit__(self, *error: Any) -> None:
        if self.poll() is None:
            self.kill()
        super().__exit__(*error)


def serve(environment: dict[str, str], code: str = "") -> Served:
    ours = "RETAIN|RELEASE|.*_PATH$|FORCE_BASELINE|CANARY_PERCENT|ASSIGNMENT_KEY"
    plain = {name: value for name, value in os.environ.items() if not re.match(ours, name)}
    return Served(
        [sys.executable, "-c", f"{code}; raise SystemExit(a.main())"] if code else [sys.executable, "-m", "serve"],
        cwd=ROOT,
        env=plain | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def address(artifact: Path) -> Iterator[tuple[str, int]]:
    with serve({"RELEASE_PATH": str(artifact), "PORT": "0"}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"release [0-9a-f]{12} \(\S+/toy/release/f+\) on http://([\d.]+):(\d+)", line)
        assert found, line
        yield found[1], int(found[2])
        process.send_signal(signal.SIGINT)  # Ctrl-C
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_replaced_part_is_told_at_the_start_and_in_answers(artifact: Path, store: Path) -> None:
    risk = store / "toy" / "risk" / ("f" * 64)
    with serve({"RELEASE_PATH": str(artifact), "RISK_MODEL_PATH": str(risk), "PORT": "0"}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"release ([0-9a-f]{12}\+risk) \((\S+), risk of (\S+)\) on (http://[\d.]+:\d+)", line)
        assert found, line
        assert found.group(2, 3) == (str(artifact), str(risk))
        with urllib.request.urlopen(f"{found[4]}/readyz", timeout=30) as response:
            ready = json.load(response)
        with urllib.request.urlopen(f"{found[4]}/metrics", timeout=30) as response:
            assert f'retain_release_info{{release="{found[1]}"}} 1.0' in response.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert ready["release"] == found[1]
        assert [f"warning: {warning}\n" for warning in ready["warnings"]] == process.stderr.readlines()
        assert len(ready["warnings"]) == 1


def test_the_learned_policy_answers_when_it_may(artifact: Path, store: Path, release: Release) -> None:
    decision = store / "toy" / "decision" / ("f" * 64)
    environment = {"FORCE_BASELINE": "false", "CANARY_PERCENT": "100", "PPO_POLICY_PATH": str(decision)}
    with serve({"RELEASE_PATH": str(artifact), "PORT": "0", **environment}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.endswith("100 % of customers; messages: 24 of template, 48 of sft, 48 of rlhf\n")
        found = re.search(r"\+decision \(.* on http://([\d.]+):(\d+)", line)
        assert found, line
        body = json.dumps({"customer": rows(release.spec, 1, seed=4)[0]}).encode()
        status, answer = talk((found[1], int(found[2])), head(f"Content-Length: {len(body)}"), body)
        assert (status, answer["mode"]) == (200, "learned")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_a_setting_that_means_nothing_is_one_line(artifact: Path) -> None:
    process = serve({"RELEASE_PATH": str(artifact), "CANARY_PERCENT": "all"})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (2, "", "CANARY_PERCENT=all: wants a number from 0 to 100\n")


def talk(address: tuple[str, int], *pieces: bytes) -> tuple[int, Any]:
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
        ["POST /retain HTTP/1.1", "Host: test", "Content-Type: application/json", *headers, "", ""]
    ).encode()


def chunked(*chunks: bytes) -> list[bytes]:
    return [f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks] + [b"0\r\n\r\n"]


def test_a_real_request_is_answered(address: tuple[str, int], release: Release) -> None:
    customer = rows(release.spec, 1, seed=4)[0]
    request = urllib.request.Request(
        f"http://{address[0]}:{address[1]}/retain",
        json.dumps({"customer": customer}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        assert json.load(response)["risk"] == decided(release, customer)[0].risk


def test_a_chunked_body_is_read(address: tuple[str, int], release: Release) -> None:
    body = json.dumps({"customer": rows(release.spec, 1, seed=4)[0]}).encode()
    pieces = chunked(*(body[start : start + 7] for start in range(0, len(body), 7)))
    status, answer = talk(address, head("Transfer-Encoding: chunked"), *pieces)
    assert status == 200
    assert answer["mode"] == "baseline"


def test_a_chunked_body_without_a_length_is_limited(address: tuple[str, int]) -> None:
    status, answer = talk(address, head("Transfer-Encoding: chunked"), *chunked(*[CHUNK] * 16))
    assert status == 413
    assert answer == {"detail": "a body may have 16384 bytes"}


def test_fifty_megabytes_are_refused_with_an_answer(address: tuple[str, int]) -> None:
    pieces = 800
    length = f"Content-Length: {pieces * len(CHUNK)}"
    assert talk(address, head(length), *[CHUNK] * pieces)[0] == 413
    # Who asks first is told before sending anything.
    assert talk(address, head(length, "Expect: 100-continue"))[0] == 413


def test_a_caller_who_hangs_up_does_no_harm(address: tuple[str, int], release: Release) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(head("Content-Length: 1000") + b"{")
    test_a_real_request_is_answered(address, release)
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/metrics", timeout=30) as response:
        counted = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
    assert counted['retain_requests_total{code="500",path="/retain"}'] == "0.0"
    assert counted['retain_requests_total{code="400",path="/retain"}'] == "1.0"


def test_a_port_in_use_is_one_line(address: tuple[str, int], artifact: Path) -> None:
    process = serve({"RELEASE_PATH": str(artifact), "PORT": str(address[1])})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert err == f"RETAIN_HOST=127.0.0.1 PORT={address[1]}: can't listen there (Address already in use)\n"


def test_no_release_is_one_line(tmp_path: Path) -> None:
    process = serve({"RETAIN_STORE": str(tmp_path)})
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"experiment local has no release in .*: run `make run` first, or set RELEASE_PATH\n", err)


def test_the_service_imports_no_training_library() -> None:
    code = (
        "import sys, serve.app\n"
        "print(*sorted({'torch', 'pandas', 'sklearn', 'xgboost', 'pyarrow', 'prefect', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture(scope="module")
def hasty(artifact: Path) -> Iterator[tuple[str, int]]:
    """A service that waits one second for a head and serves four connections."""
    code = "import serve.app as a, serve.protocol as p; p.HEAD_SECONDS = 1.0; a.MAX_CONNECTIONS = 4"
    with serve({"RELEASE_PATH": str(artifact), "PORT": "0"}, code) as process:
        assert process.stdout is not None
        found = re.search(r"on http://([\d.]+):(\d+)", process.stdout.readline())
        assert found
        yield found[1], int(found[2])


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


def refused_while_sending(address: tuple[str, int], start: bytes, piece: bytes, most: int) -> bool:
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
def test_an_endless_head_is_answered_431_and_closed(address: tuple[str, int], start: bytes, piece: bytes) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall((start + piece)[: MAX_HEAD + 1])
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"detail": "request line and headers may have 32768 bytes"}
    assert refused_while_sending(address, start, piece, 64 * 1024 * 1024)


def test_endless_trailers_are_closed(address: tuple[str, int]) -> None:
    for path in (b"/retain", b"/nowhere"):
        start = head("Transfer-Encoding: chunked").replace(b"/retain", path) + b"0\r\n"
        assert refused_while_sending(address, start, b"X: y\r\n" * 8_000, 64 * 1024 * 1024)


def test_a_head_of_just_less_than_the_limit_is_read(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        for _ in range(3):  # each head has its own limit
            connection.sendall(GET + b"X: " + b"a" * 30_000 + b"\r\n\r\n")
            assert alive(connection)


def test_a_few_pipelined_requests_are_answered_and_many_are_not(address: tuple[str, int]) -> None:
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
def test_half_sent_heads_are_closed(hasty: tuple[str, int], sent: bytes) -> None:
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


def test_a_dripping_head_is_closed(hasty: tuple[str, int]) -> None:
    with socket.create_connection(hasty, timeout=30) as connection:
        connection.sendall(GET + b"\r\n")
        assert alive(connection)
        assert closed_while_dripping(connection, seconds=20)


def test_more_connections_than_the_limit_get_503(hasty: tuple[str, int]) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(socket.create_connection(hasty, timeout=30)) for _ in range(4)]
        connections[-1].sendall(GET + b"Connection: close\r\n\r\n")
        assert everything(connections[-1]).startswith(b"HTTP/1.1 503 ")
    with urllib.request.urlopen(f"http://{hasty[0]}:{hasty[1]}/healthz", timeout=30) as response:
        assert response.status == 200
