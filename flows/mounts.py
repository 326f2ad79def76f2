"""What containers are given of this machine: the store, or what leads to its bucket, and the data.

In a container a folder is at /store. Of a bucket there is a volume for the cache at /cache, which the images name as
RETAIN_CACHE, and the file with an account's credentials where Google's library looks for that of a user: in the images'
CLOUDSDK_CONFIG. Without such a file the library asks the machine for its own account.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.errors import RetainError
from engine.paths import path_of, why_unreadable
from engine.store import Store, open_store, store_url

STORE, CACHE, DATA = "/store", "/cache", "/data"
KEY = "/google/application_default_credentials.json"
NO_KEY = "/dev/null"  # mounted where there is none: no file to the library
# The cache of runs and stages, of one user alone: nobody else could replace what is in it. Docker makes it on each
# machine that lacks it.
VOLUME = f"retain-cache-{os.getuid()}"
EMULATOR = "STORAGE_EMULATOR_HOST"
PASSED = ("RETAIN_CACHE_GB", EMULATOR)  # settings of a bucket's store, where they are set
LOOPBACK = ("localhost", "127.", "[::1]")

Mount = dict[str, Any]  # as Docker's API takes it


@dataclass(frozen=True)
class Access:
    """What leads a container to buckets: settings, the volume of a cache, and `key`, the file of this machine with an
    account's credentials; None: the account is that of the container's machine."""

    environment: Mapping[str, str]
    key: Path | None

    @property
    def volumes(self) -> list[str]:
        return [f"{VOLUME}:{CACHE}"]

    @property
    def mounts(self) -> list[Mount]:
        return [] if self.key is None else [bound(str(self.key), KEY)]


@dataclass(frozen=True)
class Place:
    """The store, as this machine and its containers know it.

    `url`: its folder, or gs://bucket/prefix. `here`: the folder of this machine that holds the artifacts which were
    opened. `access`: to its bucket, None where it is a folder.
    """

    url: str
    here: Path
    access: Access | None = None

    @property
    def environment(self) -> dict[str, str]:
        if self.access is None:
            return {"RETAIN_STORE": STORE}
        return {"RETAIN_STORE": self.url, **self.access.environment}

    @property
    def volumes(self) -> list[str]:
        return [f"{self.url}:{STORE}"] if self.access is None else self.access.volumes

    @property
    def mounts(self) -> list[Mount]:
        return [] if self.access is None else self.access.mounts

    @property
    def key(self) -> str:
        """What compose files mount as the key."""
        return NO_KEY if self.access is None or self.access.key is None else str(self.access.key)

    def inside(self, folder: Path) -> str:
        """What containers know an artifact's folder by. Raises ValueError for one that isn't in the store."""
        within = folder.resolve().relative_to(self.here.resolve()).as_posix()
        return f"{self.environment['RETAIN_STORE']}/{within}"

    def open(self) -> Store:
        return open_store(self.url)


def place() -> Place:
    """That of RETAIN_STORE; a folder is made. Raises RetainError, one line, for what containers couldn't use."""
    store = open_store(store_url())
    return Place(store.url, store.here, access() if is_bucket(store.url) else None)


def access() -> Access:
    """That of whoever calls. Raises RetainError, one line, for what containers couldn't use."""
    passed = {name: os.environ[name] for name in PASSED if os.environ.get(name)}
    return Access(passed, _key())


def is_bucket(url: str) -> bool:
    return url.startswith("gs://")


def bound(source: str, target: str) -> Mount:
    """A folder or file that a container reads. Unlike a volume, one that is gone isn't made anew, empty: Docker refuses
    the container."""
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": True}


def _key() -> Path | None:
    """The file with the credentials that Google's library takes on this machine, if they are in one."""
    if emulator := os.environ.get(EMULATOR):  # which wants none
        if (urlsplit(emulator).netloc or emulator).startswith(LOOPBACK):
            raise RetainError(
                f"{EMULATOR}={emulator}: in a container that is the container itself; name this machine by an address "
                "of its network, such as http://172.17.0.1:9023"
            )
        return None
    setting = "GOOGLE_APPLICATION_CREDENTIALS"
    named = os.environ.get(setting)
    if not named:
        folder = Path(os.path.expanduser(os.environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud"))
        key = (folder / Path(KEY).name).absolute()
        return key if key.is_file() else None
    key = path_of(setting, named).absolute()
    try:
        key.open("rb").close()
    except OSError as error:
        raise RetainError(f"{setting}={named}: {why_unreadable(error)}") from None
    return key
