"""The learned arm's process, a real one, as its worker asks it: its answers, and what comes of a broken one."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop

from engine.artifact import MANIFEST, parse_manifest
from retain.decision import History, observe
from retain.policy import softmax
from retain.release import Release
from serve.arm import Mind
from serve.circuit import Circuit
from serve.learned import BACKLOG, Failure, Heard, LearnedArm, Wish
from serve.loading import Source, load_release
from serve.metrics import Metrics
from tests.releases import approved, dataset, rows
from tests.serve.arms import InProcessArm, heard

TELCO = dataset("telco")
PATIENCE = 60.0  # seconds that a machine with much else to do may take


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(arm: LearnedArm) -> AsyncIterator[LearnedArm]:
    await arm.start()
    try:
        await until(lambda: arm.running)
        yield arm
    finally:
        await arm.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    uvloop.run(test())  # type: ignore[arg-type]
    gc.collect()  # a transport or a process that was left open warns now


@pytest.fixture
def made(artifact: Path, tmp_path: Path) -> Callable[..., LearnedArm]:
    """Makes an arm; of a faulty process, whose fault stands in the file `fault` from then on."""

    def make(fault: str | None = None, verdicts: dict[str, str] | None = None, **arguments: Any) -> LearnedArm:
        version, release = load_release(Source(artifact, {}))
        release = approved(release) if verdicts is None else replace(release, verdicts=verdicts)
        if fault is not None:
            (tmp_path / "fault").write_text(fault)
            arguments["command"] = ["-m", "tests.serve.faulty_arm", str(tmp_path / "fault")]
        return LearnedArm(arguments.pop("source", Source(artifact, {})), version, release, Metrics(), **arguments)

    return make


Made = Callable[..., LearnedArm]


def asked(arm: LearnedArm, number: int = 0, **history: Any) -> Any:
    return arm._release.assess(rows(TELCO, number + 1, seed=7)[number], History(**history))


def counted(arm: LearnedArm, kind: str) -> float:
    return arm._metrics.registry.get_sample_value("retain_arm_failures_total", {"kind": kind}) or 0.0


def test_its_wishes_are_those_of_the_policy(made: Made) -> None:
    async def test() -> None:
        async with running(made()) as arm:
            release = arm._release
            assert release.policy is not None
            heard: dict[int, Heard] = {}
            people = [release.assess(row, History((1, 0), None, 0, 1, 2)) for row in rows(TELCO, 60, seed=7)]
            for number, assessment in enumerate(people):
                arm.ask_later(assessment, 0.25, lambda answer, number=number: heard.update({number: answer}))  # type: ignore[misc]
            await until(lambda: len(heard) == len(people))
            whys = set()
            for number, assessment in enumerate(people):
                wish, observed = heard[number], observe(assessment.case, 0.25)
                assert isinstance(wish, Wish)
                action = release.policy.best(observed)
                assert wish.offer == (release.terms.offers.levels[action - 1] if action else None)
                assert wish.probabilities == pytest.approx(softmax(release.policy.logits(observed)), abs=1e-12)
                assert wish.case is assessment.case
                assert wish.seconds <= wish.waited
                whys.add(wish.why)
            assert whys == {"policy_contact", "policy_no_contact"}
            assert arm.failures == {}
            assert arm._metrics.registry.get_sample_value("retain_arm_answers_total") == 60

    run(test)


def test_what_it_says_is_what_the_release_says(made: Made) -> None:
    async def test() -> None:
        async with running(made()) as arm:
            release = arm._release
            sources = set()
            for row in rows(TELCO, 40, seed=7):
                assessment = release.assess(row)
                wish = await arm.ask(assessment, 0.0, PATIENCE)
                assert isinstance(wish, Wish)
                decision = release.decide(assessment, release.terms.new_wallet(), 1.0, "learned")
                assert wish.offer == decision.offer
                message = release.message(assessment, decision)
                assert arm.message(wish) == message
                if message is not None:
                    assert wish.said is not None
                    assert message.text == f"{wish.said.text}\n{release.footer}"
                    assert wish.chosen is not None
                    assert (wish.chosen.text, wish.chosen.breaks) == (wish.said.text, ())
                    sources.add(wish.said.source)
            assert sources == {"rlhf"}

    run(test)


def test_another_release_is_told_her_values_and_assesses_her_itself(made: Made, artifact: Path) -> None:
    """It has the same content here, so its wishes are the same; its version is another one."""

    async def test() -> None:
        arm = made()
        arm._version = "000000000000"
        async with running(arm):
            for number in range(20):
                history = {"contacts": (0, 1, 0), "accepted": 1}
                assessment = asked(arm, number, **history)
                wish = await arm.ask(assessment, 0.5, PATIENCE)
                assert isinstance(wish, Wish)
                policy = arm._release.policy
                assert policy is not None
                action = policy.best(observe(assessment.case, 0.5))
                assert wish.offer == (arm._release.terms.offers.levels[action - 1] if action else None)
                case = wish.case
                assert (case.risk, case.acceptance, case.spread, case.charge, case.history) == (
                    assessment.case.risk, assessment.case.acceptance, assessment.case.spread, assessment.case.charge,
                    assessment.case.history,
                )  # fmt: skip
                if wish.offer is not None:
                    assert wish.said is not None
                    assert arm.message(wish) is not None

    run(test)


def test_nothing_that_says_who_she_is_goes_over(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        arm = made()
        arm._version = "000000000000"
        sent: list[bytes] = []
        async with running(arm):
            assert arm._process is not None
            send = arm._process.send
            monkeypatch.setattr(arm._process, "send", lambda data: (sent.append(data), send(data)))
            assessment = arm._release.assess(rows(TELCO, 1, seed=7)[0] | {"customerID": 10**100})
            assert isinstance(await arm.ask(assessment, 0.5, PATIENCE), Wish)
            assert b"tenure" in sent[0]
            assert b"customerID" not in sent[0]

    run(test)


def test_what_people_say_of_messages_holds_from_then_on(made: Made) -> None:
    """Nothing that nobody has read; and what was taken back isn't said even before the process has heard of it."""

    async def test() -> None:
        async with running(made(verdicts={})) as arm:
            assessment = who_is_offered(arm)
            wish = await arm.ask(assessment, 0.0, PATIENCE)
            assert isinstance(wish, Wish)
            assert wish.said is not None
            assert wish.said.source == "template"
            assert wish.chosen is not None
            assert (wish.chosen.source, wish.chosen.approved) == ("rlhf", False)
            verdicts = approved(arm._release).verdicts
            arm.take_verdicts(verdicts)
            wish = await arm.ask(assessment, 0.0, PATIENCE)
            assert isinstance(wish, Wish)
            assert wish.said is not None
            assert wish.said.source == "rlhf"
            assert wish.chosen is not None
            assert wish.chosen.approved
            arm.take_verdicts(dict(verdicts) | {wish.said.entry.text: "rejected"})
            cell = arm._cells[assessment.situation, wish.offer or 0]
            assert cell.said is None
            wish = await arm.ask(assessment, 0.0, PATIENCE)
            assert isinstance(wish, Wish)
            assert wish.said is not None
            assert verdicts[wish.said.entry.text] == "approved"

    run(test)


