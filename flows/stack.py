"""The service with what watches it, in containers of this machine: `python -m flows.stack up|down`, for make.

Two replicas, PostgreSQL, the controller of their rollout, Prometheus and Alertmanager, and Grafana where it can be had.
deploy/compose.yaml states them. They serve the rollout's champion, or the experiment's current release, until the next
`up`, which replaces one replica after the other.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import socket
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from docker import DockerClient

from deploy import rules
from deploy.plan import time_scale
from deploy.rules import PLAIN, RED
from deploy.settings import page_url
from engine.artifact import open_artifact
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from engine.releases import DEFAULT_EXPERIMENT, experiment_of, folder_of
from flows import compose, platform
from flows.compose import Say
from flows.mounts import Place, place
from flows.terminal import request_to
from retain.release import ReleaseError, load
from serve.champion import answering_release
from serve.settings import OVERRIDES

DEPLOY = ROOT / "deploy"
COMPOSE_FILE, BUILD_FILE = DEPLOY / "compose.yaml", DEPLOY / "compose.build.yaml"
FOLDER_FILE, BUCKET_FILE = DEPLOY / "compose.folder.yaml", DEPLOY / "compose.bucket.yaml"  # one of them, for the store
WATCH_FOLDER = DEPLOY / "debian"  # what Prometheus and Alertmanager are built from where they can't be pulled
REPLICAS = ("serve-1", "serve-2")
# Started together, one group after the other: a replica serves while the next one is replaced.
GROUPS = (("postgres",), *((replica,) for replica in REPLICAS), ("controller", "prometheus", "alertmanager"))
GRAFANA = "grafana"
SERVICES = (*(service for group in GROUPS for service in group), GRAFANA)
SERVE = "serve"  # the image of the replicas and of the controller
NOBODY = 10001  # the image's own user, if the store is root's
TOKEN_FILE = "/run/retain/token"  # in the containers of Prometheus and Alertmanager: what they bear
DATABASE_PASSWORD, ADMIN_TOKEN, CONTROLLER_TOKEN, API_KEYS = SECRETS = (
    "POSTGRES_PASSWORD", "RETAIN_ADMIN_TOKEN", "RETAIN_CONTROLLER_TOKEN", "RETAIN_API_KEYS",
)  # fmt: skip
CALLER = "local"  # the name of the key that is made
FOLDERS = (*OVERRIDES.values(), "CHALLENGER_PATH")  # settings that name others than the release's
PORTS = {"serve-1": 8000, "serve-2": 8010, "prometheus": 9090, "alertmanager": 9093, GRAFANA: 3000}


class Stack(NamedTuple):
    """One of them on this machine. `name` is that of its project and begins those of its volumes; its ports are higher
    than PORTS by `shift`; `down` is the command that stops it. `secrets`: the file where they are written."""

    name: str
    down: str
    secrets: Path
    shift: int = 0

    @property
    def project(self) -> compose.Project:
        return compose.Project(self.name, DEPLOY, SERVICES, what="service", down=self.down)

    @property
    def database(self) -> str:
        """The volume."""
        return f"{self.name}-postgres"

    @property
    def rendered(self) -> Path:
        """The folder of what Prometheus and Alertmanager read."""
        return ROOT / "build" / self.name

    @property
    def addresses(self) -> dict[str, str]:
        return {service: f"http://127.0.0.1:{port + self.shift}" for service, port in PORTS.items()}


SERVING = Stack("retain-serve", "make serve.down", DEPLOY / "secrets.env")


def up(say: Say, stack: Stack = SERVING) -> None:
    """Starts what isn't running yet, or runs as something else than is stated now, and waits until all is healthy.

    Raises RetainError.
    """
    named = os.environ.get("EXPERIMENT") or DEFAULT_EXPERIMENT
    store = place()
    folder = _release(named, store)
    try:
        release = load(open_artifact(folder))
    except ReleaseError as error:
        raise RetainError(f"{folder}: can't be served: {error}") from None
    engine = compose.open_engine()
    compose.refuse_other_checkout(engine, stack.project)
    refuse_taken_ports(engine, stack)
    passwords = made_once(engine, stack)
    environment = _environment(stack, named, folder, compose.own_image(SERVE, ROOT, say), passwords, store)
    refuse_forgotten(engine, stack, environment)
    environment["RETAIN_RENDERED"] = _render(stack, folder, store, say)
    files = [*_files(engine, say), "--file", str(BUCKET_FILE if store.access else FOLDER_FILE)]
    if with_grafana := compose.pull(engine, stated_image(GRAFANA), say):
        files = [*files, "--profile", GRAFANA]
    else:
        say("so there is no Grafana; its dashboards are in deploy/grafana/dashboards")
    for group in (*GROUPS, (GRAFANA,)) if with_grafana else GROUPS:
        compose.compose(stack.project, [*files, "up", "--detach", "--no-deps", *group], environment)
        for service in group:
            compose.wait_until_healthy(engine, stack.project, service, say)
    say("")
    for service, address in stack.addresses.items():
        if with_grafana or service != GRAFANA:
            say(f"{service:13}{address}")
    if not environment.get("RETAIN_PAGE_URL"):
        say(f"{RED}nobody is paged: a page is a line of the controller's log until RETAIN_PAGE_URL is set{PLAIN}")
    controller = container(engine, stack, "controller")
    say(f"what people tell the rollout: docker exec -it {controller} python -m deploy.controller")
    say("ask the service about a customer:")
    bearer = f'-H "Authorization: Bearer {_key(stack)}" '
    say(request_to(release, bearer, PORTS["serve-1"] + stack.shift))


def down(say: Say, stack: Stack = SERVING, *, forget: bool = False) -> None:
    """Stops all of it. Databases stay unless they are to be forgotten, and the rollout, which is in the store. Raises
    RetainError."""
    engine = compose.open_engine()
    compose.refuse_other_checkout(engine, stack.project)
    files = ["--file", str(COMPOSE_FILE), "--profile", GRAFANA]
    environment = os.environ | {"DOCKER_HOST": compose.engine_address(), "RETAIN_STACK": stack.name}
    compose.compose(stack.project, [*files, "down", *(["--volumes"] if forget else [])], environment)
    if not forget:
        say(f"stopped. Decisions stay in the volume {stack.database}, metrics in {stack.name}-prometheus")


def _release(named: str, store: Place) -> Path:
    """The folder of the release that is served: RELEASE_PATH, or else the rollout's champion, or the current one.
    Raises RetainError."""
    return _given("RELEASE_PATH", store) or answering_release(named)


def _given(name: str, store: Place) -> Path | None:
    """The folder that a setting names, if it is set. Raises RetainError for one that no container would see."""
    given = os.environ.get(name)
    if not given:
        return None
    folder = folder_of(name, given)
    if not folder.resolve().is_relative_to(store.here.resolve()):
        raise RetainError(f"{name}={given}: containers have the store alone, so it has to lie there: {store.url}")
    return folder


def refuse_taken_ports(engine: DockerClient, stack: Stack) -> None:
    """Raises RetainError if something else listens where a service is published."""
    for service, address in stack.addresses.items():
        port = int(address.rpartition(":")[2])
        if any(each.status == "running" for each in compose.services_of(engine, stack.project, service)):
            continue
        with socket.socket() as trying:
            trying.settimeout(2)
            if trying.connect_ex(("127.0.0.1", port)) == 0:
                raise RetainError(f"Port {port} of 127.0.0.1, where {service} is to be, is taken: stop what has it")


def refuse_forgotten(engine: DockerClient, stack: Stack, environment: Mapping[str, str]) -> None:
    """Raises RetainError for a setting of the shell that a container has and that isn't set now: another draw of
    customers, another database, or nobody who is paged should be no accident."""
    stated = yaml.safe_load(COMPOSE_FILE.read_text(encoding="utf-8"))["services"]
    forgotten = set()
    for service in (REPLICAS[0], "controller"):
        given = {name for name, value in stated[service]["environment"].items() if value is None}
        for each in compose.services_of(engine, stack.project, service):
            pairs = (pair.partition("=") for pair in each.attrs["Config"]["Env"])  # one that is unset has no "="
            has = {name: value for name, _, value in pairs}
            forgotten |= {name for name in given if has.get(name) and name not in environment}
            if "DATABASE_URL" in has and has["DATABASE_URL"] != environment["DATABASE_URL"]:
                forgotten |= {"DATABASE_URL"} - os.environ.keys()
    if forgotten:
        names = ", ".join(sorted(forgotten))
        raise RetainError(f"{names}: set when the stack was started, and not now. Set it again, or to nothing (NAME=)")


def made_once(engine: DockerClient, stack: Stack) -> dict[str, str]:
    """The secrets: those of the environment, else of the stack's file, where each is written once. Raises
    RetainError."""
    written = compose.read_secrets(stack.secrets)
    known = {name: value for name in SECRETS if (value := os.environ.get(name) or written.get(name))}
    if DATABASE_PASSWORD not in known and compose.has_volume(engine, stack.database):
        raise RetainError(
            f"The database of an earlier `make serve.up` is there, perhaps another folder's, but its password isn't: "
            f"put {DATABASE_PASSWORD}=... back into {stack.secrets}, or begin anew without all that was decided: "
            f"docker volume rm {stack.database}"
        )
    missing = {name: secrets.token_urlsafe(24) for name in SECRETS if name not in known}
    if API_KEYS in missing:
        missing[API_KEYS] = f"{CALLER}:{missing[API_KEYS]}"
    if missing:
        compose.write_secrets(stack.secrets, written | missing)
    return known | missing


def key(stack: Stack) -> str:
    """A secret that the stack's services know callers by. Raises RetainError where there is none yet."""
    known = os.environ.get(API_KEYS) or compose.read_secrets(stack.secrets).get(API_KEYS)
    if not known:
        raise RetainError(f"{stack.secrets} has no {API_KEYS}: `make serve.up` makes one")
    return known.split(",")[0].partition(":")[2]


