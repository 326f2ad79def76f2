"""The release that is served: read from the folders that the settings name, and what is to be said of it."""

from __future__ import annotations

from collections import Counter

from engine.artifact import MANIFEST, open_artifact, parse_manifest
from engine.errors import ArtifactError, RetainError
from engine.paths import why_unreadable
from retain.release import PART_FILES, SCORES, TERMS, Release, ReleaseError, load, with_part
from serve.settings import OVERRIDES, Settings

VERSIONS = {"decision": "policy"}  # what a part is called among the versions, if by another name


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
