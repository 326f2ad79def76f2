"""A challenger of another release decides about customers: judged by its own guard and banks, and by the worker's."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import uvloop

from engine.artifact import open_artifact
from engine.errors import RetainError
from engine.releases import version_of
from retain.guard import Guard, in_force
from retain.parts import Acceptance, Missed
from retain.record import Record
from retain.release import Release, load
from serve.answers import Answer
from serve.arms import challenger_arm
from serve.learned import Failure, Heard, LearnedArm, Wish
from serve.loading import Source, load_challenger, load_release
from serve.metrics import Metrics
from serve.router import Router
from tests.releases import approved, bank, config, dataset, inputs, measured, part, policy, publish, rows, run_stage
from tests.serve.apps import app_of
from tests.serve.arms import InProcessArm
from tests.serve.client import Client
from tests.serve.test_arm import PATIENCE, running, until
from tests.serve.test_damaged import damage
from tests.words import WORDS

TELCO = dataset("telco")
ALL = Router(force_baseline=False, percent=100, hold_out=0.0)
OPENING = "Warm thanks for being with us."  # of the challenger's messages, and of no other's
AUC = Missed(criterion="rm.auc", kind="value", verdict="rm.auc 0 (wanted >= 1)")
SENDER = {"name": "Other Telecom", "address": "2 Example Street"}


def made(folder: Path, store: Path, fingerprint: str, stage: str = "decision", **metrics: float) -> Path:
    """Another release of that store, which offers 20 % to everybody in words of its own; with other metrics of a stage,
    if they are given."""
    given = inputs(folder / "inputs", TELCO, dataset("bank"))
    (given["decision"] / "policy.json").write_bytes(policy(TELCO, 99.0, 20).to_json())
    entries = [{**entry, "text": entry["text"].replace("Many thanks for being with us.", OPENING)}
               for entry in bank("rlhf")]  # fmt: skip
    (given["messages"] / "rlhf.json").write_text(json.dumps(entries))
    measured(given, stage, **metrics)
    settings = config()
    settings.sender = SimpleNamespace(**SENDER, model_dump=lambda mode: SENDER)
    return publish(store, "release", run_stage(folder, given, settings), fingerprint * 64)


@pytest.fixture(scope="module")
def stores(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the release of the other tests and three more: one that is served, one whose policy missed a
    criterion of value, and one whose messages did."""
    folder = tmp_path_factory.mktemp("challengers")
    shutil.copytree(store, folder / "store")
    made(folder / "served", folder / "store", "a")
    made(folder / "missed", folder / "store", "b", lift_gain=0.0)
    made(folder / "silent", folder / "store", "d", "rm", auc=0.0)
    return folder / "store"


@pytest.fixture(autouse=True)
def _here(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(stores))


def folder_of(stores: Path, fingerprint: str) -> Path:
    return stores / "toy" / "release" / (fingerprint * 64)


@pytest.fixture
def other(stores: Path) -> Release:
    """The release of the challenger."""
    return approved(load(open_artifact(folder_of(stores, "a"))))


@pytest.fixture
def own(release: Release, other: Release) -> Release:
    """The worker's release, with what people said of both releases' messages."""
    return replace(release, verdicts={**release.verdicts, **other.verdicts})


def arm_of(own: Release, other: Release, known: Release | None = None, **arguments: Any) -> InProcessArm:
    """A learned arm that has loaded `other`; `known`: what the worker has loaded of that version."""
    return InProcessArm("v1", other, own, "v2", known=known or other, **arguments)


def asked(own: Release, arm: LearnedArm) -> tuple[dict[str, Any], Any]:
    """An answer where the learned arm is everybody's, and why the arm wasn't asked in the shadow."""
    client = Client(app_of("v1", own, ALL, learned=arm))
    answer = client.post({"customer": rows(TELCO, 1, seed=4)[0]}).json()
    Answer.model_validate(answer, strict=True)
    record = client.get(f"/decisions/{answer['decision_id']}").json()
    return answer, record["detail"]["unasked"]


# -- what customers meet


def test_it_decides_in_its_own_words_with_the_sender_of_the_release_that_answers(own: Release, other: Release) -> None:
    arm = arm_of(own, other)
    assert not arm.may_decide  # nothing is loaded yet
    answer, unasked = asked(own, arm)
    assert (answer["mode"], answer["offer"], unasked) == ("learned", 20, "served")
    assert OPENING in answer["message"]["text"]
    assert answer["message"]["text"].endswith(f"\n{own.footer}")
    assert own.footer != other.footer
    assert arm.may_decide
    assert arm.versions == {"release": "v2", **other.versions}