def _key(stack: Stack) -> str:
    """For a command that people copy: where the key is, rather than the key."""
    if os.environ.get(API_KEYS):
        return "SECRET"
    first = rf"s/^{API_KEYS}=[^:]*:\([^,]*\).*/\1/p"
    return f"$(sed -n '{first}' {stack.secrets.relative_to(ROOT)})"


def _render(stack: Stack, release: Path, store: Place, say: Say) -> str:
    """Writes what Prometheus and Alertmanager read, with the release's limits. A digest of it."""
    places = rules.Places(
        replicas=[f"{replica}:8001" for replica in REPLICAS],
        controller="controller:8002",
        alertmanager="alertmanager:9093",
        admin_token_file=TOKEN_FILE,
        controller_token_file=TOKEN_FILE,
        page_url=rules.PAGE_URL_LATER if page_url(os.environ) else None,  # which may be a secret: not in a file here
    )
    scale = time_scale(store.open())
    rules.write(stack.rendered, rules.limits_of_release(release), places, scale, say)
    stack.rendered.chmod(0o755)  # neither program runs as whoever wrote them
    digest = hashlib.sha256()
    for path in sorted(stack.rendered.glob("*.yaml")):
        path.chmod(0o644)
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _environment(
    stack: Stack, named: str, release: Path, image: str, passwords: Mapping[str, str], store: Place
) -> dict[str, str]:
    """What the compose files name, beside what the caller has set."""
    user, group = _owner(store)
    return {
        "DATABASE_URL": f"postgresql://retain:{passwords[DATABASE_PASSWORD]}@postgres/retain",
        **os.environ,
        **passwords,
        "DOCKER_HOST": compose.engine_address(),
        "RETAIN_EXPERIMENT": experiment_of(named),
        "RELEASE_PATH": store.inside(release),
        **{name: store.inside(folder) for name in FOLDERS if (folder := _given(name, store))},
        "RETAIN_HOST_STORE": store.url,
        "RETAIN_HOST_KEY": store.key,
        "RETAIN_HOST_RENDERED": str(stack.rendered),
        "RETAIN_STACK": stack.name,
        **{
            f"RETAIN_PORT_{service.upper().replace('-', '_')}": str(port + stack.shift)
            for service, port in PORTS.items()
        },
        "RETAIN_IMAGE_SERVE": image,
        "RETAIN_IMAGE_POSTGRES": platform.built_postgres(),
        "RETAIN_IMAGE_WATCH": built_watch(),
        "RETAIN_UID": str(user),
        "RETAIN_GID": str(group),
        "RETAIN_SERVICE_UID": str(user or NOBODY),
        "RETAIN_SERVICE_GID": str(group or NOBODY),
    }


def _owner(store: Place) -> tuple[int, int]:
    """User and group of what reads and writes the store: those that its folder belongs to. Of a bucket the caller's,
    who can read the key, or where that is root, nobody's. Raises RetainError for a key that the user couldn't read."""
    if store.access is None:
        owner = os.stat(store.url)
        return owner.st_uid, owner.st_gid
    user, group, key = os.geteuid() or NOBODY, os.getegid() or NOBODY, store.access.key
    if key is not None and user != os.geteuid():
        status = key.stat()
        if status.st_uid != user and not status.st_mode & stat.S_IROTH:
            raise RetainError(f"{key}: user {user}, as whom the service runs, can't read it: chown {user} {key}")
    return user, group


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


def container(engine: DockerClient, stack: Stack, service: str) -> str:
    """The name of a service's container."""
    return str(compose.services_of(engine, stack.project, service)[0].name)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.stack", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    commands = {"up": up, "down": down}
    return compose.carry_out(commands[parser.parse_args(arguments).command], DEPLOY)


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
