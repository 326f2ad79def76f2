"""`python -m images.build`: builds the images, pushes them, and says by which references they are run.

An image is built if the engine has none of its tag, which is a digest of its content (images/context.py): an unchanged
tree builds nothing. Layers of libraries come before those of code, so a change of code takes seconds. The Docker SDK
drives the engine's classic builder, which every engine has.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from requests.exceptions import RequestException

from engine.artifact import canonical
from engine.checkout import commit
from engine.errors import RetainError
from engine.fingerprint import ROOT
from engine.output import make_decoration
from engine.store import FolderStore
from images.context import Context, read_context
from images.locks import outdated
from images.table import BASE, IMAGES, PLATFORM, lock_file

SILENCE_S = 3600  # how long the engine may say nothing, as it does while libraries are installed
ANSWER_S = 10  # and before there is anything to do
PUSHED = "images.json"  # what was pushed where; in build/, which git ignores
LAST_LINES = 15  # of the output of a step that failed
STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
BUILDERS_OWN = (" --->", "Removing intermediate container")  # lines of the builder, not of the step
COLOUR = re.compile(r"\x1b\[[0-9;]*m")  # in which the builder prints errors
FULL = "no space left on device"
EXIT_CODE = re.compile(r"The command '.*' (returned a non-zero code: \d+)", re.DOTALL)
REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/[a-z0-9._-]+)*")
MB = 1e6

Say = Callable[[str], None]
say_at_once: Say = partial(print, flush=True)


class Pushed(BaseModel):
    """An image that a registry has; `tag` is that of its content, `reference` is pinned by digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accelerator: str
    tag: str
    reference: str


_ALL_PUSHED = TypeAdapter(dict[str, Pushed])


def references(root: Path, names: Iterable[str] = ("tabular", "gpu")) -> dict[str, str]:
    """name -> the reference by which the image of this tree is run.

    That is the digest that `make images PUSH=` got from the registry, otherwise the tag in this machine's engine.
    Raises RetainError for images that are neither pushed nor built with the content that the tree has now.
    """
    known, local = {}, {}
    for name in names:
        at_registry = _at_registry(root, name)
        if at_registry is not None:
            known[name] = at_registry.reference
        else:
            image = IMAGES[name]
            local[name] = read_context(root, image, image.accelerators[0]).reference
    if local:
        with engine() as client:
            missing = [reference for reference in local.values() if not _has(client, reference)]
        if missing:
            raise RetainError(
                f"the Docker engine has no {' and no '.join(missing)}. Run `make images`, then this again"
            )
    return known | local


def accelerator_of(root: Path, name: str) -> str:
    """ "cuda" or "cpu": what the image of references() computes with, as its label retain.accelerator says."""
    at_registry = _at_registry(root, name)
    return at_registry.accelerator if at_registry is not None else IMAGES[name].accelerators[0]


def _at_registry(root: Path, name: str) -> Pushed | None:
    """The image as it was pushed; None if a registry has none with the content that the tree has now."""
    pushed = _read_pushed(root).get(name)
    if pushed is None or pushed.tag != read_context(root, IMAGES[name], pushed.accelerator).tag:
        return None
    return pushed


def build(
    root: Path,
    names: Iterable[str],
    accelerator: str | None = None,
    registry: str | None = None,
    say: Say = say_at_once,
) -> dict[str, str]:
    """Builds what the engine doesn't have, pushes it to `registry` if one is named, and returns name -> reference.

    `accelerator`: "cuda" for the variant with CUDA, of the images that have one. Raises RetainError.
    """
    if registry is not None and not REGISTRY.fullmatch(registry):
        raise RetainError(f"PUSH={registry}: wants a registry such as registry.example.com/team or 127.0.0.1:5000")
    contexts = [_context(root, name, accelerator) for name in names]
    made: dict[str, str] = {}
    with engine() as client:
        for context in contexts:
            name = context.image.name
            if _has(client, context.reference):
                say(f"{name}: {context.reference} is there")
            else:
                _build(client, context, commit(root, os.environ), say)
            made[name] = context.reference
            if registry is not None:
                made[name] = _push(client, context, registry, say)
    pushed = {name: entry for name, entry in _read_pushed(root).items() if name not in made}
    if registry is not None:
        for context in contexts:
            name = context.image.name
            pushed[name] = Pushed(accelerator=context.accelerator, tag=context.tag, reference=made[name])
    _write_pushed(root, pushed)
    return made