def test_the_arm_of_the_worker_s_own_release_has_its_versions(own: Release) -> None:
    arm = InProcessArm("v1", own)
    asked(own, arm)
    assert (arm.may_decide, arm.versions) == (True, {"release": "v1", **own.versions})


def test_what_it_is_worth_is_told_by_the_risk_model_of_the_release_that_answers(own: Release, tmp_path: Path) -> None:
    """Both arms by the same one; the challenger's may be an optimist."""
    given = inputs(tmp_path / "inputs", TELCO, dataset("bank"))
    (given["decision"] / "policy.json").write_bytes(policy(TELCO, 99.0, 20).to_json())
    part(given["risk"], TELCO, seed=7)
    out = run_stage(tmp_path, given)
    other = approved(load({path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}))
    client = Client(app_of("v1", replace(own, verdicts=other.verdicts), ALL, learned=arm_of(own, other)))
    customer = rows(TELCO, 1, seed=4)[0]
    answer = client.post({"customer": customer}).json()
    record = Record.model_validate_json(client.get(f"/decisions/{answer['decision_id']}").content)
    assert answer["mode"] == "learned"
    assert answer["risk"] == other.assess(customer).case.risk != own.assess(customer).case.risk
    assert record.detail.risk == own.assess(customer).case.risk
    assert record.nrr_proxy == pytest.approx(1 - own.assess(customer).case.risk - record.cost / record.charge)


def test_one_that_the_worker_has_not_loaded_decides_about_nobody(own: Release, other: Release) -> None:
    for arm in (InProcessArm("v1", other, own, "v2"), InProcessArm("v1", other, own, "v3", known=other)):
        if arm.release_version == "v3":  # it was to load another one than it says
            arm._known = arm._known._replace(version="v2")
        answer, unasked = asked(own, arm)
        assert (answer["mode"], unasked, arm.may_decide) == ("baseline", "other_release", False)
        assert arm.versions == {"release": arm.release_version}


def warm(release: Release) -> Release:
    """The release with a guard that refuses the challenger's opening."""
    words = {**WORDS.guard.words, "promise": (*WORDS.guard.words.get("promise", ()), "warm thanks")}
    return replace(release, guard=Guard(in_force(WORDS.rules, WORDS.guard.model_copy(update={"words": words}))))


@pytest.mark.parametrize("whose", ["worker", "challenger", "nobody"])
def test_what_either_guard_refuses_is_unsafe(own: Release, other: Release, whose: str) -> None:
    answering = warm(own) if whose == "worker" else own
    arm = arm_of(answering, other, warm(other) if whose == "challenger" else None)
    answer, unasked = asked(answering, arm)
    assert (answer["mode"], unasked) == (
        ("learned", "served") if whose == "nobody" else ("baseline", "unsafe_message")
    )  # fmt: skip
    cell = arm._cells["price", 20]
    assert ("promise" in str(cell.refused)) == (whose != "nobody")
    assert cell.chosen is not None
    assert cell.chosen.breaks == (() if whose == "nobody" else ("promise",))


def test_a_text_that_the_worker_does_not_find_in_the_challenger_s_release_is_unsafe(
    own: Release, other: Release
) -> None:
    lacking = {name: entries for name, entries in other.banks.items() if name != "rlhf"}
    for known in (replace(other, banks=lacking), own):
        arm = arm_of(own, other, known)
        assert asked(own, arm)[1] == "unsafe_message"
        assert arm._cells["price", 20].refused == "a message that the release doesn't say there"


def test_a_text_that_nobody_approved_is_not_sent(own: Release, other: Release, release: Release) -> None:
    only = replace(own, verdicts=release.verdicts)  # people have read the messages of the release that answers alone
    arm = arm_of(only, replace(other, verdicts=release.verdicts))
    answer, _ = asked(only, arm)
    assert (answer["mode"], answer["message"]["source"]) == ("learned", "sft")


# -- a part that missed criteria


def accepting(release: Release, part: str, **changes: Any) -> tuple[Acceptance, ...]:
    stated = release.parts[part]
    criteria = tuple(missed.criterion for missed in stated.missed)
    accepted = Acceptance(part=part, by="Ann", reason="a trial", criteria=criteria, digest=stated.digest)
    return (accepted.model_copy(update=changes),)


@pytest.fixture
def missed(stores: Path) -> Release:
    """A challenger whose policy is shadow_only."""
    return approved(load(open_artifact(folder_of(stores, "b"))))


def test_a_policy_that_missed_a_criterion_decides_if_it_was_accepted_as_it_is(own: Release, missed: Release) -> None:
    other_digest = accepting(missed, "decision", digest="0" * 12)
    for accepted, mode in (((), "baseline"), (other_digest, "baseline"), (accepting(missed, "decision"), "learned")):
        arm = arm_of(own, missed, accepted=accepted)
        assert asked(own, arm)[0]["mode"] == mode
        assert arm.may_decide == (mode == "learned")