def test_verdicts_that_come_while_it_starts_are_not_lost(made: Made) -> None:
    async def test() -> None:
        arm = made(verdicts={})
        await arm.start()
        await until(lambda: arm._process is not None)
        arm.take_verdicts(approved(arm._release).verdicts)
        try:
            await until(lambda: any(cell.said and cell.said.source == "rlhf" for cell in arm._cells.values()))
        finally:
            await arm.stop()

    run(test)


def test_an_unsafe_message_that_was_ranked_first_is_counted_though_it_is_not_sent(made: Made) -> None:
    async def test() -> None:
        async with running(made("unsafe at first")) as arm:
            wish = await arm.ask(who_is_offered(arm), 0.0, PATIENCE)
            assert isinstance(wish, Wish)
            assert wish.chosen is not None
            assert wish.said is not None
            assert wish.chosen.breaks != ()
            assert wish.unsafe
            assert "leave us" not in wish.said.text

    run(test)


# -- broken arms


@pytest.mark.parametrize(
    ("fault", "kind", "detail"),
    [
        ("throws", "error", "ZeroDivisionError at faulty_arm.py:"),
        ("nan", "not_finite", "the network's output is not finite"),
        ("unsafe", "unsafe_message", "a message that the guard refuses"),
        ("unapproved", "unsafe_message", "a message that nobody approved"),
        ("no number", "malformed", "probabilities that can't be"),
        ("no probabilities", "malformed", "probabilities that can't be"),
        ("too few", "malformed", "probabilities that can't be"),
        ("no action", "malformed", "an action that isn't the likeliest"),
        ("unlikely action", "malformed", "an action that isn't the likeliest"),
        ("another question's", "malformed", "it answered what it was not asked"),
        ("a word", "malformed", "it answered what it was not asked"),
        ("babbles", "malformed", "it sent a frame that is no JSON"),
        ("eats", "out_of_memory", "RETAIN_ARM_MEMORY_MB=512"),
        ("dies", "died", "its process ended"),
    ],
)
def test_each_fault_has_its_own_signal(made: Made, fault: str, kind: str, detail: str) -> None:
    async def test() -> None:
        async with running(made(fault)) as arm:
            heard = await arm.ask(who_is_offered(arm), 0.0, PATIENCE)
            assert isinstance(heard, Failure)
            assert heard.kind == kind
            assert detail in heard.detail
            assert "TOY" not in heard.detail
            assert arm.failures == {kind: 1}
            assert counted(arm, kind) == 1
            assert heard.unsafe == (True if kind == "unsafe_message" else None)

    run(test)


