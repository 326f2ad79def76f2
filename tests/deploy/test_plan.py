"""The steps of a canary, and a demo's time."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.plan import DEMO, PLAN, read_plan, time_scale
from engine.errors import RetainError
from engine.store import FolderStore
from retain.rollout import Plan


def test_the_playbook_s_canary_is_watched_for_a_day() -> None:
    plan = read_plan()
    assert plan.percents[0] == 5
    assert plan.watch_s == 86_400


def test_a_demo_s_time_runs_faster_and_no_other_store_s(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    assert time_scale(store) == 1
    store.write(DEMO, b'{"time_scale": 60}')
    assert time_scale(store) == 60
    assert read_plan(time_scale(store)) == Plan(percents=read_plan().percents, watch_s=1440)


@pytest.mark.parametrize(
    "demo",
    ["", "60", "{}", '{"time_scale": 0.5}', '{"time_scale": 1e9}', '{"time_scale": NaN}', '{"time_scale": "60"}'],
)
def test_a_demo_that_says_anything_else_is_refused(tmp_path: Path, demo: str) -> None:
    store = FolderStore(tmp_path)
    store.write(DEMO, demo.encode())
    with pytest.raises(RetainError, match=rf"^{tmp_path}/DEMO: [^\n]+$"):
        time_scale(store)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("percents: [5, 25]", "watch_hours: Field required"),
        ("percents: [25, 5]\nwatch_hours: 24", "the percents of a canary have to rise"),
        ("percents: [5, 100]\nwatch_hours: 24", "percents.1: "),
        ("percents: []\nwatch_hours: 24", "percents: "),
        ("percents: [5]\nwatch_hours: 0", "watch_hours: "),
        ("percents: [5]\nwatch_hours: .nan", "watch_hours: "),
        ("percents: [5]\nwatch_hours: 24\nforce: true", "force: "),
        ("percents: [5\n", "can't be read as YAML"),
        ("a: 2020-01-01", "can't be read as YAML"),
        ("", "Input should be an object"),
    ],
)
def test_a_plan_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / PLAN.name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RetainError) as raised:
        read_plan(path=path)
    assert str(raised.value).startswith(f"{path}: ")
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_plan_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetainError, match=f"^{tmp_path}/none.yaml: "):
        read_plan(path=tmp_path / "none.yaml")