@pytest.mark.parametrize("foreign", [True, False])
def test_messages_that_missed_a_criterion_are_shown_if_they_were_accepted_as_they_are(
    own: Release, other: Release, foreign: bool
) -> None:
    """Of another release, and of the worker's own."""
    part = other.parts["rlhf"].model_copy(
        update={"standing": "shadow_only", "missed": (AUC,)}
    )  # fmt: skip
    trial = replace(other, parts={**other.parts, "rlhf": part}, verdicts=own.verdicts)
    other_digest = accepting(trial, "rlhf", digest="0" * 12)
    for accepted, source in (((), "sft"), (other_digest, "sft"), (accepting(trial, "rlhf"), "rlhf")):
        if foreign:
            answering, arm = own, arm_of(own, trial, accepted=accepted)
        else:
            answering, arm = trial, InProcessArm("v1", trial, accepted=accepted)
        answer, unasked = asked(answering, arm)
        assert (answer["mode"], unasked, answer["message"]["source"]) == ("learned", "served", source)


# -- what is loaded


def test_a_challenger_is_loaded_whole_or_not_at_all(own: Release, stores: Path) -> None:
    folder = folder_of(stores, "a")
    loaded = load_challenger(version_of(folder), own)
    assert (loaded.source, loaded.version) == (Source(folder, {}), version_of(folder))
    with pytest.raises(RetainError, match=f"experiment toy has no release {'0' * 12} in {stores}"):
        load_challenger("0" * 12, own)