@contextmanager
def engine() -> Iterator[docker.DockerClient]:
    """The Docker engine that DOCKER_HOST, or Docker's own context, names. Raises RetainError for what goes wrong there,
    inside the block too."""
    try:
        with closing(docker.from_env(timeout=ANSWER_S)) as first:
            first.ping()
        client = docker.from_env(timeout=SILENCE_S)
    except (DockerException, RequestException) as error:
        where = os.environ.get("DOCKER_HOST") or "the usual socket"
        raise RetainError(
            f"no Docker engine answers at {where} ({_last(error)}). Start Docker, or set DOCKER_HOST to an engine that "
            "runs"
        ) from None
    try:
        yield client
    except (DockerException, RequestException) as error:
        raise RetainError(f"the Docker engine: {_explained(_last(error))}") from None
    finally:
        client.close()


def _context(root: Path, name: str, accelerator: str | None) -> Context:
    if name not in IMAGES:
        raise RetainError(f"ONLY={name}: no such image. Known: {', '.join(IMAGES)}")
    image = IMAGES[name]
    if accelerator is not None and accelerator not in image.accelerators:
        raise RetainError(f"ACCELERATOR={accelerator}: {name} is built for {' or '.join(image.accelerators)}")
    accelerator = accelerator or image.accelerators[0]
    if pins := outdated(root, image, accelerator):
        raise RetainError(
            f"{lock_file(image, accelerator)}: pyproject.toml pins {', '.join(pins)}. `make images.lock` resolves the "
            "libraries of the images anew"
        )
    return read_context(root, image, accelerator)


def _has(client: docker.DockerClient, reference: str) -> bool:
    try:
        client.images.get(reference)
    except ImageNotFound:
        return False
    return True


def _build(client: docker.DockerClient, context: Context, built_from: str, say: Say) -> None:
    name, began = context.image.name, time.monotonic()
    _have_base(client, say)
    data = context.archive()
    say(f"{name}: building {context.reference} from {len(data) / MB:.1f} MB")
    events = client.api.build(
        fileobj=io.BytesIO(data),
        custom_context=True,
        tag=context.reference,
        labels=_labels(context, built_from),
        buildargs={"RETAIN_COMMIT": built_from},
        platform=PLATFORM,
        rm=True,
        forcerm=True,
        decode=True,
    )
    _follow(events, name, began, say)
    size = client.images.get(context.reference).attrs["Size"] - client.images.get(BASE).attrs["Size"]
    say(f"{name}: built in {time.monotonic() - began:.0f} s, {size / MB:,.0f} MB beyond {BASE}")


def _labels(context: Context, built_from: str) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": context.image.repository,
        "org.opencontainers.image.description": context.image.what,
        "org.opencontainers.image.revision": built_from,
        "org.opencontainers.image.base.name": BASE,
        "retain.code": context.code_digest,
        "retain.accelerator": context.accelerator,
    }


def _have_base(client: docker.DockerClient, say: Say) -> None:
    if _has(client, BASE):
        return
    say(f"pulling {BASE}")
    try:
        client.images.pull(BASE, platform=PLATFORM)
    except APIError as error:
        raise RetainError(
            f"the Docker engine has no {BASE} and can't pull it ({_last(error)}). Images are built on top of it: run "
            f"`docker pull {BASE}` where a registry can be reached, and `docker save` and `docker load` bring it here"
        ) from None