def who_is_offered(arm: LearnedArm) -> Any:
    """A customer to whom the sound policy makes an offer."""
    policy = arm._release.policy
    assert policy is not None
    people = (asked(arm, number) for number in range(40))
    return next(assessment for assessment in people if policy.best(observe(assessment.case, 0.0)))


class Ticks:
    """Counts how often the event loop comes around to it, at most a hundred times a second."""

    async def __aenter__(self) -> Ticks:
        self.count = 0
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            self.count += 1


@pytest.mark.parametrize("fault", ["hangs", "holds"])
def test_an_arm_that_hangs_costs_no_more_than_the_deadline(
    made: Made, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In Python, or in C with the interpreter's lock: the loop goes on, the process is killed, a new one answers."""

    async def test() -> None:
        async with running(made(fault)) as arm, Ticks() as ticks:
            process = arm._process
            heard = await arm.ask(asked(arm), 0.0, 0.05)
            assert heard == Failure("deadline", "it gave no answer within 0.05 seconds")
            assert arm._process is process
            await until(lambda: arm._process is not process and arm.running)
            assert arm.processes == 2
            assert ticks.count >= 20  # of 200 in the two seconds until it was killed; an await of its answer leaves 0
            assert "it said nothing for 2 seconds; another one" in caplog.text
            (tmp_path / "fault").write_text("")
            assert isinstance(await arm.ask(asked(arm), 0.0, PATIENCE), Wish)

    run(test)


def test_an_answer_that_comes_too_late_is_dropped(made: Made, tmp_path: Path) -> None:
    async def test() -> None:
        async with running(made("slow")) as arm:
            heard: list[Heard] = [await arm.ask(asked(arm), 0.0, 0.05)]
            await until(lambda: not arm._asked)
            (tmp_path / "fault").write_text("")
            heard.append(await arm.ask(asked(arm, 1), 0.0, PATIENCE))
            assert [type(one) for one in heard] == [Failure, Wish]
            assert arm.failures == {"deadline": 1}
            assert arm.processes == 1

    run(test)


def test_the_circuit_opens_and_stays_open_over_the_restart(made: Made, tmp_path: Path) -> None:
    async def test() -> None:
        clock = Clock()
        async with running(made("dies")) as arm:
            arm.circuit = Circuit(clock)
            heard: list[Heard] = []
            for number in range(3):
                arm.ask_later(asked(arm, number), 0.0, heard.append)
            await until(lambda: len(heard) == 3)
            assert {one.kind for one in heard if isinstance(one, Failure)} == {"died"}
            (tmp_path / "fault").write_text("")
            await until(lambda: arm.running)
            assert arm.processes == 2
            assert await arm.ask(asked(arm), 0.0, PATIENCE) == Failure("circuit_open", "died")
            assert arm.warnings() == [
                "the learned arm is not asked, since it failed (died): it is tried again in 30 seconds"
            ]
            assert sample(arm, "retain_arm_circuit_open") == 1
            clock.now += 30
            assert isinstance(await arm.ask(asked(arm), 0.0, PATIENCE), Wish)
            assert arm.circuit.state == "closed"
            assert (arm.warnings(), sample(arm, "retain_arm_circuit_open")) == ([], 0)
            assert arm.failures == {"died": 3, "circuit_open": 1}

    run(test)


def test_killed_from_outside_it_comes_back(made: Made) -> None:
    async def test() -> None:
        async with running(made()) as arm:
            assert isinstance(await arm.ask(asked(arm), 0.0, PATIENCE), Wish)
            os.kill(pid(arm), signal.SIGKILL)
            await until(lambda: not arm.running)
            heard = await arm.ask(asked(arm), 0.0, PATIENCE)
            assert isinstance(heard, Failure)
            assert heard.kind == "not_running"
            assert heard.detail.startswith("its process ended")
            await until(lambda: arm.problem == "its process ended (signal 9)")
            await until(lambda: arm.running)
            assert isinstance(await arm.ask(asked(arm), 0.0, PATIENCE), Wish)
            assert arm.circuit.state == "closed"  # an arm that isn't there has missed nothing

    run(test)


def test_it_ends_with_its_worker_and_not_by_its_signals(made: Made) -> None:
    async def test() -> None:
        async with running(made()) as arm:
            process = pid(arm)
            for ending in (signal.SIGINT, signal.SIGTERM):  # meant for the worker, which has to answer first
                os.kill(process, ending)
            assert isinstance(await arm.ask(asked(arm), 0.0, PATIENCE), Wish)
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)

    run(test)


