"""`make deploy`: registers what prefect.yaml describes with Prefect, once all that it names is there.

Prefect itself only warns of a pool that doesn't exist, and a missing image would be told by the first run. So server,
pool, images and folders are checked before, and what is missing is said in one message. What containers get
of store and data depends on where these are: it is filled into prefect.yaml here, since Prefect itself fills in texts
alone.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import prefect
import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.exceptions import ObjectNotFound

from deploy.settings import page_url
from engine.errors import DataError, RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from engine.paths import is_folder, why_unreadable, why_unwritable
from engine.store import store_url
from flows import automations
from flows.data_folder import data_folder
from flows.login import is_own, logged_in, stated_address
from flows.mounts import DATA, Access, Place, access, bound, is_bucket, place
from flows.plan import load_experiment
from flows.platform import POOL, api_url, bind, store_of
from flows.pools import ON_THIS_MACHINE, RENTED, Pools, rented, stated_pools
from flows.prefect_api import client
from images.build import accelerator_of, engine, references

DESCRIPTION = ROOT / "prefect.yaml"
NAMED = re.compile(r"\{\{ \$(\w+) \}\}")  # what is filled in there
METADATA_HOST = "169.254.169.254"  # of Google's machines, by its address: containers need not know its name
LAST_LINES = 5  # of what Prefect says where it fails
ONE_GPU = {"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Given:
    """What containers get. `data`: an absolute path of this machine, or gs://bucket/folder; None: what is downloaded
    beside a store in a bucket. `named`: it is that of RETAIN_DATA_DIR. `access`: to buckets, if there are any."""

    store: Place
    data: str | None
    named: bool
    access: Access | None = None


def deploy(server: str | None = None, say: Say = print) -> None:
    """Registers deployments and automations with the server at this address; None: the one of `make up`.

    Raises RetainError.
    """
    if server is None and (other := stated_address()):
        raise RetainError(
            f"PREFECT_API_URL is {other}, and `make up` has its server at {api_url(bind())}: unset it, or deploy there "
            f"all the same: make deploy SERVER={other}"
        )
    with logged_in(server) as login, client() as api:
        _check_server(api, login["PREFECT_API_URL"])
        pools, project = stated_pools(os.environ), os.environ.get("GOOGLE_CLOUD_PROJECT", "")
        notified = page_url(os.environ)
        images, given = _checked(api, server is None or is_own(server), pools, project)
        before = _data_before(api)
        if rented(pools):
            secret = _register_with_google(api, pools, project)
            notified = notified or secret
        register(variables(images, given, pools, project), {POOL} | rented(pools), login)
        automations.register(notified)
        if pools.gpu not in RENTED:
            _give_gpu(api)
        for deployment in sorted(api.read_deployments(), key=lambda each: (each.entrypoint or "", each.name)):
            flow = api.read_flow(deployment.flow_id).name
            say(f"{flow}/{deployment.name:<12} {(deployment.job_variables or {}).get('image', '')}")
    say(f"store: {given.store.url}")
    say(f"data:  {given.data} (RETAIN_DATA_DIR)" if given.named else "data:  as downloaded; RETAIN_DATA_DIR is not set")
    if notified is None:
        say("nobody is told when a retrain fails: RETAIN_PAGE_URL is not set")
    if before is not None and before != given.data:
        say(f"warning: until now runs read their data from {before}")


def _check_server(api: SyncPrefectClient, address: str) -> None:
    try:
        version = api.request("GET", "/admin/version").json()
    except ValueError:
        version = None
    if not isinstance(version, str):
        raise RetainError(f"what answers at {address} is no Prefect server: stop it, then `make up` starts one")
    if version != prefect.__version__:
        raise RetainError(
            f"the Prefect server at {address} is of version {version}, and this is made for {prefect.__version__}: "
            "`make down`, then `make up` starts one of that version"
        )


def _checked(api: SyncPrefectClient, own: bool, pools: Pools, project: str) -> tuple[dict[str, str], Given]:
    """The images by name, and what containers get. `own`: the server is that of this machine; `project`: that of the
    rented machines. Raises DataError with everything that is missing."""
    missing: list[str] = []
    try:
        pool = api.read_work_pool(POOL)
        if pool.type != "docker":
            missing.append(f"the work pool {POOL} is of type {pool.type}, not docker: remove it, then `make up`")
    except ObjectNotFound:
        missing.append(f"there is no work pool {POOL}: `make up` makes it")
    images: dict[str, str] = {}
    store = data = leads = None
    try:
        images = references(ROOT)
    except RetainError as error:
        missing.append(str(error))
    try:
        store = place()
        if own:
            _check_store(store)
    except RetainError as error:
        missing.append(str(error))
    try:
        data = _data(store)
        if is_bucket(data or "") or (store is not None and store.access is not None):
            leads = access()
    except RetainError as error:
        missing.append(str(error))
    if rented(pools):
        missing += _missing_for_rented(images, pools, project)
    if missing or store is None:
        raise DataError("nothing was deployed:\n" + "\n".join(f"  {line}" for line in dict.fromkeys(missing)))
    if leads is not None and not own:  # machines elsewhere have an account of their own, and no file of this one
        leads = replace(leads, key=None)
    if store.access is not None:
        store = replace(store, access=leads)
    return images, Given(store, data, named=bool(os.environ.get("RETAIN_DATA_DIR")), access=leads)


def _missing_for_rented(images: Mapping[str, str], pools: Pools, project: str) -> list[str]:
    """What machines of Google Cloud lack, each in a line."""
    missing = []
    if not is_bucket(store_url()):
        missing.append(f"RETAIN_STORE={store_url()}: rented machines want a store in a bucket, gs://bucket/prefix")
    if not project:
        missing.append("GOOGLE_CLOUD_PROJECT is not set: the project that the rented machines and secrets are in")
    for name in sorted(images):
        if "@sha256:" not in images[name]:
            missing.append(f"{images[name]} is on this machine alone: `make images ONLY={name} PUSH=registry`")
        elif name == "gpu" and pools.gpu in RENTED and accelerator_of(ROOT, name) != "cuda":
            missing.append("retain/gpu was pushed without CUDA: `make images ONLY=gpu ACCELERATOR=cuda PUSH=registry`")
    return missing


def _register_with_google(api: SyncPrefectClient, pools: Pools, project: str) -> str | None:
    """Registers the pools of rented machines and the blocks of their project; the webhook that its secret holds."""
    from flows import google_cloud  # whoever rents no machines needs none of its libraries

    google_cloud.register_pools(api, rented(pools))
    google_cloud.register_blocks(project)
    return google_cloud.secret_page_url()


def _check_store(store: Place) -> None:
    """Raises RetainError if the witness writes the ends of containers elsewhere: no stage would be seen to end."""
    with engine() as docker:
        theirs = store_of(docker)
    if theirs is None:
        raise RetainError("no witness of containers is there: `make up` starts it")
    folders = not is_bucket(store.url) and not is_bucket(theirs)
    if theirs != store.url and not (folders and Path(theirs).resolve() == Path(store.url).resolve()):
        raise RetainError(
            f"the store is {store.url}, but the platform was started with {theirs}: `make up` with the same "
            "RETAIN_STORE"
        )


def _data(store: Place | None) -> str | None:
    """What parents read their data from. Without RETAIN_DATA_DIR that is an empty folder, beside what is downloaded
    into a store in a folder."""
    data = data_folder(os.environ)
    if data is None:
        if store is None or is_bucket(store.url):
            return None
        folder = store.here / "data"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RetainError(f"{folder}: {why_unwritable(error)}") from None
        return str(folder)
    if not isinstance(data, Path):
        return str(data)
    given, folder = os.environ["RETAIN_DATA_DIR"], data.resolve()
    try:
        if not is_folder(folder):
            raise DataError(f"RETAIN_DATA_DIR={given}: no such folder")
        if next(folder.iterdir(), None) is None:
            raise DataError(f"RETAIN_DATA_DIR={given}: an empty folder. Put the data there, or unset it")
    except OSError as error:
        raise DataError(f"RETAIN_DATA_DIR={given}: {why_unreadable(error)}") from None
    return str(folder)


def variables(
    images: Mapping[str, str], given: Given, pools: Pools = ON_THIS_MACHINE, project: str = ""
) -> dict[str, Any]:
    """What prefect.yaml names, by name. `project`: that of the rented machines."""
    store, data, leads = given.store, given.data, given.access
    volumes, mounts, env = store.volumes, store.mounts, store.environment
    if data is not None and is_bucket(data) and leads is not None:
        volumes = [*dict.fromkeys([*volumes, *leads.volumes])]
        mounts, env = leads.mounts, {**env, **leads.environment, "RETAIN_DATA_DIR": data}
    elif data is not None:
        mounts, env = [*mounts, bound(data, DATA)], {**env, "RETAIN_DATA_DIR": DATA}
    if project:
        env = {**env, "GOOGLE_CLOUD_PROJECT": project}
    return {
        "RETAIN_IMAGE_TABULAR": images["tabular"],
        "RETAIN_IMAGE_GPU": images["gpu"],
        "RETAIN_USER": f"{os.getuid()}:{os.getgid()}",
        "RETAIN_VOLUMES": store.volumes,
        "RETAIN_MOUNTS": store.mounts,
        "RETAIN_ENV": store.environment,
        "RETAIN_RUN_VOLUMES": volumes,
        "RETAIN_RUN_MOUNTS": mounts,
        "RETAIN_RUN_ENV": env,
        "RETAIN_CPU_POOL": pools.cpu,
        "RETAIN_GPU_POOL": pools.gpu,
        "RETAIN_RENTED_ENV": {**store.environment, "GCE_METADATA_HOST": METADATA_HOST},
        "RETAIN_VERTEX_ENV": {**store.environment, "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"},
        "RETAIN_REGION": load_experiment("exp_001_mvp").costs.region,
        "RETAIN_VERTEX_ACCOUNT": f"retain-vertex@{project}.iam.gserviceaccount.com",
    }


def described(variables: Mapping[str, Any], pools: Set[str]) -> dict[str, Any]:
    """prefect.yaml with the variables filled in, and of its deployments those of these work pools."""
    content: dict[str, Any] = _filled(yaml.safe_load(DESCRIPTION.read_text(encoding="utf-8")), variables)
    content["deployments"] = [each for each in content["deployments"] if each["work_pool"]["name"] in pools]
    return content


def _filled(content: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(content, dict):
        return {key: _filled(value, variables) for key, value in content.items()}
    if isinstance(content, list):
        return [_filled(each, variables) for each in content]
    named = NAMED.fullmatch(content) if isinstance(content, str) else None
    return variables[named.group(1)] if named else content


def register(variables: Mapping[str, Any], pools: Set[str], environment: Mapping[str, str]) -> None:
    """Registers the deployments of these work pools; `environment`, beside this process's own, says with which server.
    Raises RetainError with what Prefect says last."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="retain-", suffix=".yaml") as file:
        yaml.safe_dump(described(variables, pools), file, allow_unicode=True, sort_keys=False)
        file.flush()
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", file.name]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | dict(environment),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:]
        raise RetainError(f"prefect deploy ended with exit code {done.returncode}:\n" + "\n".join(last))


def _give_gpu(api: SyncPrefectClient) -> None:
    """Containers of `stage/gpu` get the machine's GPU if their image computes with one."""
    if accelerator_of(ROOT, "gpu") == "cuda":
        gpu = api.read_deployment_by_name("stage/gpu")
        variables = {**(gpu.job_variables or {}), "device_requests": [ONE_GPU]}
        api.update_deployment(gpu.id, DeploymentUpdate(job_variables=variables))


def _data_before(api: SyncPrefectClient) -> str | None:
    """The data of runs as they are registered; None if none are."""
    for deployment in api.read_deployments():
        variables = deployment.job_variables or {}
        mounts, env = variables.get("mounts"), variables.get("env")
        if isinstance(env, dict) and "://" in str(env.get("RETAIN_DATA_DIR")):
            return str(env["RETAIN_DATA_DIR"])
        for mount in mounts if isinstance(mounts, list) else []:  # on a shared server, another project's
            if isinstance(mount, dict) and mount.get("Target") == DATA:
                return str(mount.get("Source"))
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description=__doc__)
    parser.add_argument("--server", help="the address of another Prefect server's API than that of `make up`")
    try:
        deploy(parser.parse_args(arguments).server)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
