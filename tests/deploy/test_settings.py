"""What the controller is set by."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from deploy.settings import SETTINGS, read
from engine.environment import SECRETS
from engine.errors import RetainError
from engine.settings import described
from tests.docs.documents import read as document
from tests.docs.documents import section

SECRET = "s3cret-s3cret-s3cret"


def test_nothing_has_to_be_set_for_people_s_commands() -> None:
    settings = read({})
    assert (settings.named, settings.experiment) == ("local", "local")
    assert settings.prometheus == "http://127.0.0.1:9090"
    assert settings.instances == ("127.0.0.1:8001",)
    assert settings.token is None
    assert settings.page_url is None
    assert settings.controller == "http://127.0.0.1:8002"


def test_every_setting_is_read() -> None:
    settings = read(
        {
            "EXPERIMENT": "exp_001_mvp",
            "RETAIN_PROMETHEUS_URL": "https://prometheus.example/prefix/",
            "RETAIN_REPLICAS": "http://retain-1:8001, http://retain-2:8001/",
            "RETAIN_ADMIN_TOKEN": "a" * 16,
            "RETAIN_CONTROLLER_TOKEN": SECRET,
            "RETAIN_CONTROLLER_HOST": "0.0.0.0",
            "RETAIN_CONTROLLER_PORT": "9",
            "RETAIN_PAGE_URL": "https://events.example/key?x=1",
        }
    )
    assert settings.prometheus == "https://prometheus.example/prefix"
    assert settings.replicas == ("http://retain-1:8001", "http://retain-2:8001")
    assert settings.instances == ("retain-1:8001", "retain-2:8001")
    assert (settings.admin_token, settings.token, settings.port) == ("a" * 16, SECRET, 9)
    assert settings.controller == "http://127.0.0.1:9"
    assert not [secret for secret in (SECRET, "a" * 16, "events.example") if secret in repr(settings)]


def test_an_experiment_outside_is_known_by_its_file_s_name(tmp_path: Path) -> None:
    (tmp_path / "experiment_mine.yaml").touch()
    settings = read({"EXPERIMENT": str(tmp_path / "experiment_mine.yaml")})
    assert (settings.experiment, settings.named) == ("mine", str(tmp_path / "experiment_mine.yaml"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EXPERIMENT", "../x"),
        ("EXPERIMENT", "a b"),
        ("RETAIN_PROMETHEUS_URL", "127.0.0.1:9090"),
        ("RETAIN_PROMETHEUS_URL", "ftp://x"),
        ("RETAIN_PROMETHEUS_URL", "http://x?query=1"),
        ("RETAIN_PROMETHEUS_URL", "http://user:word@x"),
        ("RETAIN_PROMETHEUS_URL", "http://[x"),
        ("RETAIN_REPLICAS", "http://a:1,,http://b:2"),
        ("RETAIN_REPLICAS", "http://a:1,http://a:1"),
        ("RETAIN_REPLICAS", "http://a"),
        ("RETAIN_REPLICAS", "http://a:1/shadow"),
        ("RETAIN_REPLICAS", "http://a:99999"),
        ("RETAIN_CONTROLLER_PORT", "65536"),
        ("RETAIN_CONTROLLER_PORT", "x"),
        ("RETAIN_CONTROLLER_TOKEN", "short"),
        ("RETAIN_CONTROLLER_TOKEN", "with space in it x"),
        ("RETAIN_ADMIN_TOKEN", "x" * 257),
        ("RETAIN_PAGE_URL", "events.example/secret"),
        ("RETAIN_PAGE_URL", "https:///secret"),
    ],
)
def test_what_can_not_be_used_is_refused_in_one_line_that_names_the_setting(name: str, value: str) -> None:
    with pytest.raises(RetainError, match=rf"^{name}[^\n]*wants|^{name}[^\n]*isn't|does not exist") as raised:
        read({name: value})
    secret = next(setting.secret for setting in SETTINGS if setting.name == name)
    assert not secret or value not in str(raised.value)


def test_the_document_has_the_same_settings_and_defaults() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", section(document("docs/SETTINGS.md"), "Rollout"), re.MULTILINE)
    assert dict(rows).keys() == {setting.name for setting in SETTINGS} - {"EXPERIMENT"}
    for setting in SETTINGS:
        if setting.default and setting.name in dict(rows):
            assert dict(rows)[setting.name] == f"`{setting.default}`"
    assert all(setting.name in described(SETTINGS) for setting in SETTINGS)


def test_no_secret_reaches_a_stage() -> None:
    assert {setting.name for setting in SETTINGS if setting.secret} <= set(SECRETS)
