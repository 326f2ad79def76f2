"""A process that asks, tells and opts out, for tests in which several do so at once or are killed at it.

`python -m tests.serve.racer` reads a job as JSON from standard input, says "ready", waits for another line, and then
writes what it was answered, a line for each batch, once that is on record.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from serve.operations import Answered, Ask, Complete, Operation, Outcome, Suppress, Withdraw
from tests.serve.memory import START, Memory, offer


@dataclass
class Job:
    """`operations`: (kind, customer, key or None) each; what is told is told of the customer's last decision here.

    `step` microseconds go by on this process's clock with each batch; None: it is the machine's own.
    """

    url: str
    operations: list[tuple[str, str, str | None]]
    budget: float = 1e6
    batch: int = 4
    step: int | None = None
    terms: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    job = Job(**json.loads(sys.stdin.readline()))
    if job.step is None:
        from serve.database import wall_clock

        memory = Memory(job.url, job.budget, clock=wall_clock, **job.terms)
    else:
        memory = Memory(job.url, job.budget, **job.terms)
        memory.clock.now = START
    print("ready", flush=True)
    sys.stdin.readline()
    decisions: dict[str, str] = {}
    while job.operations:
        batch, job.operations = job.operations[: job.batch], job.operations[job.batch :]
        results = memory.state.carry_out([_operation(*one, decisions) for one in batch])
        for (_, customer, _), result in zip(batch, results):
            if isinstance(result, Exception):
                raise result
            if isinstance(result, Answered):
                decisions[customer] = result.decision_id
        print(json.dumps([(*one, _shown(result)) for one, result in zip(batch, results)]), flush=True)
        if job.step is not None:
            memory.clock.now += job.step
    memory.close()


def _operation(kind: str, customer: str, key: str | None, decisions: dict[str, str]) -> Operation:
    last = decisions.get(customer, "none")
    match kind:
        case "ask":
            return Ask(customer, key, b"body", offer(liability=30.0 + len(customer) / 7))
        case "suppress":
            return Suppress(customer, "by post")
        case "complete":
            return Complete(last, b'{"arm":"learned"}')
        case "withdraw":
            return Withdraw(last)
    return Outcome(last, kind)  # type: ignore[arg-type]


def _shown(result: Any) -> Any:
    if isinstance(result, Answered):
        return asdict(result) | {"answer": result.answer.decode()}
    return getattr(result, "status", result)


if __name__ == "__main__":
    main()
