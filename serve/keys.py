"""Who may call: `Authorization: Bearer SECRET`, compared with every key that there is in constant time.

Where no key is set only programs of this machine can call, and they have to call it by one of its own names: a page of
another site, whose name was made to lead here (DNS rebinding), calls it by that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from hmac import compare_digest

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.refusals import refusal

# What balancers, health checks and browsers ask for without a key. Every other path wants one, an unknown one too.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
OPEN_FOLDERS = ("/docs/",)
SCHEME = b"bearer "
OWN_NAME = re.compile(rb"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


class Keys:
    """Names of callers by their secrets. Only digests of the secrets are kept.

    `secrets`: name -> secret. Without any, whoever calls this machine by its own name may do so, under the name "".
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._digests = [(name, sha256(secret.encode()).digest()) for name, secret in secrets.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def caller(self, scope: Scope) -> str | None:
        """The name of the key that a request bears; None if it bears none, an unknown one, or several."""
        if not self._digests:
            return "" if _calls_by_own_name(scope) else None
        borne = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(borne) != 1 or borne[0][: len(SCHEME)].lower() != SCHEME:
            return None
        digest, found = sha256(borne[0][len(SCHEME) :].strip()).digest(), None
        for name, each in self._digests:  # all of them, so that the time tells nothing
            if compare_digest(each, digest):
                found = name
        return found


NO_KEYS = Keys({})


def _calls_by_own_name(scope: Scope) -> bool:
    """Or by none, as no browser does."""
    return all(OWN_NAME.fullmatch(value) for name, value in scope["headers"] if name == b"host")


def is_open(path: str) -> bool:
    """Whether a path of the API is answered without a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


class KeyCheck:
    """Around an application: lets through whoever bears a key, and puts its name into `scope["state"]["caller"]`; None
    where the path is open to everybody.

    `setting` is what the keys are set by.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        setting: str = "RETAIN_API_KEYS",
        is_open: Callable[[str], bool] = is_open,
    ) -> None:
        self.app = app
        self.keys = keys
        self.setting = setting
        self.is_open = is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            caller = self.keys.caller(scope)
            if caller is None and not self.is_open(scope["path"]):
                await self._refusal()(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    def _refusal(self) -> Response:
        if self.keys:
            return refusal(401, f"wants Authorization: Bearer, with a secret of {self.setting}", challenge=True)
        return refusal(403, f"unless {self.setting} is set this port answers as localhost and 127.0.0.1 only")
