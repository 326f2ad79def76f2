"""The thread that puts requests on record."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

from serve import writer as writers
from serve.database import StateUnavailable
from serve.operations import Answered, Ask, Choice, Operation, Outcome, Withdraw
from serve.state import State
from serve.writer import Writer
from tests.serve.memory import Memory, balance, nobody, offer


class Gate(State):
    """A state whose transactions wait to be let through, and fail while it is `broken`."""

    def __init__(self, memory: Memory) -> None:
        vars(self).update(vars(memory.state))
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.broken = False
        self.batches: list[list[Operation]] = []

    def carry_out(self, operations: Sequence[Operation]) -> list[Any]:
        self.begun.release()
        assert self.go.acquire(timeout=30)
        self.batches.append(list(operations))
        if self.broken:
            raise StateUnavailable("the disk is full")
        return super().carry_out(operations)


@pytest.fixture
def memory(url: str) -> Iterator[Memory]:
    memory = Memory(url)
    yield memory
    memory.close()


def ask(customer: str, **others: Any) -> Ask:
    return Ask(customer, None, b"", others.pop("choose", offer()), **others)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - it is about what a thread does
        await asyncio.sleep(0.005)


def test_what_waits_is_carried_out_in_one_transaction(memory: Memory) -> None:
    async def test() -> None:
        gate = Gate(memory)
        writer = Writer(gate)
        writer.start()
        first = writer.submit(ask("Ann"))
        await asyncio.to_thread(gate.begun.acquire)
        others = [writer.submit(ask(f"c{number}")) for number in range(writers.LARGEST_BATCH + 5)]
        for _ in range(3):
            gate.go.release()
        answers: list[Answered] = await asyncio.gather(first, *others)
        assert [len(batch) for batch in gate.batches] == [1, writers.LARGEST_BATCH, 5]
        assert len({answered.decision_id for answered in answers}) == len(answers)
        gate.go.release()
        assert writer.close()

    run(test())


def test_whoever_gave_up_before_is_skipped_and_after_is_withdrawn(memory: Memory) -> None:
    async def test() -> None:
        gate = Gate(memory)
        writer = Writer(gate)
        writer.start()
        begun = writer.submit(ask("Ann"))
        await asyncio.to_thread(gate.begun.acquire)
        waiting, stays = writer.submit(ask("Ben")), writer.submit(ask("Cem"))
        begun.cancel()
        waiting.cancel()
        for _ in range(3):
            gate.go.release()
        answered: Answered = await stays
        await until(lambda: sum(map(len, gate.batches)) == 3)
        carried_out = [operation for batch in gate.batches for operation in batch]
        assert [type(operation) for operation in carried_out] == [Ask, Ask, Withdraw]
        assert [operation.customer for operation in carried_out if isinstance(operation, Ask)] == ["Ann", "Cem"]
        gate.go.release()
        assert writer.close()
        assert memory.find(answered.decision_id).offer == 10
        assert balance(memory.database) == (1.0, 1)

    run(test())


def test_requests_of_successive_turns_of_the_loop_share_a_transaction(memory: Memory) -> None:
    async def test() -> None:
        gate = Gate(memory)
        gate.go.release()
        writer = Writer(gate)
        writer.start()
        futures = []
        for number in range(5):
            futures.append(writer.submit(ask(f"c{number}")))
            await asyncio.sleep(0)
        await asyncio.gather(*futures)
        assert [len(batch) for batch in gate.batches] == [5]
        gate.go.release()
        assert writer.close()

    run(test())


def test_whose_time_is_over_is_told_so_and_what_was_decided_is_withdrawn(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "TICK_SECONDS", 3600.0)

    async def test() -> None:
        gate = Gate(memory)
        writer = Writer(gate)
        writer.start()
        late, patient = writer.submit(ask("Ann"), 0.0), writer.submit(ask("Ben"), 60.0)
        await asyncio.to_thread(gate.begun.acquire)
        writer._tick()  # once its transaction has begun: before that it would not be carried out
        with pytest.raises(StateUnavailable, match="takes too long"):
            await late
        for _ in range(3):
            gate.go.release()
        answered: Answered = await patient
        await until(lambda: any(isinstance(operation, Withdraw) for batch in gate.batches for operation in batch))
        assert writer.close()
        assert memory.find(answered.decision_id).offer == 10
        assert balance(memory.database) == (1.0, 1)

    run(test())


def test_the_first_whose_time_is_over_is_told_first(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has spent some of it elsewhere comes later, with less."""
    monkeypatch.setattr(writers, "TICK_SECONDS", 3600.0)

    async def test() -> None:
        gate = Gate(memory)
        writer = Writer(gate)
        writer.start()
        patient, late = writer.submit(ask("Ann"), 60.0), writer.submit(ask("Ben"), -0.1)
        writer._tick()
        with pytest.raises(StateUnavailable, match="takes too long"):
            await late
        gate.go.release()
        assert (await patient).decision_id
        assert [len(batch) for batch in gate.batches] == [1]
        gate.go.release()
        assert writer.close()

    run(test())


