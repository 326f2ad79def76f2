"""Where a rollout stands for one process: what a look finds, and what is taken for the worst."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from engine.artifact import canonical
from engine.document import Document
from engine.store import FolderStore
from retain.lease import LEASE_SECONDS, Lease
from retain.rollout import (
    BASELINE_ONLY,
    Rollout,
    accept,
    advance,
    effective,
    lease_key,
    propose,
    roll_back,
    rollout_key,
)
from serve.standing import SETTINGS_RULE, Looks, Seen, Standing, standing
from tests.rollouts import ACCEPTED, ANN, CHAMPION, GOOD, MISSED, PARTS, PLAN, evidence

SHADOW = propose(None, CHAMPION, GOOD, **ANN)
CANARY = advance(SHADOW, "canary", evidence(SHADOW), PLAN, **ANN)
KEY = rollout_key("toy")


class Machine:
    """A store, and one process that looks at it with a clock of its own."""

    def __init__(self, root: Path) -> None:
        self.store = FolderStore(root)
        self.now = 1000.0
        self.looks = Looks(str(root), "toy", lambda: self.now)
        self.seen = Seen()
        self.count = 0
        root.mkdir(exist_ok=True)

    def put(self, rollout: Rollout) -> None:
        Document(self.store, KEY, Rollout).change(lambda _: rollout)

    def renew(self, generation: int) -> None:
        self.count += 1
        lease = Lease(holder="controller", generation=generation, count=self.count)
        Document(self.store, lease_key("toy"), Lease).change(lambda _: lease)

    def look(self, seconds: float = 1.0) -> Standing:
        self.now += seconds
        self.seen = self.looks.look()
        return self.stands()

    def stands(self, force: bool = False, percent: float | None = None) -> Standing:
        return standing(self.seen, force, percent, self.now)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "store")


def test_without_a_rollout_the_settings_rule(machine: Machine) -> None:
    assert machine.look() == SETTINGS_RULE
    assert not SETTINGS_RULE.rules


def test_before_the_first_look_nobody_is_decided_about_but_by_the_baseline(machine: Machine) -> None:
    stands = machine.stands()
    assert (stands.served, stands.rules) == (BASELINE_ONLY, True)


def test_a_challenger_is_served_as_long_as_its_lease_is_seen_to_be_renewed(machine: Machine) -> None:
    machine.put(CANARY)
    machine.renew(CANARY.generation)
    assert machine.look().served.percent == 0  # it may have been renewed long ago
    machine.renew(CANARY.generation)
    stands = machine.look()
    assert stands.served == effective(CANARY, True, False, None)
    assert stands.until == machine.now - 1 + LEASE_SECONDS
    machine.now = stands.until
    assert machine.stands().served.percent == 5
    machine.now += 0.001
    assert machine.stands().served == effective(CANARY, False, False, None)
    assert machine.stands(force=True).served.percent == 0


def test_the_smaller_percent_rules_and_force_baseline_ends_it(machine: Machine) -> None:
    machine.put(CANARY)
    machine.renew(CANARY.generation)
    machine.look()
    machine.renew(CANARY.generation)
    machine.look()
    assert [machine.stands(percent=percent).served.percent for percent in (None, 50.0, 2.0, 0.0)] == [5, 5, 2, 0]
    assert machine.stands(force=True, percent=50.0).served.percent == 0


def test_another_generation_wants_a_lease_of_its_own(machine: Machine) -> None:
    machine.put(SHADOW)
    for _ in range(2):
        machine.renew(SHADOW.generation)
        machine.look()
    machine.put(CANARY)
    machine.renew(SHADOW.generation)
    assert machine.look().served.percent == 0
    machine.renew(CANARY.generation)
    assert machine.look().served.percent == 5


def test_rolled_back_it_is_gone_at_the_next_look(machine: Machine) -> None:
    machine.put(CANARY)
    for _ in range(2):
        machine.renew(CANARY.generation)
        machine.look()
    machine.put(roll_back(CANARY, by="controller", why="errors", at=1))
    machine.renew(CANARY.generation)
    assert machine.look().served == BASELINE_ONLY


@pytest.mark.parametrize("trouble", ["damaged", "gone", "store gone"])
def test_what_cant_be_read_is_the_baseline_until_it_can(machine: Machine, trouble: str) -> None:
    machine.put(CANARY)
    for _ in range(2):
        machine.renew(CANARY.generation)
        machine.look()
    path, root = machine.store.root / KEY, machine.store.root
    content = path.read_bytes()
    if trouble == "damaged":
        path.write_bytes(content.replace(b"learned", b"unheard"))
    elif trouble == "gone":
        path.unlink()
    else:
        root.rename(root.with_name("away"))
        root.write_text("a file in its place")
    for _ in range(3):
        stands = machine.look()
        assert (stands.served, stands.rules, stands.until) == (BASELINE_ONLY, True, -math.inf)
        assert stands.problem is not None
        assert "the rollout can't be followed: " in stands.problem
        assert stands.rollout == CANARY  # whose learned arm is kept
    if trouble == "store gone":
        root.unlink()
        root.with_name("away").rename(root)
    else:
        path.write_bytes(content)
    machine.renew(CANARY.generation)
    assert machine.look().served.percent == 5


def test_an_older_copy_brings_back_nothing_that_was_rolled_back(machine: Machine) -> None:
    machine.put(CANARY)
    machine.look()
    copy = (machine.store.root / KEY).read_bytes()
    machine.put(roll_back(CANARY, by="controller", why="errors", at=1))
    machine.look()
    (machine.store.root / KEY).write_bytes(copy)
    for _ in range(3):
        machine.renew(CANARY.generation)
        stands = machine.look()
        assert stands.served == BASELINE_ONLY
        assert "perhaps an older copy" in (stands.problem or "")
    machine.looks = Looks(str(machine.store.root), "toy", lambda: machine.now)  # a restart goes by what is there
    for _ in range(2):
        machine.renew(CANARY.generation)
        machine.look()
    assert machine.stands().served.percent == 5


def test_a_rollout_that_was_moved_away_is_gone_for_a_new_process_too(machine: Machine) -> None:
    machine.put(CANARY)
    machine.renew(CANARY.generation)
    (machine.store.root / KEY).unlink()
    stands = machine.look()
    assert (stands.served, stands.rules) == (BASELINE_ONLY, True)
    assert "is gone, though it was there before" in (stands.problem or "")


def test_a_store_whose_folder_is_gone_is_not_made_anew(machine: Machine) -> None:
    machine.put(CANARY)
    machine.look()
    shutil.rmtree(machine.store.root)
    assert machine.look().served == BASELINE_ONLY
    assert not machine.store.root.exists()


def test_a_damaged_lease_is_none(machine: Machine) -> None:
    machine.put(CANARY)
    for _ in range(2):
        machine.renew(CANARY.generation)
        machine.look()
    (machine.store.root / lease_key("toy")).write_bytes(b"{}")
    assert machine.look().served.percent == 0


def test_a_store_that_hangs_ends_the_trial_and_what_it_had_said_of_the_settings(machine: Machine) -> None:
    machine.look()
    machine.now += LEASE_SECONDS
    assert machine.stands() == SETTINGS_RULE
    machine.now += 0.001
    assert (machine.stands().served, machine.stands().rules) == (BASELINE_ONLY, True)


def test_a_rollout_is_parsed_when_it_changes_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.put(CANARY)
    machine.look()
    monkeypatch.setattr(Document, "_parsed", lambda *_: pytest.fail("parsed again"))
    assert machine.look().rollout is machine.seen.rollout is not None


def test_an_acceptance_is_part_of_what_is_served(machine: Machine) -> None:
    shadow = propose(None, CHAMPION, MISSED, **ANN)
    accepted = accept(shadow, ACCEPTED, PARTS[MISSED], at=2)
    machine.put(accepted)
    assert machine.look().served.accepted == (ACCEPTED,)
    assert canonical(accepted.model_dump(mode="json")) == (machine.store.root / KEY).read_bytes()
