"""The lease: renewed while everything in the chain is alive, and left alone at any doubt."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.alerts import parse
from deploy.calls import Unanswered
from deploy.measured import Sample
from deploy.renewal import LOST_SECONDS, RENEW_SECONDS, ROUND_SECONDS, STUCK_SECONDS, Renewal
from deploy.watch import WATCHDOG_SECONDS
from engine import store as engine_store
from engine.document import Document
from engine.errors import StoreUnavailable
from engine.store import FolderStore
from retain.lease import LEASE_SECONDS, Lease
from retain.rollout import Rollout, advance, lease_key, propose, roll_back, rollout_key
from tests.deploy.alerting import body, watchdog
from tests.rollouts import ANN, CHAMPION, GOOD, PLAN, evidence

REPLICA = "127.0.0.1:8001"


class Chain:
    """Prometheus with one replica, and a clock that a test moves by hand. `takes`: seconds for an answer."""

    def __init__(self) -> None:
        self.now, self.takes = 1000.0, 0.0
        self.answers = self.up = True

    def ask(self, query: str) -> list[Sample]:
        asked = self.now
        self.now += self.takes
        if not self.answers:
            raise Unanswered("Prometheus at http://nowhere doesn't answer")
        return [Sample({"instance": REPLICA}, asked)] if self.up else []


class Scene:
    def __init__(self, root: Path) -> None:
        self.store = FolderStore(root)
        self.rollout = Document(self.store, rollout_key("toy"), Rollout)
        self.lease = Document(self.store, lease_key("toy"), Lease)
        self.chain = Chain()
        self.owing = False
        self.renewal = self.controller("first")

    def controller(self, holder: str) -> Renewal:
        return Renewal(
            self.rollout, self.lease, self.chain.ask, [REPLICA], holder, lambda: self.owing, lambda: self.chain.now
        )

    def pass_seconds(self, seconds: float, *renewals: Renewal, alive: bool = True) -> list[str | None]:
        """Rounds of controllers, and the watchdog as often; why each of the last round didn't renew the lease."""
        whys: list[str | None] = []
        end = self.chain.now + seconds
        while self.chain.now < end:
            self.chain.now += RENEW_SECONDS
            for renewal in renewals or (self.renewal,):
                if alive:
                    renewal.hear(parse(body(watchdog(self.chain.now))).alerts[0])
            whys = [renewal.round().why for renewal in renewals or (self.renewal,)]
        return whys

    @property
    def count(self) -> int:
        lease = self.lease.read()
        return 0 if lease is None else lease.count


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    scene = Scene(tmp_path)
    scene.rollout.change(lambda rollout: propose(rollout, CHAMPION, GOOD, **ANN))
    return scene


def test_it_is_renewed_each_round_for_the_generation_that_is_there(scene: Scene) -> None:
    assert scene.renewal.outcome.why == "starting"
    assert scene.pass_seconds(RENEW_SECONDS) == ["replica"]  # one look shows nothing
    assert scene.count == 0
    assert scene.pass_seconds(60) == [None]
    assert scene.lease.read() == Lease(holder="first", generation=1, count=12)
    assert scene.renewal.outcome.generation == 1
    assert scene.renewal.renewals == 12
    assert scene.renewal.watchdog_age == RENEW_SECONDS


