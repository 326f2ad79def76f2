"""Every document names what exists (targets, paths, links, keys), and its figures are the committed ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine import config
from eval import docs
from tests.docs.documents import PROJECT, has_key, named_paths, named_targets, quoted, read, targets

NAMES = [path.relative_to(PROJECT).as_posix() for path in docs.documents(PROJECT)]
LOCKED = config.load(config.experiment_path("exp_001_mvp"))


def anchors(path: Path) -> set[str]:
    """Where links may lead inside a document: its headings, as GitHub names them, and ids that are set."""
    text = path.read_text()
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)">', text))


def test_they_are_all_looked_at() -> None:
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/SETTINGS.md", "docs/FACTS.md", "ops/README.md"} <= {
        *NAMES
    }


@pytest.mark.parametrize("name", NAMES)
def test_make_targets_exist(name: str) -> None:
    assert named_targets(read(name)) <= targets()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "docs/PLAYBOOK.md"])
def test_paths_exist(name: str) -> None:
    """The playbook's rows say themselves what is still to come (test_playbook.py)."""
    made_here = ("artifacts", "bench/results", "build", "eval/results", "infra/secrets.env", "deploy/secrets.env")
    folder = (PROJECT / name).parent
    paths = [path for path in named_paths(read(name)) if not path.startswith(made_here)]
    assert [path for path in paths if not ((PROJECT / path).exists() or (folder / path).exists())] == []


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (PROJECT / name).parent / path if path else PROJECT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", NAMES)
def test_keys_of_an_experiment_exist(name: str) -> None:
    tops = {key for key in LOCKED.data if isinstance(LOCKED.data[key], dict)}
    keys = [key for key in quoted(read(name)) if re.fullmatch(r"\w+(\.\w+)+", key) and key.split(".")[0] in tops]
    assert [key for key in keys if not has_key(LOCKED.data, key)] == []


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_the_committed_ones(name: str) -> None:
    """`make docs` puts them there; nothing is trained for it."""
    text = read(name)
    assert docs.render(text) == text
    assert text.count("<!-- figures:") == len(docs.MARKED.findall(text)) == text.count("<!-- /figures -->")


def test_rendered_figures_are_in_the_documents_that_contributing_names() -> None:
    """The first paragraph on figures links them, and says so of no other document."""
    (paragraph,) = re.findall(r"## Figures and documents\n\n(.+?)\n\n", read("CONTRIBUTING.md"), flags=re.DOTALL)
    marked = {name for name in NAMES if docs.MARKED.search(read(name))}
    assert marked == set(re.findall(r"\]\(([^)]+)\)", paragraph))


def test_every_kind_of_marker_is_used() -> None:
    """One that no document uses is deleted."""
    markers = [match["what"].split() for name in NAMES for match in docs.MARKED.finditer(read(name))]
    assert {words[0] for words in markers} == set(docs.KINDS)
    forms = {words[3] if len(words) > 3 else "share" for words in markers if words[0] == "metric"}
    assert forms == set(docs.FORMS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`make run` and `make nothing EXPERIMENT=local`", {"run", "nothing"}),
        ("```bash\nmake test # all\nEXPERIMENT=local make why\n```", {"test", "why"}),
        ("what they make of it", set()),
    ],
)
def test_the_check_sees_targets(text: str, found: set[str]) -> None:
    assert named_targets(text) == found


def test_the_check_sees_paths() -> None:
    assert named_paths("`docs/NOTHING.md`, `retain/wallet.py`, `POST /retain`, `application/json`") == [
        "docs/NOTHING.md",
        "retain/wallet.py",
    ]


def test_the_check_sees_keys() -> None:
    assert has_key(LOCKED.data, "stages.decision.threshold_offer")
    assert not has_key(LOCKED.data, "stages.decision.threshold_offer.nothing")
    assert not has_key(LOCKED.data, "stages.nothing")
