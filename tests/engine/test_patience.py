"""What can't be done while a store is unavailable is tried again, for as long as was said, with one line about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.errors import RetainError, StoreUnavailable
from engine.patience import FIRST_PAUSE_S, LONGEST_PAUSE_S, Outage, PatientStore
from engine.store import ABSENT, Conflict
from tests.engine.memory import MemoryStore


@dataclass
class Time:
    """Elapsed seconds, which pass while somebody waits; `asked_at`: when the attempt is asked to stop."""

    now: float = 0.0
    pauses: list[float] = field(default_factory=list)
    asked_at: float = float("inf")
    lines: list[str] = field(default_factory=list)

    def outage(self, patience_s: float = 120.0) -> Outage:
        return Outage(patience_s, clock=lambda: self.now, wait=self.wait, say=self.lines.append)

    def wait(self, seconds: float) -> bool:
        self.pauses.append(seconds)
        self.now += seconds
        return self.now >= self.asked_at


class Away(MemoryStore):
    """A store that is unavailable for the next `failures` operations; `after`: they are carried out all the same."""

    def __init__(self, failures: int, *, after: bool = False) -> None:
        super().__init__()
        self.failures, self.after = failures, after

    def _check(self, key: str, expect: str | None) -> None:
        if not self.after:
            self._fail()
        super()._check(key, expect)

    def read(self, key: str) -> tuple[bytes, str] | None:
        if not self.after:
            self._fail()
        return super().read(key)

    def write(self, key: str, data: bytes, expect: str | None = None, **more: Any) -> str:
        version = super().write(key, data, expect, **more)
        self._fail()
        return version

    def delete(self, key: str, expect: str | None = None) -> None:
        super().delete(key, expect)
        self._fail()

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("/store: can't be written (No space left on device)")


@pytest.mark.parametrize("failures", [0, 1, 10])
def test_it_is_done_in_the_end_and_said_once(failures: int) -> None:
    time, store = Time(), Away(failures)
    assert PatientStore(store, time.outage()).write("a", b"1") == PatientStore(store, time.outage()).read("a")[1]  # type: ignore[index]
    assert time.pauses == sorted(time.pauses)
    assert all(FIRST_PAUSE_S <= pause <= LONGEST_PAUSE_S for pause in time.pauses)
    assert len(time.pauses) == failures
    if failures:
        begins, over = time.lines
        assert begins == "/store: can't be written (No space left on device); trying again for 120 s"
        assert over == f"the store is available again, after {time.now:.0f} s"
    else:
        assert time.lines == []


def test_it_gives_up_when_its_patience_is_over() -> None:
    time, store = Time(), Away(10**9)
    outage = time.outage(patience_s=30.0)
    with pytest.raises(StoreUnavailable, match="No space left"):
        PatientStore(store, outage).read("a")
    assert 30.0 <= time.now <= 30.0 + LONGEST_PAUSE_S
    assert len(time.lines) == 1
    assert outage.lasts_s == 0.0  # nobody tries any more, and the next outage is said


def test_one_key_that_stays_out_of_reach_is_given_up_though_others_succeed() -> None:
    """A folder of another user, for instance, while another thread reads the ledger every few seconds."""
    time = Time(asked_at=1000.0)
    outage = time.outage(patience_s=30.0)
    patient = PatientStore(MemoryStore(), outage)

    def read() -> None:
        patient.read("ledger")
        raise StoreUnavailable("/store/chaos/risk: can't be read (Permission denied)")

    with pytest.raises(StoreUnavailable, match="Permission denied"):
        outage.call(read)
    assert 30.0 <= time.now <= 30.0 + LONGEST_PAUSE_S
    assert time.lines == ["/store/chaos/risk: can't be read (Permission denied); trying again for 30 s"]


def test_an_answer_ends_an_outage_even_if_it_is_an_error() -> None:
    time, answers = Time(), [StoreUnavailable("gone"), RetainError("not a manifest")]

    def read() -> None:
        raise answers.pop(0)

    outage = time.outage()
    with pytest.raises(RetainError, match="not a manifest"):
        outage.call(read)
    assert outage.lasts_s == 0.0
    assert time.lines == ["gone; trying again for 120 s", "the store is available again, after 0 s"]


def test_it_gives_up_when_the_attempt_is_asked_to_stop() -> None:
    time = Time(asked_at=2.0)
    with pytest.raises(StoreUnavailable):
        PatientStore(Away(10**9), time.outage()).read("a")
    assert time.now < 5.0


def test_what_is_wrong_for_good_is_not_tried_again() -> None:
    def refused() -> None:
        raise RetainError("not a manifest")

    time = Time()
    with pytest.raises(RetainError, match="not a manifest"):
        time.outage().call(refused)
    assert (time.pauses, time.lines) == ([], [])


def test_an_outage_is_over_when_all_that_failed_has_succeeded() -> None:
    time = Time()
    outage = time.outage(patience_s=10.0)
    error = StoreUnavailable("gone")
    outage.failed("beat", error)
    time.now = 4.0
    outage.failed("copy", error)
    outage.failed("beat", error)
    time.now = 6.0
    outage.succeeded("copy")
    assert outage.lasts_s == 6.0
    time.now = 10.0
    assert outage.hopeless
    outage.succeeded("read")
    assert outage.hopeless
    outage.succeeded("beat")
    assert (outage.lasts_s, outage.hopeless) == (0.0, False)
    assert time.lines == ["gone; trying again for 10 s", "the store is available again, after 10 s"]


def test_lines_go_wherever_they_are_to_be_told() -> None:
    time, notes = Time(), list[str]()
    outage = time.outage()
    outage.tell(notes.append)
    outage.failed("beat", StoreUnavailable("gone"))
    assert notes == time.lines == ["gone; trying again for 120 s"]


CHANGES: dict[str, Callable[[Any], object]] = {
    "create": lambda store: store.write("new", b"1", expect=ABSENT),
    "replace": lambda store: store.write("old", b"2", expect=store.read("old")[1]),
    "delete": lambda store: store.delete("old", expect=store.read("old")[1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_conditional_change_that_only_seemed_to_fail_is_no_conflict(change: str) -> None:
    store = Away(0, after=True)
    store.write("old", b"1")
    store.failures = 1
    CHANGES[change](PatientStore(store, Time().outage()))
    assert store.content == {"create": {"old": b"1", "new": b"1"}, "replace": {"old": b"2"}, "delete": {}}[change]


@pytest.mark.parametrize("failures", [0, 1])
def test_a_change_that_another_one_made_first_is_a_conflict(failures: int) -> None:
    store = Away(failures, after=True)
    store.content["key"] = b"another's"
    patient = PatientStore(store, Time().outage())
    with pytest.raises(Conflict):
        patient.write("key", b"1", expect=ABSENT)
    with pytest.raises(Conflict):
        patient.delete("key", expect=ABSENT)
    assert store.content == {"key": b"another's"}


def test_every_operation_is_patient(tmp_path: Path) -> None:
    class Once(MemoryStore):
        """Each operation fails the first time."""

        def __init__(self) -> None:
            super().__init__()
            self.failed: set[str] = set()

        def __getattribute__(self, name: str) -> Any:
            operation = super().__getattribute__(name)
            if name not in ("read", "write", "delete", "list", "put_file", "local"):
                return operation

            def fails_once(*arguments: Any, **more: Any) -> Any:
                if name not in self.failed:
                    self.failed.add(name)
                    raise StoreUnavailable(name)
                return operation(*arguments, **more)

            return fails_once

    store = Once()
    patient = PatientStore(store, Time().outage())
    (tmp_path / "file").write_bytes(b"content")
    patient.put_file("a/file", tmp_path / "file")
    patient.write("a/key", b"1")
    assert list(patient.list("a")) == ["a/file", "a/key"]
    assert patient.local("a/file", tmp_path).read_bytes() == b"content"
    patient.delete("a/key")
    assert patient.read("a/key") is None
    assert store.failed == {"read", "write", "delete", "list", "put_file", "local"}
