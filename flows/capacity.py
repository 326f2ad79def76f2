"""Whether rented machines can be had, and how a run gets them: the groups of machines of Compute Engine.

Before a run reserves money it asks whether its region has the accelerator and the project quota for it. Each attempt
then sees to it that the group of its pool is large enough, and while it waits for a machine it does so again: an idle
machine deletes itself, and may do so just then. Groups shrink by that alone.

https://cloud.google.com/compute/docs/reference/rest/v1
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import google.auth
import requests
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from engine.errors import RetainError
from flows.pools import Pool

API = "https://compute.googleapis.com/compute/v1"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
TIMEOUT_S = 20.0
AGAIN = (429, 500, 502, 503, 504)
RETRY = Retry(total=4, backoff_factor=1.0, status_forcelist=AGAIN, allowed_methods=None, raise_on_status=False)
GROUP = "retain-{}"  # of a pool: infra/terraform/pools.tf
MOST_MACHINES = 4  # of one group: more stages than that never work at once
# By an experiment's name of the accelerator. Spot machines have a quota of their own where the project was given one,
# and else use up the other one: https://cloud.google.com/compute/resource-usage#gpu_quota
QUOTAS = {"nvidia-l4": "NVIDIA_L4_GPUS"}
ALL_REGIONS = "GPUS_ALL_REGIONS"
NEEDED = "compute.regions.get, acceleratorTypes.list, projects.get and instanceGroupManagers.get and update"


class CloudAway(RetainError):
    """Nobody answers, or not now."""


@dataclass(frozen=True)
class Cloud:
    """Compute Engine's API, in one region of the project that the machine's or the user's account belongs to."""

    region: str
    api: str = field(default_factory=lambda: API)

    @cached_property
    def _authorized(self) -> tuple[requests.Session, str]:
        try:
            credentials, project = google.auth.default(scopes=[SCOPE])
        except GoogleAuthError as error:
            raise RetainError(f"rented machines want an account of Google Cloud: {_line(error)}") from None
        if not project:
            raise RetainError("GOOGLE_CLOUD_PROJECT is not set: the project that the rented machines are in")
        session = AuthorizedSession(credentials)
        session.mount(self.api, HTTPAdapter(max_retries=RETRY))
        return session, project

    def ask(self, path: str, method: str = "GET", **query: str) -> Any:
        """The answer to a request below the project, or None to one for something that isn't there."""
        session, project = self._authorized
        address = f"{self.api}/projects/{project}{path}"
        try:
            answer = session.request(method, address, params=query, timeout=TIMEOUT_S)
        except (requests.RequestException, GoogleAuthError) as error:
            raise CloudAway(f"Compute Engine does not answer ({_line(error)})") from None
        if answer.status_code in AGAIN:
            raise CloudAway(f"Compute Engine does not answer ({answer.status_code}: {_message(answer)})")
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise RetainError(
                f"Compute Engine refuses {method} {path or '/'} with {answer.status_code} ({_message(answer)}): the "
                f"account needs {NEEDED} (infra/terraform/identity.tf)"
            )
        return answer.json()


def check(cloud: Cloud, pools: Iterable[Pool], gpu: str | None) -> None:
    """Raises RetainError, in a line, where no machine of these pools could be had. `gpu`: the accelerator of those that
    have one. Machines that are there already have their share of the quota."""
    for pool in pools:
        if pool.sold_as:  # Vertex AI has quotas of its own
            continue
        size = _size(cloud, pool)
        if pool.gpu and gpu is not None:
            _check_offered(cloud, gpu)
            if size == 0:
                _check_quota(cloud, pool, gpu)


def grow(cloud: Cloud, pool: Pool, wanted: int) -> bool:
    """Sees to it that the pool's group has as many machines, or as many as it may have; whether it had too few. Raises
    RetainError."""
    wanted = min(wanted, MOST_MACHINES)
    few = _size(cloud, pool) < wanted
    if few:
        cloud.ask(f"{_group(cloud, pool)}/resize", "POST", size=str(wanted))
    return few


def _group(cloud: Cloud, pool: Pool) -> str:
    return f"/regions/{cloud.region}/instanceGroupManagers/{GROUP.format(pool.name)}"


def _size(cloud: Cloud, pool: Pool) -> int:
    found = cloud.ask(_group(cloud, pool))
    if found is None:
        raise RetainError(
            f"the pool {pool.name} has no group {GROUP.format(pool.name)} in {cloud.region}: make it by Terraform "
            "(docs/GOOGLE_CLOUD.md), or state another region (costs.region)"
        )
    return int(found["targetSize"])


def _check_offered(cloud: Cloud, gpu: str) -> None:
    found = cloud.ask("/aggregated/acceleratorTypes", filter=f"name={gpu}")
    zones = [zone for zone, each in ((found or {}).get("items") or {}).items() if each.get("acceleratorTypes")]
    if not any(zone.startswith(f"zones/{cloud.region}-") for zone in zones):
        raise RetainError(
            f"no zone of {cloud.region} has {gpu}: state another region (costs.region), with its prices in "
            "infra/prices.yaml, and make its machines there (region of Terraform)"
        )


def _check_quota(cloud: Cloud, pool: Pool, gpu: str) -> None:
    """Raises RetainError where the project may have no more of these GPUs."""
    regional = _quotas(cloud.ask(f"/regions/{cloud.region}"))
    name = QUOTAS[gpu]
    preemptible = f"PREEMPTIBLE_{name}"
    if pool.preemptible and regional.get(preemptible, (0.0, 0.0))[0] > 0:
        name = preemptible
    for metric, (limit, usage) in ((name, regional.get(name, (0.0, 0.0))), (ALL_REGIONS, _everywhere(cloud))):
        if limit - usage < 1:
            raise RetainError(
                f"quota {metric} in {cloud.region} is used up ({usage:g} of {limit:g}), so that no machine of "
                f"{pool.name} can be had: free one, or ask for more (console, IAM & Admin, Quotas)"
            )


def _everywhere(cloud: Cloud) -> tuple[float, float]:
    return _quotas(cloud.ask("")).get(ALL_REGIONS, (float("inf"), 0.0))


def _quotas(found: Any) -> dict[str, tuple[float, float]]:
    """metric -> (limit, usage)."""
    return {each["metric"]: (float(each["limit"]), float(each["usage"])) for each in (found or {}).get("quotas", ())}


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _message(answer: requests.Response) -> str:
    try:
        return " ".join(str(answer.json()["error"]["message"]).split())
    except (ValueError, KeyError, TypeError):
        return str(answer.reason)
