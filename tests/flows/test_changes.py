"""What a retrain says has changed, and what has come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import ledger
from engine.artifact import ArtifactStore
from engine.errors import BudgetExceeded, RetainError
from engine.store import FolderStore
from flows import changes
from flows.changes import Begun, begin, current_version, outcome
from flows.plan import Plan
from tests.flows.toy_plan import toy_plan

OLD, NEW = "a" * 12, "b" * 12
GROWN = "data of customers (sha256:1 -> sha256:2)"


def test_each_cause_is_said_once_and_no_consequence() -> None:
    causes = {
        "customers": ["source: sha256:1 -> sha256:2"],
        "campaigns": [],
        "risk": ["waits for customers: runs again if that comes out with other bytes"],
        "accept": ["code: retain/features.py changed", "config: booster.max_depth 6 -> 5"],
        "decision": ["code: retain/features.py changed"],
        "sft": ["libraries: torch 2.13.0 -> 2.14.0", "inputs: base has other bytes (1 -> 2)"],
        "release": ["has never completed"],
    }
    assert changes.changes(causes) == [
        GROWN,
        "code of accept, decision (retain/features.py changed)",
        "config of accept (booster.max_depth 6 -> 5)",
        "libraries of sft (torch 2.13.0 -> 2.14.0)",
        "input of sft (base has other bytes (1 -> 2))",
        "release has never completed",
    ]
    assert changes.changes({"risk": [], "release": []}) == []


@pytest.mark.parametrize(
    ("begun", "now", "says"),
    [
        (Begun(release=OLD, changed=()), OLD, f"nothing changed: no new release, {OLD} stays the current one"),
        (Begun(release=OLD, changed=(GROWN,)), NEW, f"release {NEW} is new, after {OLD}. Changed: {GROWN}"),
        (Begun(release=None, changed=(GROWN,)), NEW, f"release {NEW} is new, the first. Changed: {GROWN}"),
        (
            Begun(release=OLD, changed=(GROWN,)),
            OLD,
            f"no new release, {OLD} stays the current one: all came out with the same bytes. Changed: {GROWN}",
        ),
        (
            Begun(release=NEW, changed=()),
            OLD,
            f"no new release: data and code are again those of {OLD}, which is the current one now",
        ),
    ],
)
def test_the_outcome_is_one_line(begun: Begun, now: str, says: str) -> None:
    assert outcome(begun, now) == says


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return toy_plan(tmp_path / "store")


def made(plan: Plan, folder: Path, *stages: str) -> None:
    """The artifacts of these stages, as a run would leave them."""
    folder.mkdir(exist_ok=True)
    for name in stages:
        identity = plan.standing()[name]
        assert identity is not None
        (folder / "made.json").write_text(f'"{name}"')
        plan.artifacts.publish(name, identity.fingerprint, folder)
        plan.artifacts.set_current(name, identity.fingerprint)


ALL = ("customers", "risk", "accept", "release")


def test_a_run_that_comes_back_knows_what_it_began_with(plan: Plan, tmp_path: Path) -> None:
    """By then it has made what had changed."""
    begun = begin(plan, "flow-run-1")
    assert begun == Begun(release=None, changed=("customers has never completed",))
    made(plan, tmp_path / "making", *ALL)
    assert begin(plan, "flow-run-1") == begun
    assert begin(plan, "flow-run-2") == Begun(release=current_version(plan.artifacts), changed=())
    assert begin(plan, "") == begin(plan, "flow-run-2")


def test_what_it_began_with_is_damaged(plan: Plan) -> None:
    plan.store.write("retrains/flow-run-1.json", b"{}")
    with pytest.raises(RetainError, match=r"retrains/flow-run-1\.json: doesn't say what a retrain began with; remove"):
        begin(plan, "flow-run-1")


def test_nothing_is_begun_that_the_budget_can_not_end(plan: Plan, tmp_path: Path) -> None:
    scope = plan.experiment.costs.scope
    ledger.set_cap(plan.store, scope, 0.001)
    with pytest.raises(
        BudgetExceeded, match=r"^refused before anything started: customers alone would reserve \$0\.0"
    ) as e:
        begin(plan, "flow-run-1", around_s=30.0)
    assert f"{scope}: metered $0.0000" in str(e.value)
    assert "cap $0.001" in str(e.value)
    assert "\n" not in str(e.value)
    assert list(plan.store.list("retrains")) == []
    made(plan, tmp_path / "making", *ALL)
    assert begin(plan, "flow-run-1").changed == ()  # which costs nothing


def test_a_run_that_comes_back_is_not_refused_for_its_own_money(plan: Plan) -> None:
    begun = begin(plan, "flow-run-1")
    ledger.set_cap(plan.store, plan.experiment.costs.scope, 0.001)
    assert begin(plan, "flow-run-1") == begun


def test_there_may_be_no_current_release(tmp_path: Path) -> None:
    assert current_version(ArtifactStore(FolderStore(tmp_path), "toy")) is None