def test_what_one_raises_is_its_own(memory: Memory) -> None:
    def breaks(*_: object) -> Choice:
        raise ZeroDivisionError

    async def test() -> None:
        writer = Writer(memory.state)
        writer.start()
        broken, fine = writer.submit(ask("Ann", choose=breaks)), writer.submit(ask("Ben"))
        with pytest.raises(ZeroDivisionError):
            await broken
        assert (await fine).decision_id
        assert writer.close()

    run(test())


def test_while_the_database_does_not_answer_everybody_is_told_at_once(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writers, "RETRY_SECONDS", 0.05)

    async def test() -> None:
        gate = Gate(memory)
        gate.go = threading.Semaphore(1_000_000)
        writer = Writer(gate)
        writer.start()
        given_up = (await writer.submit(ask("Ann"))).decision_id
        gate.broken = True
        failed = [writer.submit(ask("Ben")), writer.submit(Outcome("x", "accepted"))]
        for future in failed:
            with pytest.raises(StateUnavailable, match=r"disk is full|doesn't answer"):
                await future
        assert not writer.available
        with pytest.raises(StateUnavailable, match="doesn't answer"):
            writer.submit(ask("Cem"))
        writer._queue.put((Withdraw(given_up), None))  # an answer that nobody waits for any more
        attempts = len(gate.batches)
        await until(lambda: len(gate.batches) > attempts + 2)
        gate.broken = False
        await until(lambda: writer.available)
        assert (await writer.submit(ask("Cem", choose=nobody))).decision_id
        assert writer.close()
        assert memory.find(given_up).withdrawn
        assert balance(memory.database) == (0.0, 0)

    run(test())
    said = [record.message for record in caplog.records]
    assert said == ["nobody is contacted: the disk is full", "the database answers again"]


def test_no_more_wait_than_the_queue_has_room_for(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "LARGEST_QUEUE", 3)

    async def test() -> None:
        gate = Gate(memory)
        writer = Writer(gate)
        writer.start()
        futures = [writer.submit(ask("Ann"))]
        await asyncio.to_thread(gate.begun.acquire)
        futures += [writer.submit(ask(f"c{number}")) for number in range(3)]
        with pytest.raises(StateUnavailable, match="wait for the database already"):
            writer.submit(ask("Ben"))
        for _ in range(3):
            gate.go.release()
        assert len(await asyncio.gather(*futures)) == 4
        gate.go.release()
        assert writer.close()

    run(test())


def test_what_waits_at_the_end_is_carried_out(memory: Memory) -> None:
    async def test() -> None:
        writer = Writer(memory.state)
        writer.start()
        futures = [writer.submit(ask(f"c{number}")) for number in range(200)]
        assert writer.close()
        assert len({(await future).decision_id for future in futures}) == 200

    run(test())


def test_offers_expire_though_nobody_asks(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "IDLE_SECONDS", 0.02)
    memory.ask("Ann")
    memory.clock.now += 15 * 86_400_000_000

    async def test() -> None:
        writer = Writer(memory.state)
        writer.start()
        await until(lambda: memory.state.standing is not None and memory.state.standing.open == 0)
        assert writer.close()

    run(test())