def _follow(events: Iterable[dict[str, Any]], name: str, began: float, say: Say) -> None:
    """Says each step as it begins. Raises RetainError for one that failed, with the end of its output."""
    step, lines = "", deque[str](maxlen=LAST_LINES)
    for event in events:
        if "error" in event:
            # pip, for one, says that the disk is full, and the engine only that pip failed.
            said = next((line for line in lines if FULL in line.lower()), event["error"])
            output = "".join(f"\n  {line}" for line in lines)
            raise RetainError(f"{name}: {step or 'the build'} failed: {_explained(said)}{output}")
        text = COLOUR.sub("", event.get("stream", ""))
        if match := STEP.match(text):
            number, count, instruction = match.groups()
            step = f"step {number} of {count}, {' '.join(instruction.split())[:80]}"
            lines.clear()
            say(f"{name}: {time.monotonic() - began:5.0f} s  {step}")
        else:
            lines.extend(line for line in text.splitlines() if line.strip() and not line.startswith(BUILDERS_OWN))


def _push(client: docker.DockerClient, context: Context, registry: str, say: Say) -> str:
    """Pushes the image under its tag and returns the reference that pins it by digest."""
    repository = f"{registry}/{context.image.repository}"
    client.images.get(context.reference).tag(repository, context.tag)
    say(f"{context.image.name}: pushing {repository}:{context.tag}")
    digest = None
    for event in client.api.push(repository, tag=context.tag, stream=True, decode=True):
        if "error" in event:
            raise RetainError(
                f"{repository}: can't be pushed: {_explained(event['error'])}. If the registry asks for an account: "
                f"`docker login {registry.split('/')[0]}`"
            )
        digest = event.get("aux", {}).get("Digest", digest)
    if digest is None:
        raise RetainError(f"{repository}: the registry named no digest of what was pushed, so it can't be pinned")
    say(f"{context.image.name}: pushed as {digest}")
    return f"{repository}@{digest}"


def _explained(message: str) -> str:
    """What the engine says, with what to do about it where that is known."""
    message = EXIT_CODE.sub(r"it \1", " ".join(message.split()))
    if FULL in message.lower():
        return f"{message}. The engine's disk is full: `docker system df` shows what takes it"
    return message


def _last(error: Exception) -> str:
    """The innermost reason: requests wrap it several times."""
    if isinstance(error, APIError):
        return str(error.explanation or error)
    return " ".join(str(error).split())


def _read_pushed(root: Path) -> dict[str, Pushed]:
    stored = FolderStore(root / "build").read(PUSHED)
    try:
        return _ALL_PUSHED.validate_json(stored[0]) if stored else {}
    except ValidationError:
        raise RetainError(f"{root / 'build' / PUSHED}: damaged; remove it and push again") from None


def _write_pushed(root: Path, pushed: dict[str, Pushed]) -> None:
    if pushed != _read_pushed(root):
        FolderStore(root / "build").write(PUSHED, canonical(_ALL_PUSHED.dump_python(pushed, mode="json")))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m images.build", description="Builds the container images.")
    parser.add_argument("--only", help="names of images, with commas between them; all unless given")
    parser.add_argument("--push", metavar="REGISTRY", help="push them there, and pin their digests")
    parser.add_argument("--accelerator", help="cuda: the variant with CUDA, of images that have one")
    options = parser.parse_args(arguments)
    names = options.only.split(",") if options.only else list(IMAGES)
    began = time.monotonic()
    try:
        made = build(ROOT, names, options.accelerator or None, options.push or None)
    except RetainError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; what was built is kept, and the next `make images` goes on from there", file=sys.stderr)
        return 130
    print(f"{len(made)} images in {time.monotonic() - began:.1f} s:")
    for reference in made.values():
        print(f"  {reference}")
    return 0


if __name__ == "__main__":
    make_decoration()
    sys.exit(main())
