"""Whoever is asked may be away, slow, wordy or somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import calls
from deploy.calls import Unanswered, get_json, post_json
from tests.deploy.fakes import Answer, answering, free_port

QUICK = 0.2  # seconds, for an answer that never comes


def always(status: int, content: bytes) -> Callable[..., Answer]:
    return lambda *_: (status, content)


def test_an_answer_is_handed_over_and_the_token_is_borne() -> None:
    borne = []

    def answer(method: str, path: str, headers: object, body: bytes) -> Answer:
        borne.append(headers["Authorization"])  # type: ignore[index]
        return 200, b'{"a": [1, 2]}'

    with answering(answer) as url:
        assert get_json(f"{url}/x", seconds=30, who="it", token="secret") == {"a": [1, 2]}
        assert get_json(f"{url}/x", seconds=30, who="it") == {"a": [1, 2]}
    assert borne == ["Bearer secret", None]


@pytest.mark.parametrize(
    ("status", "content"), [(500, b"{}"), (401, b""), (302, b"http://127.0.0.1:1/"), (200, b"<html>")]
)
def test_anything_but_json_is_no_answer(status: int, content: bytes) -> None:
    with answering(always(status, content)) as url, pytest.raises(Unanswered, match=f"^it at {url} answers"):
        get_json(url, seconds=30, who="it")


def test_nobody_there_is_said() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unanswered, match=f"^it at {url} doesn't answer .*refused"):
        get_json(url, seconds=30, who="it")


def test_no_proxy_of_the_shell_is_between_processes_of_this_house() -> None:
    """It is read when the module is imported, hence a process."""
    program = "import sys; from deploy.calls import get_json; print(get_json(sys.argv[1], seconds=30, who='it'))"
    plain = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    with answering(always(200, b"1")) as url:
        ended = subprocess.run(
            [sys.executable, "-c", program, url],
            cwd=Path(__file__).resolve().parents[2],
            env=plain | {"http_proxy": f"http://127.0.0.1:{free_port()}"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert ended.stdout == "1\n", ended.stderr


def test_nobody_is_waited_for_for_longer_than_stated() -> None:
    ended = threading.Event()

    def never(*_: object) -> Answer:
        ended.wait(30)
        return 200, b"1"

    with answering(never) as url:
        with pytest.raises(Unanswered, match="no answer in time"):
            get_json(url, seconds=QUICK, who="it")
        ended.set()


def test_no_more_is_read_than_an_answer_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_ANSWER", 100)
    with answering(always(200, b"1" * 99)) as url:
        assert get_json(url, seconds=30, who="it") == int("1" * 99)
    with answering(always(200, b"1" * 101)) as url, pytest.raises(Unanswered, match="too much"):
        get_json(url, seconds=30, who="it")


@pytest.mark.parametrize("status", [301, 302, 307, 404, 500])
def test_a_page_that_is_not_taken_is_not_delivered_and_its_address_is_not_told(status: int) -> None:
    with answering(always(status, b"http://127.0.0.1:1/")) as url:
        with pytest.raises(Unanswered, match=f"^the webhook answers {status}$") as raised:
            post_json(f"{url}/s3cret", {}, seconds=30, who="the webhook")
        assert "s3cret" not in str(raised.value)


def test_a_page_is_json() -> None:
    taken = []

    def take(method: str, path: str, headers: object, body: bytes) -> Answer:
        taken.append((method, path, headers["Content-Type"], body))  # type: ignore[index]
        return 202, b""

    with answering(take) as url:
        post_json(f"{url}/x?y=1", {"é": 1}, seconds=30, who="the webhook")
    assert taken == [("POST", "/x?y=1", "application/json", b'{"\\u00e9": 1}')]
