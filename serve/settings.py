"""Settings of the service, from the environment: one table of them all, each checked before anything is loaded.

docs/SETTINGS.md has the same table for people, and a test compares the two. Every process of the service reads all of
it, and gets the secrets that it needs itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engine.config import is_path
from engine.errors import RetainError
from engine.paths import is_folder, why_unreadable
from engine.releases import DEFAULT_EXPERIMENT, folder_of
from engine.settings import MAX_SECRET, MIN_SECRET, PORT, Parser, Variable, any_text, is_secret, token, whole
from serve.champion import release_to_begin_with
from serve.router import DEFAULT_KEY, DEFAULT_PERCENT, MAX_KEY, Router

if TYPE_CHECKING:  # the database's libraries are no affair of the arm's process, which reads a setting's name here
    from serve.database import Synchronous

Process = Literal["supervisor", "worker", "admin"]

# How often the store is looked at for what people said of messages: an approval, or a rejection, is heard this soon.
READ_AGAIN_SECONDS = 5.0
LOOK_SECONDS = 30.0  # how long a look may take: then no message counts as read until the store answers
# Order matters: scores rank the messages of the banks loaded before them.
OVERRIDES = {
    "risk": "RISK_MODEL_PATH",
    "accept": "ACCEPT_MODEL_PATH",
    "decision": "PPO_POLICY_PATH",
    "sft": "SFT_PATH",
    "rlhf": "RLHF_PATH",
    "scores": "RM_PATH",
}
# Longer than balancers keep an idle connection, who would otherwise send a request into one that is being closed: AWS
# 60 s, nginx 60 s, Azure 4 minutes, Google Cloud 600 s.
KEEP_ALIVE = 620
YES_OR_NO = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Settings:
    """What the settings say. `parts`: artifact folders by what they replace. `keys`: secrets of callers by name.

    `router` is what FORCE_BASELINE and CANARY_PERCENT say where there is no rollout: the baseline decides unless
    FORCE_BASELINE is set to false. With a rollout `force_baseline` is whether it was set to true, and `canary_percent`
    the most that the challenger may get, None where that isn't set.

    `database_url`: None for SQLite's file in the folder `serving` of the store. `budget`: in the release's currency, or
    None for the release's own. Memory is in bytes, the hold-out in percent, exploration a share.
    """

    release: Path
    parts: Mapping[str, Path]
    challenger: Path | None
    router: Router
    force_baseline: bool
    canary_percent: float | None
    host: str
    port: int
    keep_alive: int
    workers: int
    worker_memory: int
    arm_memory: int
    keys: Mapping[str, str] = field(repr=False)
    admin_host: str
    admin_port: int
    admin_token: str | None = field(repr=False)
    database_url: str | None = field(repr=False)
    sqlite_synchronous: Synchronous
    pseudonym_key: str | None = field(repr=False)
    budget: float | None
    keep_days: int


# -- one value -----------------------------------------------------------------------------------------------------


def _decimal(high: int, remark: str = "") -> Parser:
    def parse(name: str, text: str) -> float:
        if not re.fullmatch(rf"[0-9]{{1,{len(str(high))}}}(\.[0-9]{{1,9}})?", text) or float(text) > high:
            raise RetainError(f"{name}={text}: wants a number from 0 to {high}{remark}")
        return float(text)

    return parse


def _yes_or_no(name: str, text: str) -> bool:
    if text.lower() not in YES_OR_NO:
        raise RetainError(f"{name}={text}: wants true or false (or 1 or 0)")
    return YES_OR_NO[text.lower()]


def _one_of(*values: str) -> Parser:
    def parse(name: str, text: str) -> str:
        if text.lower() not in values:
            raise RetainError(f"{name}={text}: wants {' or '.join(values)}")
        return text.lower()

    return parse


def _hash_key(name: str, text: str) -> str:
    if len(text.encode("utf-8", "surrogateescape")) > MAX_KEY or not text.isprintable():
        raise RetainError(f"{name}: wants 1 to {MAX_KEY} bytes of text")  # it may be a secret: not repeated
    return text


def _keys(name: str, text: str) -> dict[str, str]:
    """Secrets by the names of those who bear them. No message repeats anything of it."""
    keys: dict[str, str] = {}
    for number, entry in enumerate(text.split(","), start=1):
        who, _, secret = entry.strip().partition(":")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", who) or not is_secret(secret):
            raise RetainError(
                f"{name}: its entry {number} isn't name:secret, with a name of letters, digits, dots, hyphens and "
                f"underscores, and a secret of {MIN_SECRET} to {MAX_SECRET} letters, digits and signs of ASCII, "
                "without comma or space"
            )
        if who in keys or secret in keys.values():
            raise RetainError(f"{name}: its entry {number} has the name or the secret of another one")
        keys[who] = secret
    return keys


def _database(name: str, text: str) -> str:
    if not re.match(r"sqlite:///|postgres(ql(\+psycopg)?)?://", text):  # it may hold a password: not repeated
        raise RetainError(f"{name}: wants sqlite:////folder/file.db or postgresql://user:password@host/database")
    return text


def _experiment(name: str, text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text) and not _is_file(text):
        raise RetainError(
            f"{name}={text!r}: wants the name of an experiment, such as {DEFAULT_EXPERIMENT}, or the path of its file"
        )
    return text


def _is_file(named: str) -> bool:
    return is_path(named) and os.path.isfile(os.path.expanduser(named))


def _folder(name: str, value: str) -> Path:
    folder = folder_of(name, value)
    try:
        is_there = is_folder(folder)
    except OSError as error:
        raise RetainError(f"{name}={value}: {why_unreadable(error)}") from None
    if not is_there:
        raise RetainError(f"{name}={value}: is no folder; it wants the folder of an artifact (with manifest.json)")
    return folder.resolve()


# -- all of them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting(Variable):
    """`read_by`: the processes that act on it; a secret is handed to no other."""

    read_by: tuple[Process, ...]
    meaning: str
    secret: bool = False


_MB = 1 << 20
_ALL: tuple[Process, ...] = ("supervisor", "worker", "admin")
_DATABASE: tuple[Process, ...] = ("supervisor", "worker", "admin")

SETTINGS = (
    Setting("EXPERIMENT", DEFAULT_EXPERIMENT, _experiment, _ALL, "whose current release answers"),
    Setting("RELEASE_PATH", None, _folder, _ALL, "the folder of the release that answers"),
    *(Setting(name, None, _folder, ("worker", "admin"), f"an artifact whose part {part} replaces the release's own")
      for part, name in OVERRIDES.items()),
    Setting("CHALLENGER_PATH", None, _folder, ("worker", "admin"), "another release, whose learned arm runs in shadow"),
    Setting("FORCE_BASELINE", None, _yes_or_no, ("worker",),
            "true: the baseline decides about everybody (unset: true, but where there is a rollout, that rules)"),
    Setting("CANARY_PERCENT", None, _decimal(100), ("worker",),
            f"% of customers of the learned policy, at most, where there is a rollout ({DEFAULT_PERCENT:g} without)"),
    Setting("ASSIGNMENT_KEY", DEFAULT_KEY, _hash_key, ("worker",), "what draws arms and the hold-out", secret=True),
    Setting("RETAIN_HOLD_OUT_PERCENT", "5", _decimal(100), ("worker",), "% of customers who are never contacted"),
    Setting("RETAIN_EXPLORATION", "0", _decimal(1), ("worker",), "share of baseline decisions with a drawn action"),
    Setting("RETAIN_BUDGET_USD", None, _decimal(10**12), ("worker", "admin"), "the offer budget of a period"),
    Setting("DATABASE_URL", None, _database, _DATABASE, "where decisions are kept", secret=True),
    Setting("RETAIN_SQLITE_SYNCHRONOUS", "normal", _one_of("normal", "full"), _DATABASE,
            "whether SQLite waits for the disk"),
    Setting("RETAIN_KEEP_DAYS", "400", whole(366, 36500, " of days"), ("admin",), "how long decisions are kept"),
    Setting("PSEUDONYM_KEY", None, _hash_key, ("admin",), "what exports turn ids into pseudonyms by", secret=True),
    Setting("RETAIN_HOST", "127.0.0.1", any_text, ("supervisor",), "the address of the API"),
    Setting("PORT", "8000", PORT, ("supervisor",), "the port of the API"),
    Setting("RETAIN_KEEP_ALIVE", str(KEEP_ALIVE), whole(1, 3600, " of seconds"), ("worker",),
            "how long a connection may be idle"),
    Setting("RETAIN_API_KEYS", None, _keys, ("supervisor", "worker"), "who may call, as name:secret,...", secret=True),
    Setting("RETAIN_ADMIN_HOST", "127.0.0.1", any_text, ("supervisor",), "the address of the admin port"),
    Setting("RETAIN_ADMIN_PORT", "8001", PORT, ("supervisor",), "the admin port"),
    Setting("RETAIN_ADMIN_TOKEN", None, token, ("supervisor", "admin"), "who may use the admin port", secret=True),
    Setting("RETAIN_WORKERS", "2", whole(1, 64), ("supervisor",), "processes that answer"),
    Setting("RETAIN_WORKER_MEMORY_MB", "512", whole(128, 1048576, " of MB", unit=_MB), ("supervisor",),
            "memory from which on a worker is replaced"),
    # Of a small release it needs 140 MB: what numpy reserves counts, too.
    Setting("RETAIN_ARM_MEMORY_MB", "512", whole(192, 1048576, " of MB", unit=_MB), ("worker",),
            "memory of the learned arm's process"),
)  # fmt: skip


def read(environment: Mapping[str, str]) -> Settings:
    """Raises RetainError for a setting that can't be used."""
    values = {setting.name: setting.value(environment) for setting in SETTINGS}
    return Settings(
        release=values["RELEASE_PATH"] or release_to_begin_with(values["EXPERIMENT"]),
        parts={part: values[name] for part, name in OVERRIDES.items() if values[name]},
        challenger=values["CHALLENGER_PATH"],
        router=Router(
            values["FORCE_BASELINE"] is not False,
            DEFAULT_PERCENT if values["CANARY_PERCENT"] is None else values["CANARY_PERCENT"],
            values["ASSIGNMENT_KEY"],
            values["RETAIN_HOLD_OUT_PERCENT"],
            values["RETAIN_EXPLORATION"],
        ),
        force_baseline=values["FORCE_BASELINE"] is True,
        canary_percent=values["CANARY_PERCENT"],
        host=values["RETAIN_HOST"],
        port=values["PORT"],
        keep_alive=values["RETAIN_KEEP_ALIVE"],
        workers=values["RETAIN_WORKERS"],
        worker_memory=values["RETAIN_WORKER_MEMORY_MB"],
        arm_memory=values["RETAIN_ARM_MEMORY_MB"],
        keys=values["RETAIN_API_KEYS"] or {},
        admin_host=values["RETAIN_ADMIN_HOST"],
        admin_port=values["RETAIN_ADMIN_PORT"],
        admin_token=values["RETAIN_ADMIN_TOKEN"],
        database_url=values["DATABASE_URL"],
        sqlite_synchronous=values["RETAIN_SQLITE_SYNCHRONOUS"],
        pseudonym_key=values["PSEUDONYM_KEY"],
        budget=values["RETAIN_BUDGET_USD"],
        keep_days=values["RETAIN_KEEP_DAYS"],
    )


def folders_of(settings: Settings) -> dict[str, str]:
    """The variables that name the folders of the settings, as they were read; the experiment's name counts no more.

    A process that begins later with them serves what the others do, though a run has finished since, or a link leads
    elsewhere.
    """
    folders = {OVERRIDES[part]: folder for part, folder in settings.parts.items()}
    folders["RELEASE_PATH"] = settings.release
    if settings.challenger is not None:
        folders["CHALLENGER_PATH"] = settings.challenger
    return {"EXPERIMENT": ""} | {name: str(folder.resolve()) for name, folder in folders.items()}


def environment_of(process: Process, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the secrets that this process doesn't need."""
    kept_back = {setting.name for setting in SETTINGS if setting.secret and process not in setting.read_by}
    return {name: value for name, value in environment.items() if name not in kept_back}
