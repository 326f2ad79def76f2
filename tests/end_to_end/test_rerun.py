"""Run again: exactly what must, reruns, and `make why` names the cause."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.project import STAGES, Project, states

WORDS = ("prompts", "base", "sft", "rm", "judge", "ppo_text", "text_eval", "messages")  # prompts read from risk


@pytest.fixture(scope="module")
def project(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run with code and tables that may be changed."""
    return finished.apart(tmp_path_factory.mktemp("rerun"))


@pytest.fixture
def tables(project: Project) -> Project:
    """The same, of which a run wants no language model: those take a minute when risk changes."""
    return replace(project, wanted=("backtest", "decision"))


@contextmanager
def changed(path: Path, change: Callable[[str], str]) -> Iterator[None]:
    """The file with its text changed, and afterwards as it was."""
    before = path.read_text()
    after = change(before)
    assert after != before
    path.write_text(after)
    try:
        yield
    finally:
        path.write_text(before)


def expect(project: Project, reruns: dict[str, str], waits: tuple[str, ...] = (), reused: tuple[str, ...] = ()) -> None:
    """`reruns`: stage -> cause that `why` names; `waits`: those that follow; `reused`: wait, and come out reused."""
    causes = project.why()
    for stage, lines in causes.items():
        if project.wanted and stage not in ("customers", "campaigns", "risk", "accept", *project.wanted):
            continue
        if stage in reruns:
            assert any(reruns[stage] in line for line in lines), (stage, lines)
        elif stage in (*waits, *reused):
            assert lines[0].startswith("waits for"), (stage, lines)
        else:
            assert lines == [], (stage, lines)
    done = project.run()
    assert done.returncode == 0, done.stdout
    ran = {stage for stage, state in states(done.stdout).items() if state == "complete"}
    assert ran == {*reruns, *waits}
    assert set(states(done.stdout).values()) <= {"complete", "reused"}


def test_nothing_changed(project: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in project.store.rglob("execution/*")}
    assert project.why() == {stage: [] for stage in STAGES}
    done = project.run()
    assert done.returncode == 0
    assert states(done.stdout) == dict.fromkeys(STAGES, "reused")
    assert "Prefect" not in done.stdout  # no server, and so no import of it
    assert {path: path.stat().st_mtime_ns for path in project.store.rglob("execution/*")} == before


def test_a_hyperparameter_of_risk(project: Project, tables: Project) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    with changed(path, lambda text: text.replace("learning_rate: 0.2,", "learning_rate: 0.25,", 1)):
        expect(tables, {"risk": "config: booster.learning_rate 0.2 -> 0.25"}, waits=("decision",))
    assert project.why() == {stage: [] for stage in STAGES}  # back to what is there


def test_a_comment_a_docstring_and_layout(project: Project) -> None:
    path = project.root / "tasks/tabular/risk.py"
    with changed(path, lambda text: '"""Another docstring."""\n# and a comment\n\n\n' + text.split('"""', 2)[2]):
        expect(project, {})


@pytest.mark.slow
def test_a_threshold_in_criteria(project: Project) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    with changed(path, lambda text: text + "criteria:\n  risk:\n    auc: {at_least: 0.5}\n"):
        expect(project, {"release": "config: criteria.risk.auc.at_least 0.78 -> 0.5"})


@pytest.mark.slow
def test_a_hyperparameter_of_ppo(project: Project) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    with changed(path, lambda text: text.replace("ppo: {iterations: 8,", "ppo: {iterations: 6,", 1)):
        expect(project, {"decision": "config: ppo.iterations 8 -> 6"}, waits=("release",))
        curves = pq.read_table(io.BytesIO(project.artifacts()["decision/curves.parquet"]))
        assert max(curves["iteration"].to_pylist()) == 6


def test_a_criterion_of_the_decision_trains_nothing(project: Project) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    with changed(path, lambda text: text + "criteria:\n  decision:\n    lift_gain: {at_least: 0.11}\n"):
        expect(project, {"release": "config: criteria.decision.lift_gain.at_least 0.12 -> 0.11"})


def test_an_assumption(project: Project) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    with changed(path, lambda text: text.replace("  decision:\n", "  decision:\n    assumptions: {answered: 2}\n", 1)):
        causes = project.why()
    assert causes.pop("decision") == ["config: assumptions.answered 4 -> 2"]
    assert causes.pop("release")[0].startswith("waits for decision")
    assert set(map(tuple, causes.values())) == {()}


def test_what_an_agent_is_shown(project: Project) -> None:
    """What the release says of decisions is no part of what was learnt."""
    path = project.root / "ops/configs/experiment_chaos.yaml"
    change = "stages:\n  release: {decision: {reasons: 3}}\n"
    with changed(path, lambda text: text.replace("stages:\n", change, 1)):
        causes = project.why()
        assert any("config: decision.reasons 5 -> 3" in line for line in causes.pop("release"))
        assert causes == {stage: [] for stage in STAGES if stage != "release"}


# File of ops/messages, what is edited there, the stage whose configuration it changes, and those that wait for it.
AFTER_PROMPTS = ("base", "sft", "rm", "judge", "ppo_text", "text_eval", "messages", "release")
WORDS_EDITED = [
    ("templates", "should feel right", "should feel fair", "release", ()),
    ("guard", "words: {}", "words: {promise: [our new network]}", "release", ()),
    ("rules", "\nharmless:\n", "\nharmless:\n  - you never walk alone\n", "prompts", AFTER_PROMPTS),
    ("phrases", "    - the price\n", "    - the charge\n", "prompts", AFTER_PROMPTS),
    ("cues", "0.5: hope\n", "0.5: hope, cheer*\n", "judge", ("text_eval", "release")),
]