def test_what_it_prints_is_read_and_its_end_is_kept(made: Made, tmp_path: Path) -> None:
    async def test() -> None:
        async with running(made("prints")) as arm:
            assert isinstance(await arm.ask(asked(arm), 0.0, PATIENCE), Wish)
            (tmp_path / "fault").write_text("")
            os.kill(pid(arm), signal.SIGKILL)
            await until(lambda: "it printed" in arm.problem)
            assert len(arm.problem) < 1200

    run(test)


def test_more_questions_than_there_is_room_for_are_turned_away(made: Made) -> None:
    async def test() -> None:
        async with running(made("hangs")) as arm:
            heard: list[Heard] = []
            assessment = asked(arm)
            for _ in range(BACKLOG + 5):
                arm.ask_later(assessment, 0.0, heard.append)
            assert [one.kind for one in heard if isinstance(one, Failure)] == ["overloaded"] * 5
            await until(lambda: len(heard) == BACKLOG + 5)
            assert arm.failures == {"overloaded": 5, "deadline": BACKLOG}

    run(test)


# -- what it loads


def test_a_damaged_file_keeps_it_from_running_and_not_the_worker(made: Made, artifact: Path, tmp_path: Path) -> None:
    async def test() -> None:
        source = Source(copied(artifact, tmp_path / "copy"), {})
        path = file_of(source.release, "decision/policy.json")
        sound = path.read_bytes()
        path.write_bytes(sound[:-2] + b" }")
        arm = made(source=source)
        await arm.start()
        try:
            await until(lambda: "decision/policy.json is missing or damaged" in arm.problem)
            heard = await arm.ask(asked(arm), 0.0, PATIENCE)
            assert isinstance(heard, Failure)
            assert heard.kind == "not_running"
            path.write_bytes(sound)
            await until(lambda: arm.running)
            assert isinstance(await arm.ask(asked(arm), 0.0, PATIENCE), Wish)
        finally:
            await arm.stop()

    run(test)


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("another table", "is for another table"),
        ("other offers", "makes other offers, or has another cap"),
        ("no table", "its table of messages has not one row for each situation and offer"),
    ],
)
def test_a_release_that_does_not_fit_is_not_asked(made: Made, fault: str, problem: str) -> None:
    async def test() -> None:
        arm = made(fault)
        await arm.start()
        try:
            await until(lambda: problem in arm.problem)
            assert not arm.running
        finally:
            await arm.stop()

    run(test)


def sample(arm: LearnedArm, name: str) -> float | None:
    return arm._metrics.registry.get_sample_value(name)


def pid(arm: LearnedArm) -> int:
    assert arm._process is not None
    assert arm._process._process is not None
    return arm._process._process.pid


def copied(artifact: Path, to: Path) -> Path:
    shutil.copytree(artifact, to)
    return to


def file_of(artifact: Path, name: str) -> Path:
    manifest = parse_manifest((artifact / MANIFEST).read_bytes(), "")
    return artifact / "files" / next(file.sha256 for file in manifest.files if file.path == name)


