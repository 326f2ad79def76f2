"""Settings of the controller and of the commands that people give it, from the environment.

docs/SETTINGS.md has the same table for people, and a test compares the two. RETAIN_STORE says which store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from engine.config import experiment_path, is_path
from engine.errors import RetainError
from engine.releases import DEFAULT_EXPERIMENT, experiment_of
from engine.settings import PORT, Variable, any_text, token

MAX_REPLICAS = 64


@dataclass(frozen=True)
class Settings:
    """`named`: as EXPERIMENT names it, by its name or the path of its file; `experiment` is its name. `replicas`: the
    addresses of the services' admin ports, of which Prometheus calls each by host and port (`instances`)."""

    named: str
    experiment: str
    prometheus: str
    replicas: tuple[str, ...]
    admin_token: str | None = field(repr=False)
    token: str | None = field(repr=False)
    host: str
    port: int
    page_url: str | None = field(repr=False)

    @property
    def instances(self) -> tuple[str, ...]:
        return tuple(urlsplit(replica).netloc for replica in self.replicas)

    @property
    def controller(self) -> str:
        """Where people's commands find the controller, if it runs on this machine or in this network."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


# -- one value -----------------------------------------------------------------------------------------------------


def _experiment(name: str, text: str) -> str:
    if is_path(text):
        experiment_path(text)  # raises for a file that isn't there
    elif not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise RetainError(
            f"{name}={text!r}: wants the name of an experiment, such as {DEFAULT_EXPERIMENT}, or the path of its file"
        )
    return text


def _address(text: str) -> str | None:
    """The base of a server's addresses, without a slash at its end; None if it is none."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    plain = re.fullmatch(r"[!-~]+", text) and not (parts.query or parts.fragment or "@" in parts.netloc)
    return text.rstrip("/") if usable and plain else None


def _url(name: str, text: str) -> str:
    address = _address(text)
    if address is None:
        raise RetainError(f"{name}={text}: wants an address such as http://127.0.0.1:9090")
    return address


def _replicas(name: str, text: str) -> tuple[str, ...]:
    given = [entry.strip() for entry in text.split(",")]
    replicas = [_address(entry) for entry in given]
    for entry, replica in zip(given, replicas):
        if replica is None or urlsplit(replica).path or urlsplit(replica).port is None:
            raise RetainError(f"{name}: {entry!r} isn't the address of an admin port, such as http://127.0.0.1:8001")
    if len(set(replicas)) != len(replicas) or len(replicas) > MAX_REPLICAS:
        raise RetainError(f"{name}: wants 1 to {MAX_REPLICAS} addresses, each once, with commas between them")
    return tuple(replica for replica in replicas if replica)


def _page_url(name: str, text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and parts.hostname and re.fullmatch(r"[!-~]+", text)
    except ValueError:
        usable = None
    if not usable:  # it may hold a secret: not repeated
        raise RetainError(f"{name}: wants the address of a webhook, http:// or https://")
    return text


# -- all of them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting(Variable):
    meaning: str
    secret: bool = False


SETTINGS = (
    Setting("EXPERIMENT", DEFAULT_EXPERIMENT, _experiment, "whose rollout it is"),
    Setting("RETAIN_PROMETHEUS_URL", "http://127.0.0.1:9090", _url, "the address of Prometheus"),
    Setting("RETAIN_REPLICAS", "http://127.0.0.1:8001", _replicas, "admin ports of all services, with commas between"),
    Setting("RETAIN_ADMIN_TOKEN", None, token, "what the admin ports want", secret=True),
    Setting("RETAIN_CONTROLLER_TOKEN", None, token, "what Alertmanager has to bear; `run` wants it", secret=True),
    Setting("RETAIN_CONTROLLER_HOST", "127.0.0.1", any_text, "the address of the controller"),
    Setting("RETAIN_CONTROLLER_PORT", "8002", PORT, "its port"),
    Setting("RETAIN_PAGE_URL", None, _page_url, "the webhook that pages somebody", secret=True),
)


def read(environment: Mapping[str, str]) -> Settings:
    """Raises RetainError for a setting that can't be used."""
    values = {setting.name: setting.value(environment) for setting in SETTINGS}
    named = values["EXPERIMENT"]
    return Settings(
        named=named,
        experiment=experiment_of(named),
        prometheus=values["RETAIN_PROMETHEUS_URL"],
        replicas=values["RETAIN_REPLICAS"],
        admin_token=values["RETAIN_ADMIN_TOKEN"],
        token=values["RETAIN_CONTROLLER_TOKEN"],
        host=values["RETAIN_CONTROLLER_HOST"],
        port=values["RETAIN_CONTROLLER_PORT"],
        page_url=values["RETAIN_PAGE_URL"],
    )


def page_url(environment: Mapping[str, str]) -> str | None:
    """RETAIN_PAGE_URL alone. Raises RetainError."""
    (setting,) = [each for each in SETTINGS if each.name == "RETAIN_PAGE_URL"]
    url: str | None = setting.value(environment)
    return url
