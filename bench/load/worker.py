"""A worker of the service without a database: `python -m bench.load.worker`, started as serve.worker is.

Everything but the state is the product's, the thread that writes among it, so what a database costs is the difference.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from engine.approvals import Watch
from retain.decision import NO_HISTORY, Terms
from serve import worker
from serve.app import create_app
from serve.child import begin, run
from serve.database import wall_clock
from serve.keys import NO_KEYS
from serve.operations import Answered, Ask, Operation, Past
from serve.settings import Settings, read


class MemoryState:
    """What serve.state.State is to the writer, for decisions alone, each about another customer: it remembers the
    wallet of one period, and nothing of anybody."""

    standing = problem = None

    def __init__(self, terms: Terms) -> None:
        self._wallet = terms.new_wallet()

    def carry_out(self, operations: Sequence[Operation]) -> list[Any]:
        now = wall_clock()
        return [self._ask(operation, now) if isinstance(operation, Ask) else None for operation in operations]

    def close(self) -> None:
        """There is nothing to close."""

    def _ask(self, ask: Ask, now: int) -> Answered:
        wallet = self._wallet.copy()
        choice = ask.choose(Past(NO_HISTORY, False), wallet, 1.0, now)
        self._wallet = wallet
        return Answered(choice.answer, choice.decision_id, False, False, False, choice.wording, now)


def state_of(settings: Settings, terms: Terms) -> Any:
    return MemoryState(terms)


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    inherited = begin(arguments)
    settings = read(environment)
    service = worker.service_of(settings, state_of)
    ready = {"release": "a release", "decides": "without a database", "warnings": []}
    run(inherited, create_app(service, Watch(), NO_KEYS), service.metrics, settings.keep_alive, ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
