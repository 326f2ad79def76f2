"""What Prefect's server knows of Google Cloud, which `make deploy` registers: work pools, and blocks of prefect-gcp.

The blocks say in which project the pools' machines and secrets are. They hold no key: whoever uses one does so by its
own account, a person by `gcloud auth application-default login`, a machine by its metadata server.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from prefect.client.orchestration import SyncPrefectClient
from prefect_gcp import GcpCredentials, GcpSecret
from prefect_gcp.workers.vertex import VertexAIWorker

from deploy.settings import page_url
from engine.errors import RetainError
from flows import compose
from flows.platform import docker_template, make_pool

VERTEX = "gpu-vertex"
BLOCK = "retain"  # of the project
PAGE_URL = "retain-page-url"  # of a secret, and the secret's own name; "none" where nobody is told


def register_pools(api: SyncPrefectClient, names: Iterable[str]) -> None:
    """Creates the work pools, or brings them to what infra/pools/docker.json or prefect-gcp says.

    Raises RetainError.
    """
    described = "Rented machines (docs/GOOGLE_CLOUD.md)"
    for name in sorted(names):
        if name == VERTEX:
            make_pool(api, name, described, VertexAIWorker.get_default_base_job_template(), kind="vertex-ai")
        else:  # rented machines make containers as this one does
            make_pool(api, name, described, docker_template(name))


def register_blocks(project: str) -> None:
    """Registers the blocks of the project. Raises RetainError without credentials."""
    try:
        credentials = GcpCredentials(project=project)
        credentials.save(BLOCK, overwrite=True)
        GcpSecret(gcp_credentials=credentials, secret_name=PAGE_URL).save(PAGE_URL, overwrite=True)
    except GoogleAuthError as error:
        raise RetainError(
            f"no credentials for the project {project} ({compose.first_line(error)}): gcloud auth application-default "
            "login"
        ) from None


def secret_page_url() -> str | None:
    """The webhook that the project's secret holds; None where it says "none", as infra/startup/serve.sh has it. Raises
    RetainError for any other text."""
    try:
        text = GcpSecret.load(PAGE_URL).read_secret().decode().rstrip("\n")
    except (GoogleAPIError, GoogleAuthError, UnicodeDecodeError) as error:
        raise RetainError(
            f"the secret {PAGE_URL} can't be read ({compose.first_line(error)}): give it a version, and your account "
            "roles/secretmanager.secretAccessor"
        ) from None
    if text == "none":
        return None
    try:
        url = page_url({"RETAIN_PAGE_URL": text})
    except RetainError:
        url = None
    if url is None:  # it may hold a secret: not repeated
        raise RetainError(f"the secret {PAGE_URL} wants the address of a webhook, http:// or https://, or none")
    return url
