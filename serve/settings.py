"""Settings of the service, from the environment; each is checked before anything is loaded.

RELEASE_PATH: the folder of a release's artifact; unset: the current release of EXPERIMENT in RETAIN_STORE. There also
lies which messages people approved (engine.approvals), whatever release they are of.
RISK_MODEL_PATH, ACCEPT_MODEL_PATH, PPO_POLICY_PATH: artifact folders of `risk`, `accept` and `decision`, in place of
the release's own part; SFT_PATH, RLHF_PATH, RM_PATH: of `messages`, for one bank, the other, and the scores that order
both. The version that answers, /readyz and the line at the start say so. A part that missed criteria in this very
release is not shown to customers for being named here.
FORCE_BASELINE: true (unless set) lets the baseline decide about everybody, false the learned policy about some.
CANARY_PERCENT: about how many, 0 to 100; 5 unless set. ASSIGNMENT_KEY: what draws them (router.py).
RETAIN_KEEP_ALIVE: for how many seconds a connection may be idle after an answer.
RETAIN_HOST, PORT: where to listen (HOST itself is a name that shells and compilers take for other things).
"""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.artifact import MANIFEST, current, open_artifact, parse_manifest
from engine.config import experiment_path, is_path, tag_of
from engine.errors import ArtifactError, RetainError
from engine.paths import is_folder, path_of, why_unreadable
from engine.store import open_store, store_url
from retain.release import PART_FILES, SCORES, TERMS, Release, ReleaseError, load, with_part
from serve.router import DEFAULT_KEY, DEFAULT_PERCENT, MAX_KEY, Router

DEFAULT_EXPERIMENT = "local"
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
VERSIONS = {"decision": "policy"}  # what a part is called among the versions, if by another name
YES_OR_NO = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Settings:
    release: Path
    parts: Mapping[str, Path]
    router: Router
    host: str
    port: int
    keep_alive: int


def read(environment: Mapping[str, str]) -> Settings:
    """Raises RetainError for a setting that can't be used."""
    port = environment.get("PORT") or "8000"
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise RetainError(f"PORT={port}: wants a number from 0 to 65535 (0: any free port)")
    named = environment.get("EXPERIMENT") or DEFAULT_EXPERIMENT
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", named) and not _is_file(named):
        raise RetainError(
            f"EXPERIMENT={named!r}: wants the name of an experiment, such as {DEFAULT_EXPERIMENT}, or the path of its "
            "file"
        )
    release = environment.get("RELEASE_PATH")
    return Settings(
        release=_folder("RELEASE_PATH", release) if release else _current(named),
        parts={part: _folder(name, environment[name]) for part, name in OVERRIDES.items() if environment.get(name)},
        router=_router(environment),
        host=environment.get("RETAIN_HOST") or "127.0.0.1",
        port=int(port),
        keep_alive=_keep_alive(environment),
    )


def _keep_alive(environment: Mapping[str, str]) -> int:
    seconds = environment.get("RETAIN_KEEP_ALIVE") or str(KEEP_ALIVE)
    if not re.fullmatch(r"[0-9]{1,4}", seconds) or not 1 <= int(seconds) <= 3600:
        raise RetainError(f"RETAIN_KEEP_ALIVE={seconds}: wants a number of seconds from 1 to 3600")
    return int(seconds)


def _router(environment: Mapping[str, str]) -> Router:
    force = environment.get("FORCE_BASELINE") or "true"
    if force.lower() not in YES_OR_NO:
        raise RetainError(f"FORCE_BASELINE={force}: wants true or false (or 1 or 0)")
    percent = environment.get("CANARY_PERCENT") or str(DEFAULT_PERCENT)
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", percent) or float(percent) > 100:
        raise RetainError(f"CANARY_PERCENT={percent}: wants a number from 0 to 100")
    key = environment.get("ASSIGNMENT_KEY") or DEFAULT_KEY
    if len(key.encode("utf-8", "surrogateescape")) > MAX_KEY or not key.isprintable():
        raise RetainError(f"ASSIGNMENT_KEY: wants 1 to {MAX_KEY} bytes of text")  # it may be a secret: not repeated
    return Router(YES_OR_NO[force.lower()], float(percent), key)


def warnings_about(release: Release) -> list[str]:
    """What the person who runs the service should know about its release, a line each."""
    lines = [f"{part} is that of {OVERRIDES[part]}, not the release's own" for part in release.replaced]
    lines += [
        f"the {VERSIONS.get(part, part)} of {OVERRIDES[part]} is the one that is {release.standing(part)} in this "
        "release: no customer is shown it"
        for part in release.held_back
    ]
    lines += [_dropped(part, release) for part in dict.fromkeys(entry["part"] for entry in release.dropped)]
    return lines if release.bridge.warning is None else [*lines, release.bridge.warning]


def _dropped(part: str, release: Release) -> str:
    """How many messages of a bank are not there, and what they break, the commonest first."""
    broken = [entry["breaks"] for entry in release.dropped if entry["part"] == part]
    rules = [rule for rule, _ in Counter(rule for rules in broken for rule in rules).most_common()]
    count = f"{len(broken)} messages of {part} were" if len(broken) > 1 else f"1 message of {part} was"
    return f"{count} dropped by the guard: {', '.join(rules)}"


def load_release(settings: Settings) -> tuple[str, Release]:
    """The release's own version and the release, every file checked against its hash. Raises RetainError.

    The version is the digest of the content, since a release may be copied into a folder of any name; "+risk" behind
    it says that this part is another one.
    """
    folder, setting = settings.release, "RELEASE_PATH"
    try:
        release = load(open_artifact(folder))
        for part, path in settings.parts.items():
            folder, setting = path, OVERRIDES[part]
            files = open_artifact(path)
            wanted = (*PART_FILES.get(part, (SCORES,)), TERMS)
            release = with_part(release, part, {name: files[name] for name in wanted if name in files})
    except (ArtifactError, ReleaseError) as error:
        raise RetainError(f"{setting}: {folder} can't be served: {error}") from None
    except OSError as error:  # since it was checked
        raise RetainError(f"{setting}: {error.filename or folder} {why_unreadable(error)}") from None
    manifest = settings.release / MANIFEST
    digest = parse_manifest(manifest.read_bytes(), str(manifest)).digest[:12]
    return "+".join((digest, *release.replaced)), release


def _is_file(named: str) -> bool:
    return is_path(named) and os.path.isfile(os.path.expanduser(named))


def _folder(name: str, value: str) -> Path:
    folder = path_of(name, value)
    try:
        is_there = is_folder(folder)
    except OSError as error:
        raise RetainError(f"{name}={value}: {why_unreadable(error)}") from None
    if not is_there:
        raise RetainError(f"{name}={value}: is no folder; it wants the folder of an artifact (with manifest.json)")
    return folder.resolve()


def _current(named: str) -> Path:
    experiment = tag_of(experiment_path(named)) if is_path(named) else named  # a release needs no file of its name
    store = open_store(store_url())
    folder = current(Path(store.url), experiment).get("release")
    if folder is None:
        run = "make run" if named == DEFAULT_EXPERIMENT else f"make run EXPERIMENT={shlex.quote(named)}"
        raise RetainError(
            f"experiment {experiment} has no release in {store.url}: run `{run}` first, or set RELEASE_PATH"
        )
    return folder
