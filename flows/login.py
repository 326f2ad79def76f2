"""Which server `make deploy` and `make run.docker` speak to, with which password, and what is said where that fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from engine.errors import RetainError
from flows import platform
from flows.guard import SERVER_AUTH


@contextmanager
def logged_in(address: str | None) -> Iterator[dict[str, str]]:
    """Has Prefect's client use that server while the block runs; None: the one of `make up`, with its password.

    Yields the same as variables, for a process that is started. Raises RetainError, in one line also what the server
    refuses inside the block.
    """
    variables = {"PREFECT_API_URL": address or platform.api_url(platform.bind())}
    password = PREFECT_API_AUTH_STRING.value()
    if not password and (address is None or is_own(address)):
        password = os.environ.get(SERVER_AUTH) or platform.read_secrets().get(SERVER_AUTH)
    if password:
        variables[platform.CLIENT_AUTH] = str(password)
    settings = {PREFECT_API_URL: variables["PREFECT_API_URL"], PREFECT_API_AUTH_STRING: password or None}
    with temporary_settings(settings):
        try:
            yield variables
        except (httpx.HTTPError, httpx.InvalidURL, PrefectException) as error:
            raise RetainError(_explained(error, variables["PREFECT_API_URL"])) from None


def stated_address() -> str | None:
    """PREFECT_API_URL where it names another server than that of `make up`, which prefect.toml names."""
    stated = PREFECT_API_URL.value()
    return str(stated) if stated and not is_own(str(stated)) else None


def is_own(address: str) -> bool:
    """Whether the server of `make up` is reached there."""
    stated = urlsplit(address.rstrip("/"))
    try:
        port = stated.port
    except ValueError:
        return False
    host = platform.LOOPBACK if stated.hostname == "localhost" else stated.hostname
    same = {platform.LOOPBACK, urlsplit(platform.api_url(platform.bind())).hostname}
    return (stated.scheme, port, stated.path) == ("http", platform.PORT, "/api") and host in same


def _explained(error: Exception, address: str) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        if code == 401:
            return (
                f"the Prefect server at {address} wants a name and a password, and this is another one or none: set "
                f"{platform.CLIENT_AUTH}=name:password, or {SERVER_AUTH} in {platform.SECRETS_FILE}"
            )
        return f"what answers at {address} refuses with {code} {error.response.reason_phrase}: {error.request.url}"
    if isinstance(error, httpx.TransportError):
        return (
            f"no Prefect server answers at {address} ({error}). `make up` starts one; what RETAIN_BIND was then, it "
            "has to be now"
        )
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return f"the Prefect server at {address}: {first}"
