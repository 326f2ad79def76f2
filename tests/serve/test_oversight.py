"""What the admin port tells of the database: shadow, deletion, old records; and what exports are made of them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from engine.artifact import canonical
from engine.document import Document
from engine.errors import RetainError
from engine.releases import current_release, version_of
from engine.store import FolderStore
from eval import decisions as decisions_export
from eval import shadow as shadow_report
from retain.record import Record
from retain.release import Release
from retain.rollout import Rollout, forgive, propose, release_latch, roll_back, rollout_key
from serve.admin import create_admin
from serve.database import Database, StateUnavailable, wall_clock
from serve.keep import exported
from serve.loading import Challenger
from serve.metrics import Metrics
from serve.oversight import PRUNE_AGAIN_SECONDS, PRUNE_SECONDS, Oversight
from serve.router import Router
from serve.standing import Looks
from tests.releases import dataset, policy, rows
from tests.rollouts import ANN
from tests.serve.apps import app_of
from tests.serve.arms import InProcessArm
from tests.serve.client import Client
from tests.serve.memory import DAY, MONTH, Clock
from tests.serve.services import PLENTY

TELCO = dataset("telco")
HOST = {"host": "localhost"}
EVERYBODY = Router(hold_out=0.0)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'serving.db'}"


def month_of_decisions(
    release: Release, url: str, customers: int, router: Router, clock: Clock, version: str = "v1"
) -> list[dict[str, Any]]:
    """All through a month customers are asked about. Of the offers a third is accepted, a third declined, and the rest
    expires."""
    arm = InProcessArm(version, dataclasses.replace(release, policy=policy(TELCO, 99.0, 20)))
    client = Client(app_of(version, release, router, url=url, learned=arm, clock=clock))
    answers = []
    for number, row in enumerate(rows(TELCO, customers, seed=11)):
        answer = client.post({"customer": row | {"customerID": f"Y-{number}"}}).json()
        answers.append(answer)
        if answer["offer"] is not None and number % 3 < 2:
            outcome = ("accepted", "declined")[number % 3]
            told = client.post({"decision_id": answer["decision_id"], "outcome": outcome}, "/outcomes")
            assert told.json() == {"status": "recorded"}
        if number % 10 == 0:
            body = {"decision_id": answer["decision_id"], "outcome": "revenue", "month": 1, "amount": 50.0}
            client.post(body, "/outcomes")
        if number % 17 == 0:
            client.post({"decision_id": answer["decision_id"], "outcome": "churned"}, "/outcomes")
        clock.now += MONTH // customers
    clock.now += 15 * DAY
    client.post({"customer": rows(TELCO, 1, seed=12)[0]})  # the open offers expire
    return answers


def test_a_month_of_decisions_is_told_exported_and_read_back(
    release: Release, artifact: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, version = Clock(), version_of(artifact)
    answers = month_of_decisions(release, url, 200, Router(hold_out=5.0, exploration=0.5), clock, version)
    database = Database(url, clock=clock)
    lines = [*exported(database, "a key")]
    records = [Record.model_validate_json(line) for line in lines]
    assert [record.decision_id for record in records][:-1] == [answer["decision_id"] for answer in answers]
    assert len({record.customer for record in records}) == len(records)

    # The wallet's spend is the records' sum.
    spent = sum(record.cost + record.liability * (record.answered == "accepted") for record in records)
    given_back = [
        (outcome.given_back, record)
        for record in records
        for outcome in record.outcomes
        if outcome.given_back is not None
    ]
    assert given_back
    for amount, record in given_back:  # she left within the first month
        assert amount == pytest.approx(record.liability * (record.months - 1) / record.months)
    overseen = Oversight(database, version, release, 400)
    overseen._state._clock = clock
    wallet = overseen.wallet()
    assert wallet is not None
    assert wallet.committed == pytest.approx(spent - sum(amount for amount, _ in given_back), abs=0.001)

    admin = Client(create_admin(Metrics(), tmp_path, None, overseen))
    told = admin.request("GET", "/shadow", headers=HOST).json()
    assert told["decisions"] == len(records)
    assert [figure["name"] for figure in told["figures"]][:2] == ["latency_p95", "unsafe"]
    assert told["verdict"] == "hold"
    assert told["figures"][0]["verdict"] == "pass"
    assert "where 500 are wanted" in told["figures"][1]["says"]
    value = told["figures"][-1]
    assert (value["name"], value["verdict"]) == ("value", "hold")

    # The same by the command, which leaves the records as Parquet, those of another release among them.
    other = json.loads(lines[-1])
    other["detail"]["release"] = "another"
    (tmp_path / "records.jsonl").write_bytes(b"".join(lines) + json.dumps(other).encode())
    out = tmp_path / "shadow.parquet"
    arguments = [str(tmp_path / "records.jsonl"), "--experiment", "toy", "--out", str(out)]
    assert shadow_report.main(arguments, {"RELEASE_PATH": str(artifact)}) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"of release {version}: {len(records)} decisions" in printed
    assert "1 of other releases are not counted" in printed
    assert "can't tell yet: unsafe" in printed
    table = pq.read_table(out).to_pylist()
    assert [row["decision_id"] for row in table[:-1]] == [record.decision_id for record in records]
    assert [row["release"] for row in table] == [version] * len(records) + ["another"]
    assert {row["learned_offer"] for row in table if row["learned_missing"] is None} == {20}

    out = tmp_path / "decisions.parquet"
    assert decisions_export.main([str(tmp_path / "records.jsonl"), "--out", str(out)]) == 0
    drawn = pq.read_table(out).to_pylist()
    assert len(drawn) == sum(record.detail.pscore is not None for record in records) > 150
    by_id = {record.decision_id: record for record in records}
    for row in drawn:
        record = by_id[row["decision_id"]]
        assert (row["offer"], row["charge"], row["pscore"]) == (record.offer, record.charge, record.detail.pscore)
        assert row["accepted"] == (None if record.offer is None else record.answered == "accepted")
        kinds = {outcome.kind for outcome in record.outcomes}
        if kinds & {"churned", "revenue"}:
            assert row["stays"][0] == ("churned" not in kinds)
        else:
            assert row["stays"] == []
    database.close()


def test_a_release_that_has_templates_alone_can_pass_its_shadow(release: Release, url: str) -> None:
    assert release.reference is not None
    templates = dataclasses.replace(
        release,
        banks={"template": release.banks["template"]},
        reference=release.reference.model_copy(update={"messages": {}}),
    )
    month_of_decisions(templates, url, 520, EVERYBODY, Clock())
    database = Database(url)
    told = asyncio.run(Oversight(database, "v1", templates, 400).shadow())
    verdicts = {figure["name"]: figure["verdict"] for figure in told["figures"]}
    assert verdicts == {
        "latency_p95": "pass",
        "unsafe": "pass",
        "message_length": "pass",
        "reward_score": "pass",
        "answers_missed": "pass",
        "unavailable": "pass",
        "value": "hold",
    }
    assert told["verdict"] == "pass"
    database.close()


def test_a_customer_is_forgotten_but_not_that_she_opted_out(release: Release, url: str, tmp_path: Path) -> None:
    client = Client(app_of("v1", release, Router(hold_out=0.0), url=url))
    customer = rows(TELCO, 1, seed=4)[0] | {"customerID": "a/b c"}
    made = client.post({"customer": customer}).json()["decision_id"]
    client.post({"customer": "a/b c"}, "/suppress")
    database = Database(url)
    admin = Client(create_admin(Metrics(), tmp_path, None, Oversight(database, "v1", release, 400)))
    deleted = admin.request("DELETE", "/customers/a%2Fb%20c", headers=HOST)
    assert (deleted.status_code, deleted.json()) == (200, {"decisions": 1})
    assert client.get(f"/decisions/{made}").status_code == 404
    assert client.post({"customer": customer}).json()["why"] == "do_not_contact"
    database.close()


@pytest.mark.parametrize("path", ["abc%2F", "abc/", "%2Fabc", "/abc", "abc%252F"])
def test_a_customer_of_almost_the_same_id_is_not_forgotten(
    release: Release, url: str, tmp_path: Path, path: str
) -> None:
    client = Client(app_of("v1", release, url=url))
    for name in ("abc", "abc/"):
        client.post({"customer": rows(TELCO, 1, seed=4)[0] | {"customerID": name}})
    database = Database(url)
    admin = Client(create_admin(Metrics(), tmp_path, None, Oversight(database, "v1", release, 400)))
    deleted = admin.request("DELETE", f"/customers/{path}", headers=HOST).json()
    assert deleted == {"decisions": int(path in ("abc%2F", "abc/"))}
    assert admin.request("DELETE", "/customers/abc", headers=HOST).json() == {"decisions": 1}
    assert admin.request("DELETE", "/customers/", headers=HOST).status_code == 404
    database.close()


def test_decisions_of_another_release_count_for_its_own_shadow_alone(
    release: Release, url: str, tmp_path: Path
) -> None:
    month_of_decisions(release, url, 5, Router(), Clock())
    database = Database(url)
    assert asyncio.run(Oversight(database, "v2", release, 400).shadow())["decisions"] == 0
    assert asyncio.run(Oversight(database, "v1", release, 400).shadow())["decisions"] == 6
    database.close()


def test_old_records_are_deleted_daily_and_soon_again_after_a_failure(
    release: Release, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Exception | int] = [3, StateUnavailable("the disk is full"), RuntimeError("a bug"), 0]
    waits: list[float] = []

    def prune(*_: object) -> int:
        outcome = outcomes[len(waits)]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == len(outcomes):
            raise asyncio.CancelledError

    monkeypatch.setattr("serve.oversight.prune", prune)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    database = Database(url)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Oversight(database, "v1", release, 400).prune_daily())
    assert waits == [PRUNE_SECONDS, PRUNE_AGAIN_SECONDS, PRUNE_AGAIN_SECONDS, PRUNE_SECONDS]
    assert "the disk is full" in caplog.text
    assert "a bug" in caplog.text
    database.close()


def test_no_failure_ends_the_shortening_of_the_log(
    release: Release, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(url)
    tries: list[None] = []

    def checkpoint() -> None:
        tries.append(None)
        raise StateUnavailable("gone") if len(tries) == 1 else RuntimeError("a bug")

    async def sleep(_: float) -> None:
        if len(tries) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(database, "checkpoint", checkpoint)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Oversight(database, "v1", release, 400).checkpoint_often())
    assert caplog.messages == ["SQLite's write-ahead log could not be shortened"] * 2  # of the bug alone
    database.close()


def test_metrics_are_told_while_the_shadow_is_looked_at(
    release: Release, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask for the shadow, and however long that takes."""
    database = Database(url)
    oversight = Oversight(database, "v1", release, 400)
    begun, over, looks = threading.Event(), threading.Event(), []

    def look(*_: object) -> dict[str, Any]:
        begun.set()
        assert over.wait(PLENTY)
        looks.append(1)
        return {"verdict": "hold"}

    monkeypatch.setattr(oversight, "_look_at", look)
    (tmp_path / "counts").mkdir()
    app = create_admin(Metrics(), tmp_path / "counts", None, oversight)

    async def ask(path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as caller:
            return await caller.get(path)

    async def test() -> None:
        asked = [asyncio.create_task(ask("/shadow")) for _ in range(50)]
        try:
            await asyncio.to_thread(begun.wait, PLENTY)
            told = await asyncio.wait_for(ask("/metrics"), PLENTY / 2)
            assert "retain_state_available 1.0" in told.text
            assert not looks
        finally:
            over.set()
        assert {(await answer).text for answer in asked} == {'{"verdict":"hold"}'}
        assert looks == [1]

    asyncio.run(test())
    database.close()


def test_each_challenger_s_shadow_is_told_by_itself_beside_its_own_training(
    release: Release, artifact: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, own = version_of(artifact), release.reference
    assert own is not None
    lacking = own.model_copy(update={"messages": {}})
    for loads, customers in (("challenger a", 5), ("challenger b", 7)):
        arm = InProcessArm(version, release, loads=loads)
        client = Client(app_of(version, release, EVERYBODY, url=url, learned=arm))
        for number, row in enumerate(rows(TELCO, customers, seed=11)):
            answer = client.post({"customer": row | {"customerID": f"{loads} {number}"}}).json()
        client.get(f"/decisions/{answer['decision_id']}")  # behind which its shadow is on record, too
    database = Database(url)
    told = {}
    for loads, reference in (("challenger a", own), ("challenger b", lacking), (version, own)):
        overseen = asyncio.run(Oversight(database, version, release, 400, Challenger(loads, reference)).shadow())
        assert (overseen["release"], overseen["learned"], overseen["decisions"]) == (version, loads, 12)
        told[loads] = {figure["name"]: figure for figure in overseen["figures"]}
    asked = {loads: figures["answers_missed"]["samples"] for loads, figures in told.items()}
    assert asked == {"challenger a": 5, "challenger b": 7, version: 0}
    assert "message_length (rlhf)" in told["challenger a"]
    assert "not known from training" in told["challenger b"]["message_length (rlhf)"]["says"]

    (tmp_path / "records.jsonl").write_bytes(b"".join(exported(database, None)))
    database.close()
    arguments = [str(tmp_path / "records.jsonl"), "--experiment", "toy", "--out", str(tmp_path / "shadow.parquet")]
    paths = {"RELEASE_PATH": str(artifact), "CHALLENGER_PATH": str(artifact)}
    assert shadow_report.main(arguments, paths) == 1
    assert f"Shadow of the learned arm of release {version}: 12 decisions, 0 with its" in capsys.readouterr().out
    named = [row["learned_release"] for row in pq.read_table(tmp_path / "shadow.parquet").to_pylist()]
    assert named == ["challenger a"] * 5 + ["challenger b"] * 7


def test_what_was_shown_before_it_was_proposed_again_counts_no_more(
    release: Release, store: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(store, tmp_path / "store")
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    version = version_of(current_release("toy"))
    database = Database(url)
    client = Client(app_of(version, release, EVERYBODY, url=url))
    document = Document(FolderStore(tmp_path / "store"), rollout_key("toy"), Rollout)
    first, second, *_ = rows(TELCO, 2, seed=11)

    def tells() -> Any:
        looks = Looks(str(tmp_path / "store"), "toy")
        return asyncio.run(Oversight(database, version, release, 400, looks=looks).shadow())["decisions"]

    shadow = document.change(lambda _: propose(None, version, version, **ANN))
    client.post({"customer": first})
    assert tells() == 1
    back = roll_back(shadow, by="controller", why="errors", at=2)
    forgiven = forgive(release_latch(back, **ANN), version, **ANN)
    document.change(lambda _: propose(forgiven, version, version, by="Ann", reason="again", at=wall_clock() + 1))
    assert tells() == 0
    client.post({"customer": second})
    assert tells() == 1
    database.close()


def test_what_a_rollout_tries_is_told_of(
    release: Release, store: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(store, tmp_path / "store")
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "store"))
    version = version_of(current_release("toy"))
    database = Database(url)
    Client(app_of(version, release, EVERYBODY, url=url)).post({"customer": rows(TELCO, 1, seed=11)[0]})
    oversight = Oversight(database, version, release, 400, looks=Looks(str(tmp_path / "store"), "toy"))
    document = Document(FolderStore(tmp_path / "store"), rollout_key("toy"), Rollout)

    def tells() -> Any:
        return asyncio.run(oversight.shadow())["learned"]

    assert (tells(), oversight.on_trial()) == (version, None)  # without a rollout the settings rule
    shadow = document.change(lambda _: propose(None, version, version, **ANN))
    assert (tells(), oversight.on_trial()) == (version, None)
    document.change(lambda _: shadow.model_copy(update={"percent": 5.0, "phase": "canary"}))
    assert (tells(), oversight.on_trial()) == (version, version)
    (tmp_path / "records.jsonl").write_bytes(b"".join(exported(database, None)))
    arguments = [str(tmp_path / "records.jsonl"), "--experiment", "toy", "--out", str(tmp_path / "shadow.parquet")]
    assert shadow_report.main(arguments, {}) == 1
    assert f"Shadow of the learned arm of release {version}: 1 decisions" in capsys.readouterr().out
    back = document.change(lambda rollout: roll_back(rollout, by="controller", why="errors", at=1))  # type: ignore[arg-type]
    assert (tells(), oversight.on_trial()) == (version, None)
    document.change(lambda _: propose(release_latch(back, **ANN), version, "a" * 12, **ANN))
    with pytest.raises(RetainError, match="has no release aaaaaaaaaaaa"):
        tells()
    assert shadow_report.main(arguments, {}) == 2
    (tmp_path / "store" / rollout_key("toy")).write_bytes(b"{")
    with pytest.raises(RetainError, match="is damaged"):
        tells()
    with pytest.raises(RetainError, match="is damaged"):
        oversight.on_trial()
    database.close()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{}", "line 1 is no decision record: decision_id: Field required"),
        (b"not json", "line 1 is no decision record"),
    ],
)
def test_what_is_no_record_is_named(
    tmp_path: Path, line: bytes, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records.jsonl").write_bytes(line + b"\n")
    out = tmp_path / "out.parquet"
    assert decisions_export.main([str(tmp_path / "records.jsonl"), "--out", str(out)]) == 2
    assert problem in capsys.readouterr().err
    assert not out.exists()
    assert decisions_export.main([str(tmp_path / "nothing.jsonl"), "--out", str(out)]) == 2


def test_nothing_drawn_says_how_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "records.jsonl").write_bytes(b"")
    assert decisions_export.main([str(tmp_path / "records.jsonl"), "--out", str(tmp_path / "out.parquet")]) == 0
    assert "0 randomised decisions; the service draws actions where RETAIN_EXPLORATION" in capsys.readouterr().out
    assert json.loads(canonical(pq.read_table(tmp_path / "out.parquet").to_pylist())) == []
