"""The release that is served: read from the folders that the settings name, and what is to be said of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from engine.artifact import open_artifact, open_whole_files
from engine.errors import ArtifactError, RetainError
from engine.paths import why_unreadable
from engine.releases import find, version_of
from retain.alike import dataset_digest, what_is_offered
from retain.reference import Reference, read_reference
from retain.release import (
    LEARNED,
    PART_FILES,
    SCORES,
    TERMS,
    VERSIONS,
    Release,
    ReleaseError,
    load,
    with_part,
)
from serve.settings import OVERRIDES, Settings


def warnings_about(release: Release) -> list[str]:
    """What the person who runs the service should know about its release, a line each."""
    lines = [f"{part} is that of {OVERRIDES[part]}, not the release's own" for part in release.replaced]
    lines += [
        f"the {VERSIONS.get(part, part)} of {OVERRIDES[part]} is the one that is {release.standing(part)} in this "
        "release: no customer is shown it"
        for part in release.held_back
    ]
    lines += [_dropped(part, release) for part in dict.fromkeys(entry["part"] for entry in release.dropped)]
    lines += [f"{problem}; the service goes on without {part}" for part, problem in release.damaged.items()]
    return lines if release.bridge.warning is None else [*lines, release.bridge.warning]


def with_budget(release: Release, budget: float | None) -> Release:
    """The release with the budget of a period that the settings state; its own where they state none."""
    return release if budget is None else replace(release, terms=replace(release.terms, budget=budget))


def _dropped(part: str, release: Release) -> str:
    """How many messages of a bank are not there, and what they break, the commonest first."""
    broken = [entry["breaks"] for entry in release.dropped if entry["part"] == part]
    rules = [rule for rule, _ in Counter(rule for rules in broken for rule in rules).most_common()]
    count = f"{len(broken)} messages of {part} were" if len(broken) > 1 else f"1 message of {part} was"
    return f"{count} dropped by the guard: {', '.join(rules)}"


@dataclass(frozen=True)
class Source:
    """Where a release is loaded from: the folder of its artifact, and those of parts that replace its own."""

    release: Path
    parts: Mapping[str, Path]


def load_release(
    source: Source | Settings, *, whole: bool = False, setting: str = "RELEASE_PATH"
) -> tuple[str, Release]:
    """The release's own version and the release, every file checked against its hash. Raises RetainError.

    The version is the digest of the content, since a release may be copied into a folder of any name; "+risk:" behind
    it says that this part is another one, with its digest, and "-rlhf" that this part is not loaded since its files are
    damaged. Only the learned arm's own parts may be missing so, since the baseline answers without them; with `whole`
    none may. `setting`: what named the folder, for messages.
    """
    folder = source.release
    try:
        files, broken = open_whole_files(folder)
        problems = {name.partition("/")[0]: problem for name, problem in broken.items()}
        _bearable(problems, whole)
        there = {name: path for name, path in files.items() if name.partition("/")[0] not in problems}
        damaged = {part: f"{setting}: {problem}" for part, problem in problems.items()}
        release = load(there, damaged)
        for part, path in source.parts.items():
            folder, setting = path, OVERRIDES[part]
            files, broken = open_whole_files(path)
            wanted = (*PART_FILES.get(part, (SCORES,)), TERMS)
            problem = next(iter(broken.values()), None)
            if problem is not None:
                _bearable({part: problem}, whole)
                damaged[part] = f"{setting}: {problem}"
                release = _without(release, part)
            else:
                damaged.pop(part, None)
                release = with_part(release, part, {name: files[name] for name in wanted if name in files})
    except (ArtifactError, ReleaseError) as error:
        raise RetainError(f"{setting}: {folder} can't be served: {error}") from None
    except OSError as error:  # since it was checked
        raise RetainError(f"{setting}: {error.filename or folder} {why_unreadable(error)}") from None
    replaced = [f"+{part}:{release.versions[VERSIONS.get(part, part)]}" for part in release.replaced]
    version = "".join([version_of(source.release), *replaced, *(f"-{part}" for part in damaged)])
    return version, replace(release, damaged=damaged)


class Loaded(NamedTuple):
    """A release as this process has loaded it: from where, its version, and what it is."""

    source: Source
    version: str
    release: Release


def load_challenger(version: str, own: Release) -> Loaded:
    """Another release of the experiment of one's `own`, by its version, for what its learned arm says to be judged by:
    whole, with a policy, for the same table and the same offers. Raises RetainError.

    It takes 0.1 to 0.2 s and up to 8 MB, half of both for trees that nobody asks, and holds the interpreter's lock for
    12 ms at a time: to be called in a thread.
    """
    source, setting = Source(find(version, own.experiment), {}), f"the challenger {version}"
    loaded, release = load_release(source, whole=True, setting=setting)
    if loaded != version:
        raise RetainError(f"{setting}: {source.release} has become the release {loaded} while it was read")
    if release.policy is None:
        raise RetainError(f"{setting}: the release has no learned policy")
    if dataset_digest(release.spec) != dataset_digest(own.spec):
        raise RetainError(f"{setting}: its release is for another table")
    if what_is_offered(release.terms) != what_is_offered(own.terms):
        raise RetainError(f"{setting}: its release makes other offers, or has another cap")
    return Loaded(source, version, release)


class Challenger(NamedTuple):
    """The release whose learned arm is tried in the shadow: its version, and what its messages are like for customers
    that it knows; None where its files don't say."""

    version: str | None
    reference: Reference | None


def challenger(folder: Path) -> Challenger:
    """Of a release that may be damaged, which is its arm's affair."""
    try:
        return Challenger(version_of(folder), read_reference(open_artifact(folder)))
    except (ArtifactError, OSError, ValueError):
        return Challenger(None, None)


def _bearable(problems: Mapping[str, ArtifactError], whole: bool) -> None:
    """Raises the problem of a part that the service can't go on without."""
    for part, problem in problems.items():
        if whole or part not in LEARNED:
            raise problem


def _without(release: Release, part: str) -> Release:
    """The release without one of the LEARNED parts, whose files are damaged."""
    changed = replace(release, policy=None) if part == "decision" else release
    return replace(
        changed,
        banks={name: bank for name, bank in release.banks.items() if name != part},
        versions={name: digest for name, digest in release.versions.items() if name != VERSIONS.get(part, part)},
        dropped=tuple(entry for entry in release.dropped if entry["part"] != part),
        reference=None,
    )
