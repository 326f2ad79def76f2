"""Where values come from: every tag in ops/ points to a line of docs/FACTS.md, or gives its reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.documents import read
from tests.shipped import YAML_FILES

IDS = re.findall(r'^- <a id="([a-z0-9-]+)"></a>\*\*([a-z0-9-]+)\*\*:', read("docs/FACTS.md"), flags=re.MULTILINE)


def tags(text: str) -> list[str]:
    """Of [facts: NAME] and [playbook: NAME], the line of FACTS.md that each points to; a bare tag points nowhere."""
    found = re.findall(r"\[(facts|playbook)(?:: ([a-z0-9-]+))?\]", text)
    return [f"{'playbook-' if kind == 'playbook' else ''}{name}" for kind, name in found]


def test_every_line_has_one_name() -> None:
    assert IDS
    assert [name for anchor, name in IDS if anchor != name] == []
    assert len({name for _, name in IDS}) == len(IDS)
    assert len(IDS) == read("docs/FACTS.md").count("<a id=")


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.stem)
def test_every_tag_points_to_a_line(path: Path) -> None:
    names = {name for _, name in IDS} | {"NAME"}  # as the head of a file writes it
    text = path.read_text()
    assert [tag for tag in tags(text) if tag not in names and tag != "playbook-NAME"] == []


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.stem)
def test_what_is_ours_says_why(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [line for line in lines if re.search(r"\[ours\]\W*$", line)] == []


def test_the_check_sees_tags() -> None:
    assert tags("# [facts: drift] and [playbook: sft], [facts]") == ["drift", "playbook-sft", ""]
