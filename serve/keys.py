"""Who may call: `Authorization: Bearer SECRET`, compared with every key that there is in constant time."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from hmac import compare_digest

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.refusals import refusal

# What balancers, health checks and browsers ask for without a key. Every other path wants one, an unknown one too.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json", "/docs"})
OPEN_FOLDERS = ("/docs/",)
SCHEME = b"bearer "


class Keys:
    """Names of callers by their secrets. Only digests of the secrets are kept.

    `secrets`: name -> secret. Without any, everybody may call, under the name "".
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._digests = [(name, sha256(secret.encode()).digest()) for name, secret in secrets.items()]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def caller(self, scope: Scope) -> str | None:
        """The name of the key that a request bears; None if it bears none, an unknown one, or several."""
        if not self._digests:
            return ""
        borne = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(borne) != 1 or borne[0][: len(SCHEME)].lower() != SCHEME:
            return None
        digest, found = sha256(borne[0][len(SCHEME) :].strip()).digest(), None
        for name, each in self._digests:  # all of them, so that the time tells nothing
            if compare_digest(each, digest):
                found = name
        return found


NO_KEYS = Keys({})


class KeyCheck:
    """Around the application: lets through whoever bears a key, and puts its name into `scope["state"]["caller"]`."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            caller = self.keys.caller(scope)
            if caller is None and not is_open(scope["path"]):
                response = refusal(401, "wants Authorization: Bearer, with a key of this service", challenge=True)
                await response(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller or ""
        await self.app(scope, receive, send)


def is_open(path: str) -> bool:
    """Whether a path is answered without a key."""
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)