def test_without_a_challenger_there_is_nothing_to_vouch_for(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    assert scene.pass_seconds(20) == ["no_challenger"]
    scene.rollout.change(lambda rollout: propose(rollout, CHAMPION, GOOD, **ANN))
    assert scene.pass_seconds(5) == [None]
    rollout = scene.rollout.read()
    assert rollout is not None
    scene.rollout.change(lambda _: roll_back(rollout, by="Ann", why="x", at=1))
    count = scene.count
    assert scene.pass_seconds(20) == ["no_challenger"]
    assert scene.count == count


@pytest.mark.parametrize(("broken", "why"), [("answers", "prometheus"), ("up", "replica")])
def test_whatever_is_dead_ends_it(scene: Scene, broken: str, why: str) -> None:
    scene.pass_seconds(60)
    count = scene.count
    setattr(scene.chain, broken, False)
    assert scene.pass_seconds(5) == [why]
    assert scene.pass_seconds(60) == [why]
    assert scene.count == count
    scene.chain.answers = scene.chain.up = True
    scene.pass_seconds(5)
    assert scene.pass_seconds(5) == [None]


def test_a_watchdog_that_no_longer_comes_ends_it(scene: Scene) -> None:
    scene.pass_seconds(60)
    count = scene.count
    assert scene.pass_seconds(WATCHDOG_SECONDS + 5, alive=False) == ["watchdog"]
    assert scene.count - count <= WATCHDOG_SECONDS / RENEW_SECONDS
    assert scene.pass_seconds(10) == [None]


def test_an_alertmanager_that_repeats_the_same_ends_it(scene: Scene) -> None:
    scene.pass_seconds(60)
    same = parse(body(watchdog(scene.chain.now))).alerts[0]
    for _ in range(12):
        scene.renewal.hear(same)
        scene.pass_seconds(5, alive=False)
    assert scene.renewal.outcome.why == "watchdog"


def test_a_rollback_that_is_owed_ends_it(scene: Scene) -> None:
    scene.pass_seconds(60)
    scene.owing = True
    count = scene.count
    assert scene.pass_seconds(10) == ["rollback"]
    assert scene.count == count


def test_a_second_controller_is_a_spare_until_the_first_is_dead(scene: Scene) -> None:
    second = scene.controller("second")
    scene.pass_seconds(60, scene.renewal, second)
    assert scene.pass_seconds(60, scene.renewal, second) == [None, "spare"]
    assert scene.lease.read() is not None
    assert scene.lease.read().holder == "first"  # type: ignore[union-attr]
    scene.pass_seconds(LEASE_SECONDS - RENEW_SECONDS, second)
    assert second.outcome.why == "spare"
    assert scene.pass_seconds(2 * RENEW_SECONDS, second) == [None]
    assert scene.lease.read().holder == "second"  # type: ignore[union-attr]
    assert scene.pass_seconds(10, second, scene.renewal) == [None, "spare"]


def test_a_round_that_was_paused_renews_nothing(scene: Scene) -> None:
    scene.pass_seconds(60)
    count = scene.count
    scene.chain.takes = ROUND_SECONDS + 1
    assert scene.pass_seconds(5) == ["paused"]
    assert scene.count == count
    scene.chain.takes = 0.0
    assert scene.pass_seconds(5) == [None]
    scene.chain.now += STUCK_SECONDS + 1
    assert scene.renewal.outcome.why == "paused"


@pytest.mark.parametrize("later", [False, True])
def test_an_older_copy_that_is_put_back_over_a_rollback_is_not_vouched_for(scene: Scene, later: bool) -> None:
    older = scene.rollout.read()
    assert older is not None
    scene.pass_seconds(60)
    scene.rollout.change(lambda _: roll_back(older, by="controller", why="unsafe", at=1))
    scene.pass_seconds(5)
    count = scene.count
    scene.rollout.change(lambda _: older)
    assert scene.pass_seconds(20) == ["other_rollout"]
    if later:  # what becomes of it is as high as what was seen
        canary = advance(older, "canary", evidence(older), PLAN, **ANN)
        scene.rollout.change(lambda _: advance(canary, "canary", evidence(canary), PLAN, **ANN))
        assert scene.pass_seconds(20) == ["other_rollout"]
    assert scene.count == count
    assert "Roll back what should not be there" in scene.renewal.outcome.says
    assert scene.pass_seconds(LOST_SECONDS + 5) == ["other_rollout"]
    assert scene.renewal.lost is not None
    again = scene.controller("again")  # after a restart it is taken as it is
    assert scene.pass_seconds(3 * RENEW_SECONDS + LEASE_SECONDS, again) == [None]


def test_a_rollout_that_goes_away_is_told_also_after_a_restart(scene: Scene) -> None:
    scene.pass_seconds(60)
    scene.store.delete(rollout_key("toy"))
    again = scene.controller("again")
    scene.pass_seconds(LOST_SECONDS + 5, scene.renewal, again)
    for renewal in (scene.renewal, again):
        assert renewal.outcome.why == "gone"
        assert renewal.lost == (
            "The lease isn't renewed: rollout/toy/rollout.json is gone from the store, though it was there: put it "
            "back, or propose a release anew"
        )


def test_a_write_that_hangs_renews_nothing_by_what_was_found_before_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.pass_seconds(60)
    count = scene.count
    with monkeypatch.context() as patch:

        def hang(point: str, _: str) -> None:
            if point == "store.write":  # right before what is written is synced
                scene.chain.now += ROUND_SECONDS + 1

        patch.setattr(engine_store, "fault", hang)
        assert scene.pass_seconds(5) == ["paused"]
    assert scene.count == count
    assert scene.pass_seconds(5) == [None]


def test_a_store_that_is_away_or_a_damaged_rollout_renews_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.pass_seconds(60)

    def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "write", away)
        assert scene.pass_seconds(5) == ["store"]
        assert scene.renewal.outcome.says == "The lease isn't renewed: No space left on device"
    assert scene.pass_seconds(5) == [None]
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "read", away)
        assert scene.pass_seconds(5) == ["store"]
    scene.store.write(rollout_key("toy"), b"{}")
    assert scene.pass_seconds(5) == ["store"]


def test_somebody_is_told_of_a_lease_that_is_lost_for_long(scene: Scene) -> None:
    scene.pass_seconds(60)
    assert scene.renewal.lost is None
    scene.chain.up = False
    scene.pass_seconds(LOST_SECONDS - RENEW_SECONDS)
    assert scene.renewal.lost is None
    scene.pass_seconds(RENEW_SECONDS)
    assert scene.renewal.lost == f"The lease isn't renewed: Prometheus can't reach {REPLICA}, or doesn't know it"
    scene.chain.up = True
    scene.pass_seconds(2 * RENEW_SECONDS)
    assert scene.renewal.lost is None


def test_a_spare_and_whoever_has_no_challenger_have_lost_nothing(scene: Scene, tmp_path: Path) -> None:
    second, idle = scene.controller("second"), Scene(tmp_path / "idle")
    scene.pass_seconds(3 * LOST_SECONDS, scene.renewal, second)
    idle.chain.up = False
    idle.pass_seconds(3 * LOST_SECONDS)
    assert second.lost is idle.renewal.lost is None


def test_only_a_change_is_logged(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "retain.deploy")
    scene.pass_seconds(60)
    scene.chain.up = False
    scene.pass_seconds(60)
    scene.chain.up = True
    scene.pass_seconds(60)
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if "is renewed" in line] == ["The lease is renewed for generation 1"] * 2
    assert sum("can't reach" in line for line in lines) == 1
