"""`make deploy`: registers what prefect.yaml describes with Prefect, once all that it names is there.

Prefect itself only warns of a pool that doesn't exist, and a missing image would be told by the first run. So server,
pool, images and folders are checked before, and what is missing is said in one message.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import prefect
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL

from engine.errors import DataError, RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from engine.paths import path_of
from engine.store import open_store, store_url
from flows import automations
from flows.platform import POOL
from flows.prefect_api import UNREACHABLE, client
from images.build import references

LAST_LINES = 5  # of what Prefect says where it fails


def deploy(say: Callable[[str], None] = print) -> None:
    """Registers deployments and automations. Raises RetainError."""
    with client() as api:
        _check_server(api)
        variables = _named(api)
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | variables, capture_output=True, encoding="utf-8", errors="replace"
        )
        if done.returncode:
            last = (done.stdout + done.stderr).strip().splitlines()[-LAST_LINES:]
            raise RetainError(f"prefect deploy ended with exit code {done.returncode}:\n" + "\n".join(last))
        automations.register()
        for deployment in sorted(api.read_deployments(), key=lambda each: (each.entrypoint or "", each.name)):
            flow = api.read_flow(deployment.flow_id).name
            image = deployment.job_variables.get("image", "")
            say(f"{flow}/{deployment.name:<12} {image}")


def _check_server(api: SyncPrefectClient) -> None:
    address = PREFECT_API_URL.value()
    if not address:
        raise RetainError("PREFECT_API_URL names no server to deploy to. `make up` starts one")
    try:
        version = api.request("GET", "/admin/version").json()
    except UNREACHABLE as error:
        raise RetainError(f"no Prefect server answers at {address} ({error}). `make up` starts one") from None
    if version != prefect.__version__:
        raise RetainError(
            f"the Prefect server at {address} is of version {version}, and this is made for {prefect.__version__}: "
            "`make down`, then `make up` starts one of that version"
        )


def _named(api: SyncPrefectClient) -> dict[str, str]:
    """The variables that prefect.yaml names. Raises DataError with everything that is missing."""
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
        store = open_store(store_url()).url
        data = _data_folder(store)
    except RetainError as error:
        missing.append(str(error))
    if missing:
        raise DataError("nothing was deployed:\n" + "\n".join(f"  {line}" for line in missing))
    return {
        "RETAIN_IMAGE_TABULAR": images["tabular"],
        "RETAIN_IMAGE_GPU": images["gpu"],
        "RETAIN_HOST_STORE": store,
        "RETAIN_HOST_DATA": data,
        "RETAIN_USER": f"{os.getuid()}:{os.getgid()}",
    }


def _data_folder(store: str) -> str:
    """The folder that parents read their data from; without RETAIN_DATA_DIR an empty one, beside what is downloaded."""
    given = os.environ.get("RETAIN_DATA_DIR")
    if not given:
        folder = Path(store) / "data"
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder)
    folder = path_of("RETAIN_DATA_DIR", given)
    if not folder.is_dir():
        raise DataError(f"RETAIN_DATA_DIR={given}: no such folder")
    return str(folder)


def main() -> int:
    try:
        deploy()
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
