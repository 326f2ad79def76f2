"""Who may call."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from engine.errors import RetainError
from retain.release import Release
from serve import keys as module
from serve.keys import KeyCheck, Keys
from serve.refusals import Refusal
from serve.settings import SETTINGS, environment_of, read
from serve.sockets import listen
from tests.releases import rows
from tests.serve.apps import app_of
from tests.serve.client import Client

SECRETS = {"shop": "0123456789abcdef", "app": "fedcba9876543210"}


@pytest.fixture
def guarded(release: Release) -> Client:
    return Client(app_of("v1", release, keys=Keys(SECRETS)))


def ask(client: Client, release: Release, *authorization: str, path: str = "/retain") -> Any:
    headers = [("content-type", "application/json"), *(("authorization", value.encode()) for value in authorization)]
    return client.request("POST", path, json={"customer": rows(release.spec, 1, seed=4)[0]}, headers=headers)


@pytest.mark.parametrize("value", ["Bearer 0123456789abcdef", "bearer fedcba9876543210", "BEARER  0123456789abcdef "])
def test_who_bears_a_key_is_answered(guarded: Client, release: Release, value: str) -> None:
    assert ask(guarded, release, value).status_code == 200


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        ("Bearer",),
        ("Bearer ",),
        ("Bearer 0123456789abcde",),
        ("Bearer 0123456789abcdef0",),
        ("Bearer shop:0123456789abcdef",),
        ("Basic 0123456789abcdef",),
        ("0123456789abcdef",),
        ("Bearer 0123456789abcdef", "Bearer 0123456789abcdef"),
        ("Bearer \u00e9\u00e9\u00e9\u00e9",),
    ],
)
def test_who_bears_none_is_refused(guarded: Client, release: Release, values: tuple[str, ...]) -> None:
    response = ask(guarded, release, *values)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    Refusal.model_validate(response.json(), strict=True)
    assert "0123456789abcde" not in response.text
    assert guarded.metrics().count('retain_requests_total{code="401",path="/retain"} 1.0') == 1


@pytest.mark.parametrize("path", ["/retain/", "/retain?x=1", "/nowhere", "//retain", "/docs/../retain", "/DOCS/x"])
def test_every_path_but_the_open_ones_wants_a_key(guarded: Client, release: Release, path: str) -> None:
    assert ask(guarded, release, path=path).status_code == 401


def test_health_and_the_description_want_no_key(guarded: Client) -> None:
    for path in ("/healthz", "/healthz/", "/readyz", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
        response = guarded.get(path)
        assert response.status_code == 200
        assert not any(secret in response.text for secret in SECRETS.values())


def test_without_a_key_nothing_is_told_but_that_it_answers(guarded: Client) -> None:
    key = {"authorization": "Bearer 0123456789abcdef"}
    for headers in ({}, {"authorization": "Bearer wrong"}):
        assert guarded.request("GET", "/readyz", headers=headers).json() == {"status": "ready"}
    said = guarded.request("GET", "/readyz", headers=key).json()
    assert said["status"] == "ready"
    assert {"wallet", "standings", "warnings", "learned_arm"} <= said.keys()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8000", 200),
        ("127.0.0.1:8000", 200),
        ("127.8.9.10", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example:localhost", 403),
        ("", 403),
    ],
)
def test_without_keys_a_page_of_another_site_is_refused(
    client: Client, guarded: Client, release: Release, host: str, status: int
) -> None:
    """Its name was made to lead to this machine, and the browser calls it by that."""
    asked = {"customer": rows(release.spec, 1, seed=4)[0]}
    answer = client.post(asked, host=host)
    assert answer.status_code == status
    assert status == 200 or "RETAIN_API_KEYS" in Refusal.model_validate(answer.json(), strict=True).detail
    assert client.request("GET", "/healthz", headers={"host": host}).status_code == 200
    assert ("wallet" in client.request("GET", "/readyz", headers={"host": host}).json()) == (status == 200)
    assert guarded.post(asked, host=host, authorization="Bearer 0123456789abcdef").status_code == 200


def test_the_description_says_what_wants_a_key(guarded: Client, client: Client) -> None:
    document = guarded.get("/openapi.json").json()
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    wanted = {path: operation["security"] for path, item in document["paths"].items() for operation in item.values()}
    guarded_paths = ("/retain", "/outcomes", "/suppress", "/decisions/{decision_id}")
    assert wanted == {path: [{"key": []}] for path in guarded_paths} | {
        "/healthz": [],
        "/readyz": [{}, {"key": []}],  # more of it with one
    }
    assert "security" not in client.get("/openapi.json").text


@pytest.mark.parametrize(("secrets", "sent", "name"), [(SECRETS, "app", "app"), ({}, None, "")])
def test_what_follows_knows_who_calls(secrets: dict[str, str], sent: str | None, name: str) -> None:
    scope: dict[str, Any] = {"type": "http", "path": "/retain", "headers": []}
    if sent:
        scope["headers"].append((b"authorization", f"Bearer {secrets[sent]}".encode()))
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["caller"])

    run = KeyCheck(app, Keys(secrets))(scope, None, None)  # type: ignore[arg-type]
    with pytest.raises(StopIteration):
        run.send(None)
    assert seen == [name]


def test_every_key_is_compared_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time of an answer tells nothing of the keys."""
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(module, "compare_digest", compare)
    keys = Keys(SECRETS | {"third": "x" * 16})
    for secret in (*SECRETS.values(), "wrong"):
        compared.clear()
        keys.caller({"headers": [(b"authorization", f"Bearer {secret}".encode())]})
        assert len(compared) == 3


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RETAIN_API_KEYS", "0123456789abcdef", "its entry 1 isn't name:secret"),
        ("RETAIN_API_KEYS", "shop:0123456789abcde", "its entry 1 isn't name:secret"),
        ("RETAIN_API_KEYS", "shop:0123456789abcdef,", "its entry 2 isn't name:secret"),
        ("RETAIN_API_KEYS", "shop:0123456789 abcdef", "its entry 1 isn't name:secret"),
        ("RETAIN_API_KEYS", "shop:0123456789abcdé", "its entry 1 isn't name:secret"),
        ("RETAIN_API_KEYS", "a shop:0123456789abcdef", "its entry 1 isn't name:secret"),
        ("RETAIN_API_KEYS", "a:0123456789abcdef,a:1123456789abcdef", "its entry 2 has the name or the secret"),
        ("RETAIN_API_KEYS", "a:0123456789abcdef,b:0123456789abcdef", "its entry 2 has the name or the secret"),
        ("RETAIN_ADMIN_TOKEN", "0123456789abcde", "wants 16 to 256 letters"),
        ("RETAIN_ADMIN_TOKEN", "0123456789abcd\nf", "wants 16 to 256 letters"),
        ("PSEUDONYM_KEY", "0123456789abcdef" * 5, "wants 1 to 64 bytes"),
        ("DATABASE_URL", "mysql://user:0123456789abcdef@host/db", "wants sqlite:////folder/file.db or postgresql://"),
    ],
)
def test_a_secret_that_can_not_be_used_is_named_and_not_repeated(name: str, value: str, says: str) -> None:
    with pytest.raises(RetainError) as error:
        read({name: value})
    assert str(error.value).startswith(f"{name}: ")
    assert says in str(error.value)
    assert "123456789" not in str(error.value)
    assert "\n" not in str(error.value)


