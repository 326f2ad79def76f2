"""What the service remembers: decisions, answers, opt-outs and the wallet, in one transaction for many requests.

Whatever is decided follows from what this transaction has read and leaves with it: no other process writes meanwhile
(serve/database.py). So contact cap, opt-out, budget, a repeated request and an Idempotency-Key hold with any number of
workers and replicas, and nothing is answered that isn't on record.

**Wallet.** Each period of the budget has one, and an offer stays with that of the period it was made in. A period
begins where one before it ended, so wherever a clock jumps, no time has two budgets. An offer that nobody answered in
14 days counts as declined; one that is accepted later is charged all the same, since its discount was given.

**Ids.** A customer's is kept as a digest with a key that only this database has, a request's key and body likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from retain.decision import Terms
from serve.batch import Batch, Result
from serve.database import Database, StateUnavailable, wall_clock
from serve.operations import Operation
from serve.periods import Periods, Standing


class State:
    """Carries out operations on a database, under `terms` (whose budget and months are those of new periods; a running
    one takes over the budget). `clock` gives microseconds since 1970. Not for two threads at once."""

    def __init__(self, database: Database, terms: Terms, clock: Callable[[], int] = wall_clock) -> None:
        self.standing: Standing | None = None  # of the wallet, while the database answers
        self.problem: str | None = None  # why it doesn't
        self._database = database
        self._terms = terms
        self._clock = clock
        self._periods: Periods | None = None  # until the database answers

    def begin(self) -> None:
        """Opens the database, if it is there, so that standing or problem is known. Raises RetainError if it is there
        and can't be used."""
        try:
            self._database.open()
        except StateUnavailable as error:
            self.problem = str(error)
        else:
            with suppress(StateUnavailable):
                self.carry_out([])

    def carry_out(self, operations: Sequence[Operation]) -> list[Result]:
        """Their results, in their order, once all of it is on record. An operation that fails leaves nothing behind:
        its result is the exception. Raises StateUnavailable if nothing could be carried out."""
        try:
            return self._transaction(operations)
        except StateUnavailable as error:
            self.standing, self.problem = None, str(error)
            raise
        except Exception as error:  # one of them can't be written: which one?
            if not operations:
                raise
            if len(operations) == 1:
                return [error]
        return [self._alone(operation) for operation in operations]

    def close(self) -> None:
        """Closes the database, which leaves SQLite's file whole in one piece where nobody else has it open."""
        self._database.close()

    def _alone(self, operation: Operation) -> Result:
        try:
            return self.carry_out([operation])[0]
        except StateUnavailable as error:
            return error

    def _transaction(self, operations: Sequence[Operation]) -> list[Result]:
        try:
            with self._database.writing() as transaction:
                periods = self._periods = self._periods or Periods(self._database.started_at)
                periods.refresh(transaction)
                now = self._clock()
                periods.running(now, self._terms)  # begun in this transaction, if it is new, and written by it
                batch = Batch(transaction, self._database.salt, periods, self._terms, now)
                results = batch.carry_out(operations)
                standing = periods.standing(now, self._terms)
        except BaseException:
            self._periods = None  # they may be ahead of the database
            raise
        self.standing, self.problem = standing, None
        return results
