"""`make deploy`: registers what prefect.yaml describes with Prefect, once all that it names is there.

Prefect itself only warns of a pool that doesn't exist, and a missing image would be told by the first run. So server,
pool, images and folders are checked before, and what is missing is said in one message.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

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
from flows.compose import store_folder
from flows.data_folder import data_folder
from flows.login import is_own, logged_in, stated_address
from flows.plan import load_experiment
from flows.platform import POOL, api_url, bind, store_of
from flows.pools import RENTED, Pools, rented, stated_pools
from flows.prefect_api import client
from images.build import accelerator_of, engine, references

GS = "gs://"
LAST_LINES = 5  # of what Prefect says where it fails
ONE_GPU = {"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Mounted:
    """What containers get of this machine: absolute paths. `data` may be a folder in a bucket as well, which runs read
    themselves. `named`: it is that of RETAIN_DATA_DIR."""

    store: str
    data: str
    named: bool

    @property
    def in_bucket(self) -> bool:
        return self.data.startswith("gs://")

    @property
    def data_mount(self) -> str:
        """What lies at /data: an empty folder where nothing is read from there."""
        return _empty_folder(self.store) if self.in_bucket else self.data


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
        images, mounted = _checked(api, server is None or is_own(server), pools, project)
        before = _data_before(api)
        if rented(pools):
            notified = notified or _register_with_google(api, pools, project)
        _register(login | _variables(images, mounted, pools, project), {POOL} | rented(pools))
        automations.register(notified)
        _give_gpu(api)
        for deployment in sorted(api.read_deployments(), key=lambda each: (each.entrypoint or "", each.name)):
            flow = api.read_flow(deployment.flow_id).name
            say(f"{flow}/{deployment.name:<12} {(deployment.job_variables or {}).get('image', '')}")
    say(f"store: {mounted.store}")
    say(
        f"data:  {mounted.data} (RETAIN_DATA_DIR)"
        if mounted.named
        else "data:  as downloaded; RETAIN_DATA_DIR is not set"
    )
    if notified is None:
        say("nobody is told when a retrain fails: RETAIN_PAGE_URL is not set")
    if before is not None and before != mounted.data:
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


def _checked(api: SyncPrefectClient, own: bool, pools: Pools, project: str) -> tuple[dict[str, str], Mounted]:
    """The images by name, and what is mounted. Raises DataError with everything that is missing."""
    missing: list[str] = []
    try:
        pool = api.read_work_pool(POOL)
        if pool.type != "docker":
            missing.append(f"the work pool {POOL} is of type {pool.type}, not docker: remove it, then `make up`")
    except ObjectNotFound:
        missing.append(f"there is no work pool {POOL}: `make up` makes it")
    images: dict[str, str] = {}
    store = data = ""
    try:
        images = references(ROOT)
    except RetainError as error:
        missing.append(str(error))
    try:
        store = store_folder()
        if own:
            _check_store(Path(store))
    except RetainError as error:
        missing.append(str(error))
    try:
        data = _data_folder(store)
    except RetainError as error:
        missing.append(str(error))
    if rented(pools):
        missing += _missing_for_rented(images, pools, project)
    if missing:
        raise DataError("nothing was deployed:\n" + "\n".join(f"  {line}" for line in missing))
    return images, Mounted(store, data, named=bool(os.environ.get("RETAIN_DATA_DIR")))


def _missing_for_rented(images: Mapping[str, str], pools: Pools, project: str) -> list[str]:
    """What machines of Google Cloud lack, each in a line."""
    missing = []
    if not store_url().startswith(GS):
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
    from flows import google  # whoever rents no machines needs none of its libraries

    google.register_pools(api, rented(pools))
    google.register_blocks(project)
    return google.secret_page_url()


def _check_store(store: Path) -> None:
    """Raises RetainError if the witness writes the ends of containers elsewhere: no stage would be seen to end."""
    with engine() as docker:
        theirs = store_of(docker)
    if theirs is None:
        raise RetainError("no witness of containers is there: `make up` starts it")
    if theirs.resolve() != store.resolve():
        raise RetainError(
            f"the store is {store}, but the platform was started with {theirs}: `make up` with the same RETAIN_STORE"
        )


def _data_folder(store: str) -> str:
    """The folder that parents read their data from; without RETAIN_DATA_DIR an empty one, beside what is downloaded."""
    data = data_folder(os.environ)
    if not isinstance(data, Path):
        folder = Path(_empty_folder(store))
        try:
            if store:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RetainError(f"{folder}: {why_unwritable(error)}") from None
        return str(data or folder)
    given, folder = os.environ["RETAIN_DATA_DIR"], data.resolve()
    try:
        if not is_folder(folder):
            raise DataError(f"RETAIN_DATA_DIR={given}: no such folder")
        if next(folder.iterdir(), None) is None:
            raise DataError(f"RETAIN_DATA_DIR={given}: an empty folder. Put the data there, or unset it")
    except OSError as error:
        raise DataError(f"RETAIN_DATA_DIR={given}: {why_unreadable(error)}") from None
    return str(folder)


def _empty_folder(store: str) -> str:
    return str(Path(store) / "data")


def _variables(images: dict[str, str], mounted: Mounted, pools: Pools, project: str) -> dict[str, str]:
    """The variables that prefect.yaml names."""
    return {
        "RETAIN_IMAGE_TABULAR": images["tabular"],
        "RETAIN_IMAGE_GPU": images["gpu"],
        "RETAIN_HOST_STORE": mounted.store,
        "RETAIN_HOST_DATA": mounted.data_mount,
        "RETAIN_RUN_DATA": mounted.data if mounted.in_bucket else "/data",
        "RETAIN_USER": f"{os.getuid()}:{os.getgid()}",
        "RETAIN_STORE": store_url(),
        "RETAIN_CPU_POOL": pools.cpu,
        "RETAIN_GPU_POOL": pools.gpu,
        "RETAIN_REGION": load_experiment("exp_001_mvp").costs.region,
        "RETAIN_WORKER_ACCOUNT": f"retain-worker@{project}.iam.gserviceaccount.com",
    }


def _register(variables: dict[str, str], pools: Set[str]) -> None:
    stated = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    names = [option for each in stated if each["work_pool"]["name"] in pools for option in ("--name", each["name"])]
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", *names]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, encoding="utf-8", errors="replace"
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
    """The data folder of runs as they are registered; None if none are."""
    for deployment in api.read_deployments():
        environment = (deployment.job_variables or {}).get("env")
        data = environment.get("RETAIN_DATA_DIR") if isinstance(environment, dict) else None
        if isinstance(data, str) and data.startswith("gs://"):
            return data
        mounts = (deployment.job_variables or {}).get("mounts")
        for mount in mounts if isinstance(mounts, list) else []:  # on a shared server, another project's
            if isinstance(mount, dict) and mount.get("Target") == "/data":
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