def test_keys_are_read_by_name(tmp_path: Any) -> None:
    settings = read(
        {
            "RELEASE_PATH": str(tmp_path),
            "RETAIN_API_KEYS": "shop:0123456789abcdef, app:fedc:ba9876543210",
            "RETAIN_ADMIN_TOKEN": "0123456789abcdef",
            "PSEUDONYM_KEY": "pseudo-0123456789",
            "DATABASE_URL": "postgresql://user:pass-0123456789@host/db",
        }
    )
    assert settings.keys == {"shop": "0123456789abcdef", "app": "fedc:ba9876543210"}
    assert not any(secret in repr(settings) for secret in ("0123456789", "ba9876543210", "pseudo", "pass"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost"])
def test_on_this_machine_alone_no_key_is_wanted(host: str) -> None:
    listen(("RETAIN_HOST", "PORT"), host, 0, "RETAIN_API_KEYS").close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_another_address_wants_a_key(host: str) -> None:
    with pytest.raises(RetainError) as error:
        listen(("RETAIN_HOST", "PORT"), host or "0", 0, "RETAIN_API_KEYS")
    assert "RETAIN_API_KEYS has to be set" in str(error.value)
    assert "\n" not in str(error.value)
    listen(("RETAIN_HOST", "PORT"), host or "0", 0, None).close()


def test_secrets_are_handed_on_where_they_are_needed() -> None:
    environment = {setting.name: "x" for setting in SETTINGS} | {"PATH": "/bin"}
    secret = {setting.name for setting in SETTINGS if setting.secret}
    assert secret == {"ASSIGNMENT_KEY", "DATABASE_URL", "PSEUDONYM_KEY", "RETAIN_API_KEYS", "RETAIN_ADMIN_TOKEN"}
    assert {*environment_of("supervisor", environment)} == {*environment} - {"ASSIGNMENT_KEY", "PSEUDONYM_KEY"}
    assert {*environment_of("admin", environment)} == {*environment} - {"ASSIGNMENT_KEY", "RETAIN_API_KEYS"}


def test_no_log_line_has_a_secret(guarded: Client, release: Release, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for value in ("Bearer 0123456789abcdef", "Bearer wrong-0123456789", "Basic 0123456789abcdef"):
            ask(guarded, release, value)
    assert "123456789" not in caplog.text
