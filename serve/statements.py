"""Statements in the words of their database, and a transaction that carries them out.

They are SQLAlchemy's, compiled once. Executing one takes the driver's 5 us then, SQLAlchemy 25 to 45, and a request
that comes alone needs ten of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement, Dialect, bindparam


class Text(NamedTuple):
    """SQL, the names of its parameters in their order, and the values of those that have one."""

    sql: str
    names: Sequence[str]
    given: Mapping[str, Any]


class Statement:
    """`clause` has bound parameters. Or it has one `IN` as `among` makes it, and nothing else that is bound."""

    def __init__(self, clause: ClauseElement) -> None:
        self._clause = clause
        self._texts: dict[tuple[str, int], Text] = {}

    def text(self, dialect: Dialect, count: int = 0) -> Text:
        """With `count` values in its IN."""
        text = self._texts.get((dialect.name, count))
        if text is None:
            clause = self._clause.params(among=[b""] * count) if count else self._clause
            compiled: Any = clause.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
            names, given = compiled.positiontup or [], {} if count else compiled.params
            text = self._texts[dialect.name, count] = Text(str(compiled), names, given)
        return text


def among(column: Any) -> Any:
    """That the column has one of the values that `Transaction.select_among` is given."""
    return column.in_(bindparam("among", expanding=True, type_=column.type))


class Transaction:
    """On a driver's `cursor`. `version` counts the transactions before it that changed a wallet."""

    def __init__(self, cursor: Any, dialect: Dialect) -> None:
        self.version = -1
        self._cursor = cursor
        self._dialect = dialect

    def select(self, statement: Statement, **values: Any) -> list[tuple[Any, ...]]:
        sql, names, given = statement.text(self._dialect)
        self._cursor.execute(sql, [values[name] if name in values else given[name] for name in names])
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def select_among(self, statement: Statement, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Rows with one of the values, of which there is at least one."""
        padded = _padded(values)
        self._cursor.execute(statement.text(self._dialect, len(padded)).sql, padded)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def write(self, statement: Statement, rows: Sequence[Mapping[str, Any]]) -> int:
        """How many rows were changed. Nothing to do for no rows."""
        if not rows:
            return 0
        sql, names, _ = statement.text(self._dialect)
        self._cursor.executemany(sql, [[row[name] for name in names] for row in rows])
        count: int = self._cursor.rowcount
        return count


def _padded(values: Sequence[Any]) -> list[Any]:
    """Up to a power of two, with the last one, so that there are few different statements."""
    count = 1 << (len(values) - 1).bit_length()
    return [*values, *([values[-1]] * (count - len(values)))]
