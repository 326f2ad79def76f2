"""Tables of the service's database, in SQLite and in PostgreSQL. Times are microseconds since 1970, UTC.

A change of them is a new migration in serve/migrations/versions; a test compares what the migrations make with this.
No customer's id is stored: `customer` is a digest of it with a key that this database alone has (`meta.salt`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

# The last migration's name. Compared with the database's at every start, so that Alembic is imported only to migrate.
SCHEMA = "0001"
SCHEMA_TABLE = "retain_schema"  # Alembic's own; another program's in the same database has another name

metadata = MetaData()

# One row, whose lock every write takes first. `version` counts the commits that changed a wallet.
meta = Table(
    "meta",
    metadata,
    Column("id", SmallInteger, CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
    Column("salt", LargeBinary, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

# One row for each period of the budget, named by its start. `state` is all of retain.wallet.Wallet; the amounts beside
# it repeat what is in it for whoever looks into the database. `version` is that of `meta` when the row was written.
wallet = Table(
    "wallet",
    metadata,
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    Column("end", BigInteger, nullable=False),
    Column("budget", Double, nullable=False),
    Column("committed", Double, nullable=False),
    Column("held", Double, nullable=False),
    Column("open", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
)

# `period` is the start of the wallet that made the offer. `open_until` is there while an offer waits for its answer;
# `answered` is accepted, declined or expired. `given_again`: the same answer went out a second time, so it can't be
# withdrawn any more. `answer` (as sent, but not greeted by name), `detail` and `shadow` are JSON. `wording`: the text
# of the answer's message as people approve it.
decision = Table(
    "decision",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("customer", LargeBinary(16)),
    Column("at", BigInteger, nullable=False),
    Column("period", BigInteger, nullable=False),
    Column("arm", String(32), nullable=False),
    Column("offer", SmallInteger),
    Column("cost", Double, nullable=False),
    Column("liability", Double, nullable=False),
    Column("acceptance", Double, nullable=False),
    Column("charge", Double, nullable=False),
    Column("months", SmallInteger, nullable=False),
    Column("open_until", BigInteger),
    Column("answered", String(16)),
    Column("answered_at", BigInteger),
    Column("withdrawn", Boolean, nullable=False),
    Column("given_again", Boolean, nullable=False),
    Column("answer", Text, nullable=False),
    Column("wording", Text),
    Column("detail", Text, nullable=False),
    Column("shadow", Text),
)
Index("decision_customer", decision.c.customer, decision.c.offer)
Index("decision_at", decision.c.at)
OPEN = decision.c.open_until.is_not(None)
Index("decision_open", decision.c.open_until, sqlite_where=OPEN, postgresql_where=OPEN)

# An Idempotency-Key and the body that came with it, as digests. `repeated` is what its first answer said of itself.
request_key = Table(
    "request_key",
    metadata,
    Column("key", LargeBinary(16), primary_key=True),
    Column("body", LargeBinary(16), nullable=False),
    Column("decision", String(64), ForeignKey("decision.id", ondelete="CASCADE"), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("repeated", Boolean, nullable=False),
)
Index("request_key_decision", request_key.c.decision)
Index("request_key_at", request_key.c.at)

# What became of a decision. `month` is 0 but for revenue. `at`: when it happened, as far as known; `received_at`: when
# it was told. `amount`: revenue of that month, or what a customer who left gave back to the wallet.
outcome = Table(
    "outcome",
    metadata,
    Column("decision", String(64), ForeignKey("decision.id", ondelete="CASCADE"), primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("month", SmallInteger, primary_key=True, autoincrement=False),
    Column("amount", Double),
    Column("at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
)

suppression = Table(
    "suppression",
    metadata,
    Column("customer", LargeBinary(16), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)
