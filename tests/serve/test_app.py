"""`python -m serve` as a real process: bodies as the network brings them, and starts that can't be."""

from __future__ import annotations

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
from tests.releases import rows

ROOT = Path(__file__).resolve().parents[2]
CHUNK = b"[" * 65_536


class Served(subprocess.Popen[str]):
    """Killed rather than waited for when a test fails."""

    def __exit__(self, *error: Any) -> None:
        if self.poll() is None:
            self.kill()
        super().__exit__(*error)


def serve(environment: dict[str, str], code: str = "") -> Served:
    plain = {name: value for name, value in os.environ.items() if not re.match("RETAIN|RELEASE|.*_PATH$", name)}
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
        assert json.load(response)["risk"] == release.decide(customer)[0].risk


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
