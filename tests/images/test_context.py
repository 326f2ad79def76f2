"""What is sent to the engine, and which changes of the checkout make another image."""

from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path

import pytest

from engine.errors import RetainError
from engine.fingerprint import ROOT, code_digests
from images.context import CODE, SHARED, read_context
from images.table import BASE, IMAGES, VARIANTS, Image, lock_file
from tasks.stages import STAGES
from tests.images.checkouts import append, copy

every_image = pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES.keys())
# The modules that an image's containers start, besides its stages.
ENTRIES = {
    "tabular": ["flows.train", "flows.retrain", "flows.promote", "flows.stage", "engine.__main__"],
    "gpu": ["flows.stage", "engine.__main__"],
    "serve": ["serve.__main__", "serve.worker", "serve.admin", "serve.messages", "deploy.controller"],
    "orchestrator": ["flows.witness"],
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copy(tmp_path)


def tags(root: Path) -> dict[str, str]:
    return {name: read_context(root, image, "cpu").tag for name, image in IMAGES.items()}


def changed(before: dict[str, str], root: Path) -> set[str]:
    return {name for name, tag in tags(root).items() if tag != before[name]}


def test_what_is_no_content_changes_no_tag(checkout: Path) -> None:
    before = tags(checkout)
    for path in checkout.rglob("*"):
        os.utime(path, (1, 1))
        if path.is_file():
            path.chmod(0o600)
    for name in ("docs/NEW.md", "tests/test_new.py", "artifacts/local/x.yaml", "engine/notes.md", "ops/README.md"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("new", encoding="utf-8")
    assert changed(before, checkout) == set()
    assert before == tags(copy(checkout / "again"))


@pytest.mark.parametrize(
    ("path", "images"),
    [
        ("engine/stage.py", {"tabular", "gpu", "serve", "orchestrator"}),
        ("retain/policy.py", {"tabular", "gpu", "serve"}),
        ("tasks/tabular/risk.py", {"tabular", "gpu"}),
        ("flows/run.py", {"tabular", "gpu", "orchestrator"}),
        ("ops/configs/experiment_chaos.yaml", {"tabular"}),
        ("serve/app.py", {"serve"}),
        ("deploy/people.py", {"tabular", "serve"}),
        ("images/locks/gpu-cpu.txt", {"tabular", "gpu"}),
        ("images/locks/serve.txt", {"tabular", "gpu", "serve"}),
        ("images/serve.Dockerfile", {"serve"}),
        ("images/install.sh", {"tabular", "gpu", "serve", "orchestrator"}),
        ("images/build.py", set()),
        ("pyproject.toml", set()),
    ],
)
def test_content_changes_the_tags_of_the_images_that_hold_it(checkout: Path, path: str, images: set[str]) -> None:
    before = tags(checkout)
    append(checkout / path, f"{'other' if 'locks' in path else '# changed'}==1 \\\n    --hash=sha256:0\n")
    assert changed(before, checkout) == images


def test_a_new_file_and_a_new_name_are_content(checkout: Path) -> None:
    before = tags(checkout)
    (checkout / "ops/configs/experiment_mine.yaml").write_text("extends: local\n", encoding="utf-8")
    assert changed(before, checkout) == {"tabular"}
    (checkout / "serve/app.py").rename(checkout / "serve/application.py")
    assert changed(before, checkout) == {"tabular", "serve"}


def test_accelerators_are_told_apart() -> None:
    cpu, cuda = (read_context(ROOT, IMAGES["gpu"], accelerator) for accelerator in ("cpu", "cuda"))
    assert cpu.tag != cuda.tag
    assert cpu.code_digest == cuda.code_digest


def test_the_code_digest_is_of_the_code_alone(checkout: Path) -> None:
    before = read_context(checkout, IMAGES["serve"], "cpu")
    append(checkout / "images/locks/serve.txt", "other==1 \\\n    --hash=sha256:0\n")
    locked_anew = read_context(checkout, IMAGES["serve"], "cpu")
    assert locked_anew.tag != before.tag
    assert locked_anew.code_digest == before.code_digest
    append(checkout / "serve/app.py", "\n# changed\n")
    assert read_context(checkout, IMAGES["serve"], "cpu").code_digest != before.code_digest


@pytest.mark.parametrize(
    ("image", "accelerator"), VARIANTS, ids=[f"{i.name}-{accelerator}" for i, accelerator in VARIANTS]
)
def test_a_lock_file_is_sent_in_parts_that_images_share(image: Image, accelerator: str) -> None:
    def parts(image: Image, accelerator: str = "cpu") -> dict[str, str]:
        files = read_context(ROOT, image, accelerator).files
        return {name: data.decode() for name, data in files.items() if name.endswith(".txt") and "/" not in name}

    own = parts(image, accelerator)
    dockerfile = (ROOT / image.dockerfile).read_text(encoding="utf-8")
    assert re.findall(r"^RUN sh /opt/install.sh /opt/(.*)$", dockerfile, flags=re.MULTILINE) == list(own)
    _, whole = (ROOT / lock_file(image, accelerator)).read_text(encoding="utf-8").split("\n", 1)
    assert sorted("".join(own.values()).splitlines()) == sorted(whole.splitlines())
    if "flows.txt" in own:  # so that the engine, which goes by content, has installed it for all of them
        assert {parts(IMAGES[name])["flows.txt"] for name in ("tabular", "gpu", "orchestrator")} == {own["flows.txt"]}
    if accelerator == "cpu" and "stages.txt" in own:
        assert parts(IMAGES["tabular"])["stages.txt"] == parts(IMAGES["gpu"])["stages.txt"]
        assert "torch==" in own["stages.txt"]


@every_image
def test_the_archive_holds_dockerfile_lock_and_code_and_nothing_else(image: Image, checkout: Path) -> None:
    planted = (".env", ".netrc", "credentials.json", "id_rsa", "key.pem", "prefect.toml", ".git/config", "x.pyc")
    for folder in {Path(name).parts[0] for name in image.code}:
        for name in planted:
            (checkout / folder / name).parent.mkdir(exist_ok=True)
            (checkout / folder / name).write_text("secret", encoding="utf-8")
    (checkout / "engine" / ".hidden.py").write_text("secret", encoding="utf-8")
    with tarfile.open(fileobj=io.BytesIO(read_context(checkout, image, "cpu").archive())) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    code = {name.removeprefix(CODE) for name in files if name.startswith(CODE)}
    around = files.keys() - {f"{CODE}{name}" for name in code}
    assert {"Dockerfile", "install.sh", "own.txt"} <= around <= {"Dockerfile", "install.sh", "own.txt", *SHARED}
    assert all(any(name == part or name.startswith(f"{part}/") for part in image.code) for name in code)
    assert all(Path(name).suffix in {".py", ".yaml", ".lock", ".txt"} for name in code)
    assert not [name for name, data in files.items() if data == b"secret"]
    assert sum(map(len, files.values())) < 3e6


def test_an_archive_has_the_same_bytes_whenever_it_is_made(checkout: Path) -> None:
    first = read_context(ROOT, IMAGES["serve"], "cpu").archive()
    for path in checkout.rglob("*"):
        os.utime(path, (1, 1))
    assert read_context(checkout, IMAGES["serve"], "cpu").archive() == first


@every_image
def test_an_image_has_all_code_that_its_containers_load(image: Image) -> None:
    entries = ENTRIES[image.name] + [stage.entry for stage in STAGES.values() if stage.image == image.name]
    loaded = {file for entry in entries for file in code_digests(entry)}
    assert loaded
    files = read_context(ROOT, image, "cpu").files
    assert {file for file in loaded if f"{CODE}{file}" not in files} == set()
    assert f"{CODE}engine/__main__.py" in files


def test_the_parent_has_the_code_of_every_stage_to_plan_it() -> None:
    files = read_context(ROOT, IMAGES["tabular"], "cpu").files
    code = {file for stage in STAGES.values() for file in code_digests(stage.entry)}
    assert {file for file in code if f"{CODE}{file}" not in files} == set()


@every_image
def test_a_dockerfile_needs_no_buildkit_and_ends_as_an_unprivileged_user_behind_an_init(image: Image) -> None:
    text = (ROOT / image.dockerfile).read_text(encoding="utf-8")
    assert not re.search(r"<<|--mount|# *syntax", text)
    assert {line.split()[1] for line in text.splitlines() if line.startswith("FROM ")} == {BASE}
    assert re.findall(r"^USER (.*)$", text, flags=re.MULTILINE) == ["10001:10001"]
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"]' in text


def test_a_missing_lock_file_is_named(checkout: Path) -> None:
    (checkout / "images/locks/serve.txt").unlink()
    with pytest.raises(RetainError, match=r"images/locks/serve\.txt: can't be read \(No such file"):
        read_context(checkout, IMAGES["serve"], "cpu")
