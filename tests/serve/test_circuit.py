"""The learned arm's circuit, by a clock that stands where a test puts it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve.circuit import FIRST_PAUSE, LONGEST_PAUSE, Circuit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> Circuit:
    circuit = Circuit(clock)
    for _ in range(2):
        miss(circuit, "deadline")
    assert circuit.state == "open"
    return circuit


def permit(circuit: Circuit) -> int:
    number = circuit.permit()
    assert number is not None
    return number


def miss(circuit: Circuit, reason: str = "error") -> None:
    circuit.missed(permit(circuit), reason)


def test_two_misses_in_a_row_open_it() -> None:
    circuit = Circuit(Clock())
    miss(circuit, "deadline")
    assert circuit.permit() is not None
    miss(circuit, "not_finite")
    assert (circuit.state, circuit.reason, circuit.retry_in) == ("open", "not_finite", FIRST_PAUSE)
    assert circuit.permit() is None


def test_a_success_between_two_misses_keeps_it_closed() -> None:
    circuit = Circuit(Clock())
    for _ in range(10):
        miss(circuit)
        circuit.succeeded(permit(circuit))
    assert circuit.state == "closed"


def test_one_probe_at_a_time_is_let_through_after_the_pause() -> None:
    clock = Clock()
    circuit = opened(clock)
    clock.now += FIRST_PAUSE - 0.001
    assert circuit.permit() is None
    clock.now += 0.001
    probe = circuit.permit()
    assert probe is not None
    assert circuit.state == "half_open"
    clock.now += 10 * FIRST_PAUSE
    assert circuit.permit() is None
    circuit.succeeded(probe)
    assert circuit.state == "closed"
    assert circuit.permit() is not None


def test_each_probe_that_fails_doubles_the_pause_up_to_ten_minutes() -> None:
    clock = Clock()
    circuit = opened(clock)
    pauses = []
    for _ in range(7):
        pauses.append(circuit.retry_in)
        clock.now += circuit.retry_in
        miss(circuit, "died")
    assert pauses == [30, 60, 120, 240, 480, 600, 600]
    assert LONGEST_PAUSE == 600
    assert circuit.reason == "died"


def test_after_a_success_the_pause_is_the_first_one_again() -> None:
    clock = Clock()
    circuit = opened(clock)
    for _ in range(3):
        clock.now += circuit.retry_in
        miss(circuit)
    clock.now += circuit.retry_in
    circuit.succeeded(permit(circuit))
    miss(circuit)
    miss(circuit)
    assert circuit.retry_in == FIRST_PAUSE


def test_questions_under_way_when_it_opened_decide_nothing() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    under_way = [permit(circuit) for _ in range(5)]
    for number in under_way[:2]:
        circuit.missed(number, "deadline")
    circuit.succeeded(under_way[2])
    assert circuit.state == "open"
    clock.now += FIRST_PAUSE
    probe = permit(circuit)
    circuit.missed(under_way[3], "deadline")
    circuit.succeeded(under_way[4])
    assert circuit.state == "half_open"
    circuit.succeeded(probe)
    assert circuit.state == "closed"
    miss(circuit)
    circuit.missed(under_way[3], "deadline")
    assert circuit.state == "closed"


@given(st.lists(st.tuples(st.sampled_from(["ask", "success", "miss", "wait"]), st.floats(0, 700)), max_size=60))
def test_a_circuit_that_is_told_of_every_question_never_stays_open(steps: list[tuple[str, float]]) -> None:
    """Whatever happens, an hour of successes closes it, and while it isn't closed at most one question is under way."""
    clock = Clock()
    circuit = Circuit(clock)
    asked: list[int] = []
    since_closed: list[int] = []
    for step, seconds in steps:
        if step == "ask" and (number := circuit.permit()) is not None:
            asked.append(number)
            since_closed = [] if circuit.state == "closed" else [*since_closed, number]
        elif step == "wait":
            clock.now += seconds
        elif asked:
            number = asked.pop(0)
            if number in since_closed:
                since_closed.remove(number)
            if step == "success":
                circuit.succeeded(number)
            else:
                circuit.missed(number, "error")
        assert len(since_closed) <= 1
    for number in asked:
        circuit.missed(number, "died")
    clock.now += 3600
    if circuit.state != "closed":
        circuit.succeeded(permit(circuit))
    assert circuit.state == "closed"