def test_the_arm_of_other_tests_answers_as_the_process_does(made: Made) -> None:
    async def test() -> None:
        arm = made()
        release = arm._release
        assessments = [asked(arm, number) for number in range(20)]
        async with running(arm):
            real = [await heard(arm, assessment, 0.5) for assessment in assessments]
        fake = InProcessArm("v1", release)
        async with running(fake):
            for assessment, wish in zip(assessments, real):
                same = await heard(fake, assessment, 0.5)
                assert isinstance(same, Wish)
                assert isinstance(wish, Wish)
                assert replace(same, seconds=0.0, waited=0.0) == replace(wish, seconds=0.0, waited=0.0)
            fake.failure = Failure("error")
            assert await fake.ask(assessments[0], 0.5, PATIENCE) == Failure("error")

    run(test)


def test_a_process_that_never_gets_ready_is_replaced(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.learned.LOAD_SECONDS", 1.0)

    async def test() -> None:
        arm = made("stuck at the start")
        await arm.start()
        try:
            await until(lambda: "it has not loaded its release within 1 seconds" in arm.problem)
            await until(lambda: arm.processes == 2)
        finally:
            await arm.stop()

    run(test)


@pytest.mark.parametrize("together", [True, False])
def test_a_loop_that_stood_still_blames_no_arm(made: Made, together: bool) -> None:
    """Alone, while the answer came; or `together` with the arm, as when a machine sleeps."""

    async def test() -> None:
        async with running(made()) as arm:
            process = arm._process
            os.kill(pid(arm), signal.SIGSTOP)
            answer = asyncio.create_task(arm.ask(asked(arm), 0.0, PATIENCE if together else 0.2))
            await asyncio.sleep(0.05)
            if not together:
                os.kill(pid(arm), signal.SIGCONT)
            time.sleep(2.5)  # noqa: ASYNC251
            if together:
                await asyncio.sleep(0.2)  # the time to look at the clock comes first
                os.kill(pid(arm), signal.SIGCONT)
            assert isinstance(await answer, Wish)
            assert arm._process is process

    run(test)


# -- the process's own part


def test_the_process_loads_none_of_the_service_s_libraries() -> None:
    """They would double its memory, and the time until it answers."""
    code = "import sys, serve.arm; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "numpy" in loaded
    assert not loaded & {"fastapi", "starlette", "uvicorn", "uvloop", "sqlalchemy", "psycopg", "prometheus_client"}


def test_one_bad_question_spoils_no_other_s_answer(release: Release) -> None:
    mind = Mind("v1", release)
    cases = [release.assess(row).case for row in rows(TELCO, 5, seed=7)]
    seen = np.array([observe(case, 0.0) for case in cases])
    alone = [mind.reply({"ids": [number]}, row.tobytes())["answers"][0] for number, row in enumerate(seen)]
    seen[2, 3] = np.inf
    answers = mind.reply({"ids": [0, 1, 2, 3, 4]}, seen.tobytes())["answers"]
    assert [answer[0] for answer in answers] == [0, 1, 2, 3, 4]
    assert answers[2][1] == "not_finite"
    assert "the observation is not finite in" in answers[2][2]
    for number in (0, 1, 3, 4):
        assert answers[number][1] == alone[number][1]
        assert answers[number][2] == pytest.approx(alone[number][2], abs=1e-12)


def test_a_customer_whom_the_release_does_not_take_spoils_no_other_s_answer(release: Release) -> None:
    people = rows(TELCO, 3, seed=7)
    people[1]["Contract"] = "SECRET"
    questions = [[number, 0.0, row, [[], None, 0, 0, 0]] for number, row in enumerate(people)]
    answers = {answer[0]: answer for answer in Mind("v1", release).reply({"customers": questions}, b"")["answers"]}
    assert answers[1][1] == "error"
    assert answers[1][2].startswith("ValueError at features.py:")
    assert "SECRET" not in answers[1][2]
    for number in (0, 2):
        case = release.assess(people[number]).case
        assert answers[number][3][1:] == [case.risk, case.acceptance, case.spread]


def test_a_table_made_by_earlier_verdicts_is_not_taken(release: Release) -> None:
    async def test() -> None:
        arm = InProcessArm("v1", release)
        await arm.start()
        earlier = arm._mind.reply({"verdicts": dict(release.verdicts), "number": 0}, b"")
        arm.take_verdicts({})
        await asyncio.sleep(0.01)
        arm._heard(earlier)
        assert {spoken.said.source for spoken in arm._cells.values() if spoken.said} == {"template"}
        await arm.stop()

    run(test)
