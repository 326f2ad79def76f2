"""Where the service's database lies, and SQLite's file made there; without the libraries that open it, which the
supervisor doesn't need."""

from __future__ import annotations

import os
from pathlib import Path

from engine.artifact import MANIFEST
from engine.errors import RetainError
from engine.paths import path_of, why_unwritable
from engine.store import store_url

FILE_NAME = "serving.db"
SQLITE = "sqlite:///"


def database_url(given: str | None) -> str:
    """What DATABASE_URL says, or a file beside the artifacts of the store. Raises RetainError."""
    if given:
        return given
    store = store_url()
    if "://" in store:
        raise RetainError("DATABASE_URL: wants a database's address, since the store is no folder to put a file beside")
    return f"{SQLITE}{Path(store).resolve() / 'serving' / FILE_NAME}"


def file_of(address: str) -> Path | None:
    """The file of an SQLite database, None for any other. Raises RetainError for one that can't be used."""
    if not address.startswith("sqlite:"):
        return None
    name = address.removeprefix(SQLITE)
    if name in (address, "", ":memory:") or name.startswith("file:") or "?" in name:
        raise RetainError(f"DATABASE_URL: wants the path of a file, such as sqlite:////var/lib/retain/{FILE_NAME}")
    path = path_of("DATABASE_URL", name).absolute()
    for folder in path.resolve().parents:
        if os.path.exists(folder / MANIFEST):
            raise RetainError(f"DATABASE_URL: {path} lies in an artifact ({folder}), which never changes: name another")
    return path


def make_file(path: Path) -> None:
    """SQLite's file if there is none, which nobody else may read, and its folder. SQLite gives the files beside it the
    same permissions. Raises RetainError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if not path.is_file():
            raise RetainError(f"DATABASE_URL: {path} is no file") from None
    except OSError as error:
        raise RetainError(f"DATABASE_URL: {path.parent} {why_unwritable(error)}") from None
