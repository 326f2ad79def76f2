"""Building, as far as it can be tested without an engine: what is built, what is said, what goes wrong."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound

from engine.errors import RetainError
from engine.fingerprint import ROOT
from images import build as building
from images.build import build, main, references
from images.context import read_context
from images.table import BASE, IMAGES
from tests.images.checkouts import append, copy

DIGEST = f"sha256:{'ab' * 32}"
STEP = {"stream": "Step 4/14 : RUN pip   install -r lock.txt\n"}


class Engine:
    """The few calls of a Docker engine that images.build makes. `says` are the events of a build."""

    def __init__(self, has: list[str], says: list[dict[str, Any]] | None = None, pull: str | None = None) -> None:
        self.has, self.says, self.cannot_pull = set(has), says or [], pull
        self.built: list[dict[str, Any]] = []
        self.pushed: list[str] = []
        self.images = SimpleNamespace(get=self._get, pull=self._pull)
        self.api = SimpleNamespace(build=self._build, push=self._push)

    def _get(self, reference: str) -> Any:
        if reference not in self.has:
            raise ImageNotFound(f"no {reference}")
        return SimpleNamespace(
            attrs={"Size": 5_000_000}, tag=lambda repository, tag: self.has.add(f"{repository}:{tag}")
        )

    def _pull(self, reference: str, platform: str) -> None:
        if self.cannot_pull:
            raise APIError("500 Server Error", explanation=self.cannot_pull)
        self.has.add(reference)

    def _build(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        self.built.append(arguments)
        yield from self.says
        self.has.add(arguments["tag"])

    def _push(self, repository: str, tag: str, **_: Any) -> Iterator[dict[str, Any]]:
        self.pushed.append(f"{repository}:{tag}")
        yield {"status": "Pushing"}
        yield self.says[-1] if self.says else {"aux": {"Tag": tag, "Digest": DIGEST}}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy(tmp_path)


def use(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Engine:
    @contextmanager
    def engine_at_hand() -> Iterator[Engine]:
        yield engine

    monkeypatch.setattr(building, "engine", engine_at_hand)
    return engine


def reference(root: Path, name: str, accelerator: str = "cpu") -> str:
    return read_context(root, IMAGES[name], accelerator).reference


def test_only_what_is_missing_is_built_with_labels_and_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    serve, tabular = reference(ROOT, "serve"), reference(ROOT, "tabular")
    engine = use(Engine([BASE, serve], [STEP]), monkeypatch)
    said: list[str] = []
    assert build(ROOT, ["serve", "tabular"], say=said.append) == {"serve": serve, "tabular": tabular}
    (one,) = engine.built
    assert one["tag"] == tabular
    context = read_context(ROOT, IMAGES["tabular"], "cpu")
    assert one["labels"]["org.opencontainers.image.revision"] == one["buildargs"]["RETAIN_COMMIT"]
    assert one["labels"]["retain.code"] == context.code_digest
    assert one["labels"]["retain.accelerator"] == "cpu"
    assert one["fileobj"].getvalue() == context.archive()
    assert said[0] == f"serve: {serve} is there"
    assert any("step 4 of 14, RUN pip install -r lock.txt" in line for line in said)
    engine.built.clear()
    build(ROOT, ["serve", "tabular"], say=said.append)
    assert engine.built == []


def test_the_variant_with_cuda_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = use(Engine([BASE]), monkeypatch)
    build(ROOT, ["gpu"], "cuda", say=lambda line: None)
    (one,) = engine.built
    assert one["tag"] == reference(ROOT, "gpu", "cuda") != reference(ROOT, "gpu")
    assert one["labels"]["retain.accelerator"] == "cuda"


def test_a_step_that_fails_is_named_with_the_end_of_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    says = [
        {"stream": "Step 3/14 : COPY lock.txt /opt\n"},
        {"stream": " ---> 5e66e9b237de\nof another step\n"},
        STEP,
        *({"stream": f"line {number}\n"} for number in range(100)),
        {"stream": "Removing intermediate container abea011e442c\n"},
        {"error": "The command '/bin/sh -c pip install -r lock.txt' returned a non-zero code: 1"},
    ]
    use(Engine([BASE], says), monkeypatch)
    with pytest.raises(RetainError) as raised:
        build(ROOT, ["serve"], say=lambda line: None)
    first, *rest = str(raised.value).splitlines()
    assert first == "serve: step 4 of 14, RUN pip install -r lock.txt failed: it returned a non-zero code: 1"
    assert rest == [f"  line {number}" for number in range(85, 100)]


@pytest.mark.parametrize(
    "says",
    [
        [{"error": "write /opt/venv/lib/x.so: no space left on device"}],
        [  # as pip says it, inside a step
            {"stream": "\x1b[91mERROR: Could not install packages: [Errno 28] No space left on device\n\x1b[0m"},
            {"stream": "\x1b[91mand then some\n\x1b[0m"},
            {"error": "The command '/bin/sh -c sh /opt/install.sh' returned a non-zero code: 1"},
        ],
    ],
    ids=["engine", "pip"],
)
def test_a_full_disk_says_where_to_look(monkeypatch: pytest.MonkeyPatch, says: list[dict[str, Any]]) -> None:
    use(Engine([BASE], [STEP, *says]), monkeypatch)
    with pytest.raises(RetainError) as raised:
        build(ROOT, ["serve"], say=lambda line: None)
    first = str(raised.value).splitlines()[0]
    assert first.startswith("serve: step 4 of 14, RUN pip install -r lock.txt failed: ")
    assert first.lower().endswith(
        "no space left on device. the engine's disk is full: `docker system df` shows what takes it"
    )
    assert "\x1b" not in str(raised.value)


def test_the_base_image_is_pulled_or_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = use(Engine([]), monkeypatch)
    build(ROOT, ["serve"], say=lambda line: None)
    assert BASE in engine.has
    use(Engine([], pull="dial tcp: no such host"), monkeypatch)
    with pytest.raises(RetainError) as raised:
        build(ROOT, ["serve"], say=lambda line: None)
    assert f"has no {BASE} and can't pull it (dial tcp: no such host)" in str(raised.value)
    assert f"`docker pull {BASE}`" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_no_engine_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert main(["--only", "serve"]) == 2
    gc.collect()  # the Docker SDK leaves the socket open by which it found no engine
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no Docker engine answers at unix:///nowhere/docker.sock (")
    assert line.endswith("Start Docker, or set DOCKER_HOST to an engine that runs")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "tabulr"], "ONLY=tabulr: no such image. Known: tabular, gpu, serve, orchestrator"),
        (["--only", "serve", "--accelerator", "cuda"], "ACCELERATOR=cuda: serve is built for cpu"),
        (["--only", "gpu", "--accelerator", "tpu"], "ACCELERATOR=tpu: gpu is built for cpu or cuda"),
        (["--push", "https://registry.example.com"], "PUSH=https://registry.example.com: wants a registry such as"),
    ],
)
def test_what_make_is_given_is_checked_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    engine = use(Engine([BASE]), monkeypatch)
    assert main(arguments) == 2
    assert says in capsys.readouterr().err
    assert engine.built == engine.pushed == []


def test_what_was_pushed_is_run_by_its_digest_until_the_code_changes(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = use(Engine([BASE]), monkeypatch)
    made = build(checkout, ["tabular", "gpu"], registry="127.0.0.1:5000/team", say=lambda line: None)
    pinned = {name: f"127.0.0.1:5000/team/retain/{name}@{DIGEST}" for name in ("tabular", "gpu")}
    assert made == pinned
    assert engine.pushed == [f"127.0.0.1:5000/team/{reference(checkout, name)}" for name in ("tabular", "gpu")]
    use(Engine([]), monkeypatch)  # nothing is left here
    assert references(checkout) == pinned
    append(checkout / "ops/configs/experiment_chaos.yaml", "\n# changed\n")  # of tabular alone
    with pytest.raises(RetainError, match=r"has no retain/tabular:[0-9a-f]{12}\. Run `make images`"):
        references(checkout)
    use(Engine([reference(checkout, "tabular")]), monkeypatch)
    assert references(checkout) == pinned | {"tabular": reference(checkout, "tabular")}


def test_the_pushed_variant_with_cuda_is_run(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Engine([BASE, reference(checkout, "tabular"), reference(checkout, "gpu")]), monkeypatch)
    build(checkout, ["gpu"], "cuda", registry="registry.example.com", say=lambda line: None)
    assert references(checkout) == {
        "tabular": reference(checkout, "tabular"),
        "gpu": f"registry.example.com/retain/gpu@{DIGEST}",
    }


def test_images_that_are_only_built_take_the_place_of_pushed_ones(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(Engine([BASE]), monkeypatch)
    build(checkout, ["tabular", "gpu"], registry="127.0.0.1:5000", say=lambda line: None)
    build(checkout, ["tabular"], say=lambda line: None)
    known = references(checkout)
    assert known["tabular"] == reference(checkout, "tabular")
    assert known["gpu"].endswith(DIGEST)


def test_what_is_neither_built_nor_pushed_is_all_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    use(Engine([]), monkeypatch)
    both = f"{reference(ROOT, 'tabular')} and no {reference(ROOT, 'gpu')}"
    with pytest.raises(RetainError, match=f"^the Docker engine has no {both}. Run `make images`, then this again$"):
        references(ROOT)


def test_a_registry_that_refuses_is_quoted(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Engine([BASE], [STEP]), monkeypatch)
    build(checkout, ["serve"], say=lambda line: None)
    use(Engine([BASE, reference(checkout, "serve")], [{"error": "denied: requested access"}]), monkeypatch)
    with pytest.raises(
        RetainError, match=r"can't be pushed: denied: requested access.*`docker login registry\.example"
    ):
        build(checkout, ["serve"], registry="registry.example.com/team", say=lambda line: None)
    assert not (checkout / "build/images.json").exists()


def test_a_damaged_record_of_pushed_images_is_named(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(Engine([]), monkeypatch)
    (checkout / "build").mkdir()
    (checkout / "build/images.json").write_text("{", encoding="utf-8")
    with pytest.raises(RetainError, match=r"build/images\.json: damaged; remove it and push again"):
        references(checkout)
