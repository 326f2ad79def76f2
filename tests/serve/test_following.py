"""A service in step with its rollout: who is decided about by whom, and whose learned arm is asked."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.document import Document
from engine.errors import RetainError
from engine.store import FolderStore
from retain.lease import LEASE_SECONDS, Lease
from retain.parts import Acceptance
from retain.release import Release
from retain.rollout import Arm, Rollout, lease_key, propose, roll_back, rollout_key
from serve.app import create_app
from serve.following import Following
from serve.learned import LearnedArm
from serve.router import Router
from serve.service import Service
from serve.standing import Looks
from tests.releases import dataset, policy, rows
from tests.rollouts import ANN
from tests.serve.apps import service_of
from tests.serve.arms import InProcessArm
from tests.serve.client import Client
from tests.serve.test_learned import with_policy

TELCO = dataset("telco")
CHAMPION, CHALLENGER, OTHER = "c" * 12, "a" * 12, "b" * 12
ROUTER = Router(hold_out=0.0)


class Stage:
    """A service whose rollout lies in a store of its own, on a clock that only the test moves."""

    def __init__(self, root: Path, release: Release, service: Service, force_baseline: bool = False) -> None:
        root.mkdir()
        self.store = FolderStore(root)
        self.release = release
        self.service = service
        self.now, self.count = 1000.0, 0
        self.made: list[tuple[str, tuple[Acceptance, ...]]] = []
        self.problem: str | None = None
        looks = Looks(str(root), "toy", lambda: self.now)
        self.following = Following(service, looks, self.arm_of, force_baseline, None, lambda: self.now)
        self.client = Client(create_app(service, None, following=self.following))

    def arm_of(self, version: str, accepted: tuple[Acceptance, ...]) -> LearnedArm:
        self.made.append((version, accepted))
        if self.problem is not None:
            raise RetainError(self.problem)
        arm = InProcessArm(version, with_policy(self.release, policy(TELCO, 99.0, 20)))
        arm._metrics = self.service.metrics
        return arm

    def put(self, rollout: Rollout, root: str = "toy") -> None:
        Document(self.store, rollout_key(root), Rollout).change(lambda _: rollout)

    def renew(self, generation: int) -> None:
        self.count += 1
        lease = Lease(holder="controller", generation=generation, count=self.count)
        Document(self.store, lease_key("toy"), Lease).change(lambda _: lease)

    def until(self, true: Callable[[], bool]) -> None:
        """Lets the service look until it is true."""

        async def wait() -> None:
            async with asyncio.timeout(60):
                while not true():  # noqa: ASYNC110  nothing tells of it
                    await asyncio.sleep(0.01)

        self.client.run(wait())

    def ask(self, number: int = 0) -> Any:
        return self.client.post({"customer": rows(TELCO, number + 1, seed=4)[number]}).json()

    @property
    def rollout(self) -> Any:
        return self.client.get("/readyz").json()["rollout"]


@pytest.fixture
def staged(tmp_path: Path, release: Release, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    monkeypatch.setattr("serve.following.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("serve.following.AGAIN_SECONDS", 1.0)

    def stage(version: str = CHAMPION, **options: Any) -> Stage:
        made = Stage(tmp_path / "store", release, service_of(release, version, ROUTER), **options)
        monkeypatch.setattr("serve.service.elapsed", lambda: made.now)
        monkeypatch.setattr("serve.readiness.elapsed", lambda: made.now)
        return made

    return stage


def canary(release: str = CHALLENGER, percent: float = 100.0, champion: str = CHAMPION) -> Rollout:
    shadow = propose(None, champion, release, **ANN)
    phase = "full" if percent == 100 else "canary" if percent else "shadow"
    return shadow.model_copy(update={"percent": percent, "phase": phase})


def promoted(full: Rollout) -> Rollout:
    after = full.model_copy(
        update={
            "champion": Arm(release=CHALLENGER, mode="baseline"),
            "predecessor": CHAMPION,
            "generation": 2,
            "history": (*full.history, full.history[0].model_copy(update={"action": "promote"})),
        }
    )
    return Rollout.model_validate(after.model_dump())


def served(stage: Stage, percent: float) -> bool:
    return stage.service.learned_percent == percent


def begun(stage: Stage, rollout: Rollout, percent: float = 100.0) -> None:
    """The rollout is followed and its lease has been seen to be renewed."""
    stage.put(rollout)
    stage.client.get("/healthz")
    stage.renew(rollout.generation)
    stage.until(lambda: stage.following._seen.sighting is not None and stage.following._seen.sighting.lease is not None)
    stage.renew(rollout.generation)
    stage.until(lambda: served(stage, percent))


def test_a_challenger_of_another_release_is_loaded_and_decides(staged: Callable[..., Stage]) -> None:
    stage = staged()
    assert stage.ask()["mode"] == "baseline"
    assert stage.rollout is None
    begun(stage, canary())
    assert stage.made == [(CHALLENGER, ())]
    answer = stage.ask(1)
    assert (answer["mode"], answer["offer"]) == ("learned", 20)
    assert (answer["versions"]["release"], answer["versions"]["challenger"]) == (CHAMPION, CHALLENGER)
    record = stage.client.get(f"/decisions/{answer['decision_id']}").json()
    assert (record["detail"]["trial"], record["detail"]["assigned"]) == (CHALLENGER, "learned")
    assert {key: stage.rollout[key] for key in ("phase", "challenger", "percent", "served_percent", "problem")} == {
        "phase": "full", "challenger": CHALLENGER, "percent": 100.0, "served_percent": 100.0, "problem": None,
    }  # fmt: skip


def test_after_a_promotion_nobody_is_thrown_back_until_the_service_is_started_again(
    staged: Callable[..., Stage],
) -> None:
    stage = staged()
    full = canary()
    begun(stage, full)
    stage.put(promoted(full))
    stage.renew(2)
    stage.until(lambda: stage.service.standing.rollout is not None and stage.service.standing.rollout.generation == 2)
    stage.renew(2)
    stage.until(lambda: served(stage, 100.0))
    assert stage.rollout["problem"] is None
    answer = stage.ask(1)
    assert (answer["mode"], answer["versions"]["release"]) == ("learned", CHAMPION)
    assert stage.made == [(CHALLENGER, ())]  # whose process goes on


def test_a_lease_runs_out_at_a_request_though_nobody_looks(staged: Callable[..., Stage]) -> None:
    stage = staged()
    begun(stage, canary())
    assert stage.ask()["mode"] == "learned"
    stage.following._take = lambda: None  # type: ignore[method-assign]
    stage.now = stage.service.standing.until + 0.001
    answer = stage.ask(1)
    detail = stage.client.get(f"/decisions/{answer['decision_id']}").json()["detail"]
    assert (answer["mode"], detail["assigned"]) == ("baseline", "baseline")
    assert (detail["trial"], detail["percent"]) == (None, None)  # she counts on neither side of the trial
    warnings = stage.client.get("/readyz").json()["warnings"]
    assert "the lease of the rollout was not seen to be renewed: until it is, the baseline decides" in warnings


def test_rolled_back_the_baseline_decides_and_the_arm_ends(staged: Callable[..., Stage]) -> None:
    stage = staged()
    begun(stage, canary())
    stage.put(roll_back(canary(), by="controller", why="errors", at=1))
    stage.until(lambda: served(stage, 0) and stage.service.bound.learned is None)
    answer = stage.ask()
    record = stage.client.get(f"/decisions/{answer['decision_id']}").json()
    assert (answer["mode"], record["detail"]["unasked"], record["shadow"]) == ("baseline", "left_out", None)
    assert stage.rollout["latched"]


def test_rolled_back_after_a_promotion_it_decides_about_nobody_and_who_answers_from_it_says_so(
    staged: Callable[..., Stage],
) -> None:
    stage = staged(version=CHALLENGER)  # as one is that was started after the promotion
    after = promoted(canary())
    begun(stage, after)
    stage.put(roll_back(after, by="controller", why="errors", at=1))
    stage.until(lambda: served(stage, 0) and stage.service.bound.learned is None)
    assert stage.ask()["mode"] == "baseline"
    says = f"the rollout's champion is {CHAMPION}, but here {CHALLENGER} answers"
    stage.until(lambda: stage.service.standing.problem == says)
    assert f"{says}: the baseline decides about everybody" in stage.client.get("/readyz").json()["warnings"]


def test_in_its_shadow_it_is_asked_after_the_answer(staged: Callable[..., Stage]) -> None:
    stage = staged()
    begun(stage, canary(percent=0.0), 0.0)
    stage.until(lambda: stage.service.bound.learned is not None and stage.made != [])
    stage.until(lambda: stage.service.standing.problem is None)
    answer = stage.ask()
    record = stage.client.get(f"/decisions/{answer['decision_id']}").json()
    assert (answer["mode"], record["shadow"]["version"], record["detail"]["trial"]) == ("baseline", CHALLENGER, None)


def test_forced_the_baseline_decides_and_the_shadow_goes_on(staged: Callable[..., Stage]) -> None:
    stage = staged(force_baseline=True)
    stage.put(canary())
    stage.client.get("/healthz")
    for _ in range(3):
        stage.renew(1)
        stage.until(lambda: stage.service.standing.problem is None)
    answer = stage.ask()
    record = stage.client.get(f"/decisions/{answer['decision_id']}").json()
    assert (answer["mode"], record["shadow"]["version"]) == ("baseline", CHALLENGER)


def test_another_champion_than_answers_keeps_the_challenger_in_its_shadow(staged: Callable[..., Stage]) -> None:
    stage = staged(version=OTHER)
    begun(stage, canary(), 0.0)
    stage.until(lambda: stage.service.bound.learned is not None and stage.made != [])
    assert stage.ask()["mode"] == "baseline"
    says = f"the rollout's champion is {CHAMPION}, but here {OTHER} answers"
    assert stage.rollout["problem"] == says
    assert f"{says}: the baseline decides about everybody" in stage.client.get("/readyz").json()["warnings"]


def test_a_challenger_that_cant_be_loaded_decides_about_nobody_and_is_tried_again(staged: Callable[..., Stage]) -> None:
    stage = staged()
    stage.problem = "experiment toy has no such release"
    begun(stage, canary(), 0.0)
    says = f"the challenger {CHALLENGER} can't be loaded: experiment toy has no such release"
    stage.until(lambda: stage.service.standing.problem == says)
    assert stage.ask()["mode"] == "baseline"
    tries = len(stage.made)
    stage.problem = None
    stage.now += 1.5
    stage.renew(1)
    stage.until(lambda: served(stage, 100))
    assert len(stage.made) == tries + 1


def test_the_own_release_is_kept_as_challenger(staged: Callable[..., Stage]) -> None:
    stage = staged()
    own = stage.service.bound.learned
    begun(stage, canary(CHAMPION))
    assert stage.made == []
    assert stage.service.bound.learned is own
    assert stage.ask()["mode"] == "learned"


def test_a_hiccup_of_the_store_is_the_baseline_and_keeps_the_arm(staged: Callable[..., Stage]) -> None:
    stage = staged()
    begun(stage, canary())
    path = stage.store.root / rollout_key("toy")
    content = path.read_bytes()
    path.write_bytes(b"{")
    stage.until(lambda: served(stage, 0))
    assert stage.ask()["mode"] == "baseline"
    assert "is damaged" in stage.rollout["problem"]
    path.write_bytes(content)
    stage.renew(1)
    stage.until(lambda: served(stage, 100))
    assert len(stage.made) == 1


def test_a_turn_that_fails_is_the_baseline_and_not_the_last(
    staged: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = staged()
    begun(stage, canary())
    sample = stage.service.metrics.registry.get_sample_value
    of = {"release": CHALLENGER, "generation": "1"}
    with monkeypatch.context() as patch:
        patch.setattr("serve.following.in_thread", _no_thread)
        stage.until(lambda: served(stage, 0))
        assert stage.ask()["mode"] == "baseline"
        assert stage.rollout["problem"] == "the rollout can't be followed: RuntimeError(\"can't start new thread\")"
        assert (sample("retain_rollout_percent", of), sample("retain_lease_fresh")) == (0, 0)
    stage.renew(1)
    stage.until(lambda: served(stage, 100))


def _no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


def test_an_arm_that_cant_be_started_is_tried_again(
    staged: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = staged()

    async def no_process(arm: InProcessArm) -> None:
        raise OSError("no more processes")

    with monkeypatch.context() as patch:
        patch.setattr(InProcessArm, "start", no_process)
        stage.put(canary())
        own = stage.service.bound.learned
        assert own is not None
        stage.service.bound = dataclasses.replace(stage.service.bound, learned=None)
        stage.client.get("/healthz")
        stage.until(lambda: "OSError('no more processes')" in (stage.service.standing.problem or ""))
    stage.now += 1.5
    stage.renew(1)
    stage.until(lambda: stage.following._loaded is not None)
    stage.renew(1)
    stage.until(lambda: served(stage, 100))


def test_what_challenger_path_names_is_loaded_anew_for_a_rollout(staged: Callable[..., Stage]) -> None:
    stage = staged()
    own = stage.service.bound.learned
    assert own is not None
    own.release_version = CHALLENGER  # in the shadow alone: this worker doesn't know it
    begun(stage, canary())
    assert stage.made == [(CHALLENGER, ())]
    assert stage.ask()["mode"] == "learned"


def test_what_a_rollout_serves_is_among_the_metrics(staged: Callable[..., Stage]) -> None:
    stage = staged()
    begun(stage, canary())
    sample = stage.service.metrics.registry.get_sample_value
    of = {"release": CHALLENGER, "generation": "1"}
    stage.until(lambda: sample("retain_rollout_percent", of) == 100)
    assert sample("retain_rollout_wanted_percent", of) == sample("retain_lease_fresh") * 100 == 100
    stage.ask()
    learned = {"arm": "learned", "release": CHALLENGER}
    assert sample("retain_arm_decisions_total", learned) == sample("retain_arm_messages_total", learned) == 1
    assert sample("retain_arm_errors_total", learned) == sample("retain_arm_unsafe_total", learned) == 0
    assert sample("retain_arm_seconds_count", learned) == 1
    stage.now += LEASE_SECONDS + 1
    stage.until(lambda: sample("retain_rollout_percent", of) == 0)
    assert (sample("retain_rollout_wanted_percent", of), sample("retain_lease_fresh")) == (100, 0)
    after = roll_back(canary(), by="controller", why="errors", at=1)
    assert after.challenger is None
    stage.put(after)
    stage.until(lambda: sample("retain_rollout_wanted_percent", of) == 0)


def test_what_no_rollout_says_of_an_arm_is_none(staged: Callable[..., Stage]) -> None:
    assert Arm(release=CHAMPION, mode="baseline") == canary().champion
    stage = staged()
    stage.client.get("/healthz")
    sample = stage.service.metrics.registry.get_sample_value
    stage.until(lambda: sample("retain_rollout_problem") == 0)
    assert sample("retain_lease_fresh") == 0