@pytest.mark.parametrize("name", ["rlhf/rlhf.json", "decision/policy.json", "guard.json", "risk/model.json"])
def test_a_damaged_file_keeps_it_from_customers_and_is_named(
    own: Release, stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shutil.copytree(stores, tmp_path / "store")
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    folder = folder_of(tmp_path / "store", "a")
    version = version_of(folder)
    damage(folder, name)
    with pytest.raises(RetainError, match=f"the challenger {version}: {folder} .*{name} is missing or damaged"):
        load_challenger(version, own)


def test_one_that_does_not_fit_is_refused(own: Release, stores: Path) -> None:
    version = version_of(folder_of(stores, "a"))
    offers = replace(own.terms.offers, months=3)
    with pytest.raises(RetainError, match=f"the challenger {version}: its release makes other offers"):
        load_challenger(version, replace(own, terms=replace(own.terms, offers=offers)))
    table = dataset("telco", named="first_name")
    with pytest.raises(RetainError, match=f"the challenger {version}: its release is for another table"):
        load_challenger(version, replace(own, spec=table))


def test_one_without_a_policy_is_refused(own: Release, stores: Path, tmp_path: Path) -> None:
    folder = made(tmp_path, stores, "c", over_cap=0.5)
    with pytest.raises(RetainError, match=f"the challenger {version_of(folder)}: the release has no learned policy"):
        load_challenger(version_of(folder), own)


# -- processes


def worker_s_arm(stores: Path, own: Release, fingerprint: str, **arguments: Any) -> LearnedArm:
    """What challenger_arm() makes for a worker whose own release is that of the other tests."""
    settings: Any = SimpleNamespace(release=folder_of(stores, "f"), parts={}, arm_memory=512 << 20)
    wanted = version_of(folder_of(stores, fingerprint))
    return challenger_arm(settings, version_of(settings.release), own, Metrics(), wanted, **arguments)


def run(test: Callable[[], Any]) -> None:
    uvloop.run(test())
    gc.collect()  # a transport or a process that was left open warns now


def test_its_process_loads_what_the_worker_judges_it_by(own: Release, missed: Release, stores: Path) -> None:
    """The same by a real process, with what a person accepted."""

    async def test() -> None:
        for accepted, decides in (((), False), (accepting(missed, "decision"), True)):
            verdicts = {**own.verdicts, **missed.verdicts}
            arm = worker_s_arm(stores, replace(own, verdicts=verdicts), "b", accepted=accepted)
            async with running(arm):
                assert arm.may_decide == decides
                assert arm.versions == {"release": version_of(folder_of(stores, "b")), **missed.versions}
                wish = await arm.ask(own.assess(rows(TELCO, 1, seed=4)[0]), 0.0, PATIENCE)
                assert isinstance(wish, Wish)
                message = arm.message(wish)
                assert message is not None
                assert OPENING in message.text

    run(test)


def test_its_process_says_what_a_person_accepted(own: Release, stores: Path) -> None:
    silent = load(open_artifact(folder_of(stores, "d")))
    assert silent.standing("rlhf") == "shadow_only"

    async def test() -> None:
        for accepted, says in (((), False), (accepting(silent, "rlhf"), True)):
            async with running(worker_s_arm(stores, own, "d", accepted=accepted)) as arm:
                wish = await arm.ask(own.assess(rows(TELCO, 1, seed=4)[0]), 0.0, PATIENCE)
                assert isinstance(wish, Wish)
                assert wish.said is not None
                assert (OPENING in wish.said.text) == says

    run(test)


def test_the_arm_of_the_own_release_is_told_what_was_accepted(own: Release, stores: Path) -> None:
    async def test() -> None:
        arm = worker_s_arm(stores, own, "f", accepted=accepting(own, "decision"))
        async with running(arm):
            assert arm.may_decide
            assert arm.versions["release"] == version_of(folder_of(stores, "f"))

    run(test)


def gauges(arm: LearnedArm) -> tuple[float | None, float | None]:
    sample = arm._metrics.registry.get_sample_value
    return sample("retain_arm_running"), sample("retain_arm_circuit_open")


@pytest.mark.parametrize("stopped_first", [True, False])
def test_one_arm_takes_the_place_of_another_with_questions_in_flight(
    own: Release, stores: Path, tmp_path: Path, stopped_first: bool
) -> None:
    (tmp_path / "fault").write_text("hangs")
    hanging = ["-m", "tests.serve.faulty_arm", str(tmp_path / "fault")]

    async def replaced(before: LearnedArm, after: LearnedArm) -> None:
        await before.start()
        await until(lambda: before.running)
        assert gauges(before) == (1, 0)
        process = psutil.Process(pid(before))
        heard: list[Heard] = []
        for _ in range(3):
            before.ask_later(own.assess(rows(TELCO, 1, seed=4)[0]), 0.0, heard.append)
        waiting = asyncio.create_task(before.ask(own.assess(rows(TELCO, 1, seed=4)[0]), 0.0, PATIENCE))
        await asyncio.sleep(0.01)
        if stopped_first:
            await before.stop()
            assert gauges(before) == (0, 0)
            await after.start()
        else:
            await after.start()
            await before.stop()
        assert [*heard, await waiting] == [Failure("died", "it was stopped")] * 4
        assert not process.is_running()
        assert (before.running, before.problem, gauges(after)) == (False, "it was stopped", (0, 0))
        assert await before.ask(own.assess(rows(TELCO, 1, seed=4)[0]), 0.0, PATIENCE) == Failure(
            "not_running", "it was stopped"
        )
        await until(lambda: after.running)
        assert gauges(after) == (1, 0)
        assert isinstance(await after.ask(own.assess(rows(TELCO, 1, seed=4)[0]), 0.0, PATIENCE), Wish)
        await after.stop()
        assert gauges(after) == (0, 0)

    async def test() -> None:
        metrics = Metrics()
        version, _ = load_release(Source(folder_of(stores, "f"), {}))
        before = LearnedArm(Source(folder_of(stores, "f"), {}), version, own, metrics, command=hanging)
        after = worker_s_arm(stores, own, "a")
        after._metrics = metrics
        try:
            await replaced(before, after)
        finally:
            await before.stop()
            await after.stop()

    run(test)


def pid(arm: LearnedArm) -> int:
    assert arm._process is not None
    assert arm._process._process is not None
    return arm._process._process.pid


def test_whenever_it_is_stopped_nothing_is_left_behind(own: Release, stores: Path) -> None:
    """Before its process is there, before the connection is, while it loads, and once it answers."""

    async def test() -> None:
        this, descriptors = psutil.Process(), None
        others = this.children()  # such as the PostgreSQL of other tests
        for turns in (1, 0, 1, 2, 3, 4, 20, None):
            arm, tasks = worker_s_arm(stores, own, "a"), asyncio.all_tasks()
            await arm.start()
            for _ in range(turns or 0):
                await asyncio.sleep(0)
            if turns is None:
                await until(partial(getattr, arm, "running"))
            await arm.stop()
            await asyncio.sleep(0.05)  # a transport is closed in the loop's next turn
            assert asyncio.all_tasks() == tasks
            descriptors = descriptors or this.num_fds()  # the first time the loop opens /dev/null, and keeps it
            assert this.num_fds() == descriptors
            assert this.children() == others
            await arm.stop()

    run(test)


def test_one_that_was_never_started_answers_nobody_and_can_be_stopped(own: Release, stores: Path) -> None:
    async def test() -> None:
        arm = worker_s_arm(stores, own, "a")
        heard = await arm.ask(own.assess(rows(TELCO, 1, seed=4)[0]), 0.0, PATIENCE)
        assert heard == Failure("not_running", "it has not been started")
        await arm.stop()

    run(test)