@pytest.mark.parametrize(("name", "before", "after", "stage", "waits"), WORDS_EDITED, ids=[e[0] for e in WORDS_EDITED])
def test_an_edit_of_words(
    project: Project, name: str, before: str, after: str, stage: str, waits: tuple[str, ...]
) -> None:
    """As `make why` says it; tests/flows/test_words.py tries more edits, and what runs where bytes stay equal."""
    with changed(project.root / f"ops/messages/{name}.yaml", lambda text: text.replace(before, after, 1)):
        causes = {name: lines for name, lines in project.why().items() if lines}
    # Compared with the last run's artifact, which an earlier test may have made with a change of its own.
    assert any(line.startswith(f"config: {name}") for line in causes.pop(stage))
    assert all(lines[0].startswith("waits for") for lines in causes.values())
    assert causes.keys() == {*waits}


@pytest.mark.slow
def test_the_code_of_the_learner_that_makes_no_difference(project: Project) -> None:
    path = project.root / "tasks/decision/ppo_lagrangian.py"
    with changed(path, lambda text: text + "\n_UNUSED = 1\n"):
        expect(project, {"decision": "code: tasks/decision/ppo_lagrangian.py changed"}, reused=("release",))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("budget: 0.0", "a budget of 0 contacts nobody, so there is nothing to learn"),
        ("offers: {levels: []}", "key 'stages.decision.offers.levels' is []"),
        ("offers: {levels: [0, 5, 5, 20]}", "levels [0, 5, 5, 20]: wants rising percentages, each once"),
        ("threshold_offer: 15", "threshold_offer 15 is not one of levels [0, 5, 10, 20]"),
    ],
)
def test_a_decision_that_can_not_be_meant_stops_before_anything_runs(project: Project, keys: str, words: str) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    before = sorted(project.store.rglob("*"))
    with changed(path, lambda text: text.replace("  decision:\n", f"  decision:\n    {keys}\n", 1)):
        done = project.run()
    assert done.returncode == 2
    (line,) = done.stdout.strip().splitlines()
    assert line.startswith("error: ")
    assert "experiment_chaos.yaml:" in line
    assert words in line
    assert sorted(project.store.rglob("*")) == before


@pytest.mark.slow
def test_one_byte_of_the_table(project: Project, tables: Project) -> None:
    (path,) = project.data.glob("Telco*.csv")
    header, first, rest = path.read_text().split("\n", 2)
    other = first.replace(",Yes,", ",No,", 1) if ",Yes," in first else first.replace(",No,", ",Yes,", 1)
    with changed(path, lambda text: "\n".join([header, other, rest])):
        # Of two digests `why` leaves out what they have in common, which may be their first digits.
        expect(tables, {"customers": "source: "}, waits=("risk", "decision"))


@pytest.mark.slow
def test_the_code_of_one_stage(project: Project) -> None:
    path = project.root / "tasks/tabular/backtest.py"
    with changed(path, lambda text: text + "\n_UNUSED = 1\n"):
        expect(project, {"backtest": "code: tasks/tabular/backtest.py changed"})


@pytest.mark.slow
def test_shared_code_that_makes_no_difference_stops_at_equal_bytes(project: Project) -> None:
    path = project.root / "tasks/tabular/gbm.py"
    cause = "code: tasks/tabular/gbm.py changed"
    with changed(path, lambda text: text + "\n_UNUSED = 1\n"):
        causes = dict.fromkeys(("risk", "accept", "backtest"), cause)
        expect(project, causes, reused=("decision", *WORDS, "release"))


def test_a_hyperparameter_of_sft(project: Project) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    with changed(path, lambda text: text.replace("max_steps: 20\n", "max_steps: 16\n", 1)):
        causes = project.why()
        assert causes.pop("sft") == ["config: max_steps 20 -> 16"]
        for stage in ("ppo_text", "text_eval", "messages", "release"):
            assert causes.pop(stage)[0].startswith("waits for")
        assert set(map(tuple, causes.values())) == {()}


@pytest.mark.slow
def test_what_ppo_is_paid_reruns_what_follows_from_it(project: Project) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    with changed(path, lambda text: text.replace("  ppo_text:\n", "  ppo_text:\n    rewards: {brevity: 0.7}\n", 1)):
        causes = {"ppo_text": "config: rewards.brevity 0.5 -> 0.7"}
        # Of so short a training SFT's own weights are kept, which write what they wrote before.
        expect(project, causes, waits=("text_eval", "messages"), reused=("release",))


def test_a_new_key_for_another_stage(project: Project) -> None:
    path = project.root / "tasks/config.py"
    with changed(path, lambda text: text + "\n\nclass StillToCome(Frozen):\n    steps: Count\n"):
        expect(project, {})


def test_a_seed(project: Project) -> None:
    path = project.root / "ops/configs/experiment_chaos.yaml"
    with changed(path, lambda text: text + "seed: 43\n"):
        causes = project.why()
        assert causes["customers"] == causes["campaigns"] == ["seed: 42 -> 43"]
