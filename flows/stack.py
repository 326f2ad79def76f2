"""The service with what watches it, in containers of this machine: `python -m flows.stack up|down`, for make.

Two replicas, PostgreSQL, the controller of their rollout, Prometheus and Alertmanager, and Grafana where it can be had.
deploy/compose.yaml states them. They serve the experiment's current release until the next `up`, which replaces one
replica after the other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from docker import DockerClient

from deploy import rules
from deploy.plan import time_scale
from engine.artifact import open_artifact
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from engine.paths import path_of
from engine.releases import DEFAULT_EXPERIMENT, experiment_of
from engine.store import open_store
from flows import compose, platform
from flows.compose import Say
from flows.terminal import request_to
from retain.release import ReleaseError, load
from serve.champion import answering_release

DEPLOY = ROOT / "deploy"
COMPOSE_FILE, BUILD_FILE = DEPLOY / "compose.yaml", DEPLOY / "compose.build.yaml"
WATCH_FOLDER = DEPLOY / "debian"  # what Prometheus and Alertmanager are built from where they can't be pulled
SECRETS_FILE = DEPLOY / "secrets.env"
RENDERED = ROOT / "build" / "serve"  # what Prometheus and Alertmanager read
REPLICAS = ("serve-1", "serve-2")
# Started together, one group after the other: a replica serves while the next one is replaced.
GROUPS = (("postgres",), *((replica,) for replica in REPLICAS), ("controller", "prometheus", "alertmanager"))
GRAFANA = "grafana"
SERVICES = (*(service for group in GROUPS for service in group), GRAFANA)
PROJECT = compose.Project("retain-serve", DEPLOY, SERVICES, what="service", down="make serve.down")
VOLUME = "retain-serve-postgres"
SERVE = "serve"  # the image of the replicas and of the controller
NOBODY = 10001  # the image's own user, if the store is root's
TOKEN_FILE = "/run/retain/token"  # in the containers of Prometheus and Alertmanager: what they bear
DATABASE_PASSWORD, ADMIN_TOKEN, CONTROLLER_TOKEN, API_KEYS = SECRETS = (
    "POSTGRES_PASSWORD", "RETAIN_ADMIN_TOKEN", "RETAIN_CONTROLLER_TOKEN", "RETAIN_API_KEYS",
)  # fmt: skip
CALLER = "local"  # the name of the key that is made
ADDRESSES = {
    "serve-1": "http://127.0.0.1:8000",
    "serve-2": "http://127.0.0.1:8010",
    "prometheus": "http://127.0.0.1:9090",
    "alertmanager": "http://127.0.0.1:9093",
    GRAFANA: "http://127.0.0.1:3000",
}


def up(say: Say) -> None:
    """Starts what isn't running yet, or runs as something else than is stated now, and waits until all is healthy.

    Raises RetainError.
    """
    named = os.environ.get("EXPERIMENT") or DEFAULT_EXPERIMENT
    folder = _release(named)
    try:
        release = load(open_artifact(folder))
    except ReleaseError as error:
        raise RetainError(f"{folder}: can't be served: {error}") from None
    engine = compose.open_engine()
    compose.refuse_other_checkout(engine, PROJECT)
    refuse_taken_ports(engine)
    passwords = made_once(engine)
    environment = _environment(named, folder, compose.own_image(SERVE, ROOT, say), passwords, _rendered(folder, say))
    files = _files(engine, say)
    if with_grafana := compose.pull(engine, stated_image(GRAFANA), say):
        files = [*files, "--profile", GRAFANA]
    else:
        say("so there is no Grafana; its dashboards are in deploy/grafana/dashboards")
    for group in (*GROUPS, (GRAFANA,)) if with_grafana else GROUPS:
        compose.compose(PROJECT, [*files, "up", "--detach", "--no-deps", *group], environment)
        for service in group:
            compose.wait_until_healthy(engine, PROJECT, service, say)
    say("")
    for service, address in ADDRESSES.items():
        if with_grafana or service != GRAFANA:
            say(f"{service:13}{address}")
    say(f"what people tell the rollout: docker exec -it {_container(engine, 'controller')} python -m deploy.controller")
    say("ask the service about a customer:")
    say(request_to(release, f'-H "Authorization: Bearer {_key(passwords)}" '))


def down(say: Say) -> None:
    """Stops all of it. Databases stay, as does the rollout, which is in the store. Raises RetainError."""
    engine = compose.open_engine()
    compose.refuse_other_checkout(engine, PROJECT)
    files = ["--file", str(COMPOSE_FILE), "--profile", GRAFANA]
    compose.compose(PROJECT, [*files, "down"], os.environ | {"DOCKER_HOST": compose.engine_address()})
    say(f"stopped. Decisions stay in the volume {VOLUME}, metrics in retain-serve-prometheus")


def _release(named: str) -> Path:
    """The folder of the release that is served: RELEASE_PATH, or else the rollout's champion, or the current one.
    Raises RetainError."""
    given = os.environ.get("RELEASE_PATH")
    folder = path_of("RELEASE_PATH", given) if given else answering_release(named)
    if not folder.resolve().is_relative_to(Path(compose.store_folder()).resolve()):
        raise RetainError(f"RELEASE_PATH={given}: containers have the store alone, so it has to lie there")
    return folder


def refuse_taken_ports(engine: DockerClient) -> None:
    """Raises RetainError if something else listens where a service is published."""
    for service, address in ADDRESSES.items():
        port = int(address.rpartition(":")[2])
        if any(each.status == "running" for each in compose.services_of(engine, PROJECT, service)):
            continue
        with socket.socket() as trying:
            trying.settimeout(2)
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                raise RetainError(f"Port {port} of 127.0.0.1, where {service} is to be, is taken: stop what has it")


def made_once(engine: DockerClient) -> dict[str, str]:
    """The secrets: those of the environment, else of deploy/secrets.env, where each is written once. Raises
    RetainError."""
    written = compose.read_secrets(SECRETS_FILE)
    known = {name: value for name in SECRETS if (value := os.environ.get(name) or written.get(name))}
    if DATABASE_PASSWORD not in known and compose.has_volume(engine, VOLUME):
        raise RetainError(
            f"The database of an earlier `make serve.up` is there, perhaps another folder's, but its password isn't: "
            f"put {DATABASE_PASSWORD}=... back into {SECRETS_FILE}, or begin anew without all that was decided: "
            f"docker volume rm {VOLUME}"
        )
    missing = {name: secrets.token_urlsafe(24) for name in SECRETS if name not in known}
    if API_KEYS in missing:
        missing[API_KEYS] = f"{CALLER}:{missing[API_KEYS]}"
    if missing:
        compose.write_secrets(SECRETS_FILE, written | missing)
    return known | missing


def _key(passwords: Mapping[str, str]) -> str:
    """For a command that people copy: where the key is, rather than the key."""
    if os.environ.get(API_KEYS):
        return "SECRET"
    name = passwords[API_KEYS].partition(":")[0]
    return f"$(sed -n 's/^{API_KEYS}={name}://p' {SECRETS_FILE.relative_to(ROOT)})"


def _rendered(release: Path, say: Say) -> str:
    """Writes what Prometheus and Alertmanager read, with the release's limits. A digest of it."""
    places = rules.Places(
        replicas=[f"{replica}:8001" for replica in REPLICAS],
        controller="controller:8002",
        alertmanager="alertmanager:9093",
        admin_token_file=TOKEN_FILE,
        controller_token_file=TOKEN_FILE,
    )
    scale = time_scale(open_store(compose.store_folder()))
    rules.write(RENDERED, rules.limits_of_release(release), places, scale, say)
    RENDERED.chmod(0o755)  # neither program runs as whoever wrote them
    digest = hashlib.sha256()
    for path in sorted(RENDERED.glob("*.yaml")):
        path.chmod(0o644)
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _environment(named: str, release: Path, image: str, passwords: Mapping[str, str], rendered: str) -> dict[str, str]:
    """What deploy/compose.yaml names, beside what the caller has set."""
    store = compose.store_folder()
    owner = os.stat(store)
    return {
        "DATABASE_URL": f"postgresql://retain:{passwords[DATABASE_PASSWORD]}@postgres/retain",
        **os.environ,
        **passwords,
        "DOCKER_HOST": compose.engine_address(),
        "RETAIN_EXPERIMENT": experiment_of(named),
        "RETAIN_RELEASE": release.resolve().relative_to(Path(store).resolve()).as_posix(),
        "RETAIN_HOST_STORE": store,
        "RETAIN_HOST_RENDERED": str(RENDERED),
        "RETAIN_RENDERED": rendered,
        "RETAIN_IMAGE_SERVE": image,
        "RETAIN_IMAGE_POSTGRES": platform.built_postgres(),
        "RETAIN_IMAGE_WATCH": built_watch(),
        "RETAIN_UID": str(owner.st_uid),
        "RETAIN_GID": str(owner.st_gid),
        "RETAIN_SERVICE_UID": str(owner.st_uid or NOBODY),
        "RETAIN_SERVICE_GID": str(owner.st_gid or NOBODY),
    }


def built_watch() -> str:
    """The reference of the image of deploy/debian/."""
    return f"retain-watch:{compose.tag_of(WATCH_FOLDER)}"


def stated_image(service: str, path: Path = COMPOSE_FILE) -> str:
    """The image that the compose file names for a service."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return str(content["services"][service]["image"])


def _files(engine: DockerClient, say: Say) -> list[str]:
    """The compose files: with the one that builds images, where one of them isn't there and can't be pulled."""
    base, building = ["--file", str(COMPOSE_FILE)], ["--file", str(BUILD_FILE)]
    if all(compose.has_image(engine, image) for image in (platform.built_postgres(), built_watch())):
        return base + building
    if all(compose.pull(engine, stated_image(service), say) for service in ("postgres", "prometheus", "alertmanager")):
        return base
    say("building PostgreSQL, Prometheus and Alertmanager from Debian's packages instead ...")
    return base + building


def _container(engine: DockerClient, service: str) -> str:
    return str(compose.services_of(engine, PROJECT, service)[0].name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    commands = {"up": up, "down": down}
    return compose.carry_out(commands[parser.parse_args(arguments).command], DEPLOY)


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
