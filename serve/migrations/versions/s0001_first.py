"""The first tables. This file says what they were then; serve/tables.py says what they are."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("id", sa.SmallInteger, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        sa.Column("salt", sa.LargeBinary, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "wallet",
        sa.Column("start", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("end", sa.BigInteger, nullable=False),
        sa.Column("budget", sa.Double, nullable=False),
        sa.Column("committed", sa.Double, nullable=False),
        sa.Column("held", sa.Double, nullable=False),
        sa.Column("open", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "decision",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("customer", sa.LargeBinary(16)),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("period", sa.BigInteger, nullable=False),
        sa.Column("arm", sa.String(32), nullable=False),
        sa.Column("offer", sa.SmallInteger),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("liability", sa.Double, nullable=False),
        sa.Column("acceptance", sa.Double, nullable=False),
        sa.Column("charge", sa.Double, nullable=False),
        sa.Column("months", sa.SmallInteger, nullable=False),
        sa.Column("open_until", sa.BigInteger),
        sa.Column("answered", sa.String(16)),
        sa.Column("answered_at", sa.BigInteger),
        sa.Column("withdrawn", sa.Boolean, nullable=False),
        sa.Column("given_again", sa.Boolean, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("wording", sa.Text),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("shadow", sa.Text),
    )
    op.create_index("decision_customer", "decision", ["customer", "offer"])
    op.create_index("decision_at", "decision", ["at"])
    is_open = sa.text("open_until IS NOT NULL")
    op.create_index("decision_open", "decision", ["open_until"], sqlite_where=is_open, postgresql_where=is_open)
    op.create_table(
        "request_key",
        sa.Column("key", sa.LargeBinary(16), primary_key=True),
        sa.Column("body", sa.LargeBinary(16), nullable=False),
        sa.Column("decision", sa.String(64), sa.ForeignKey("decision.id", ondelete="CASCADE"), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("repeated", sa.Boolean, nullable=False),
    )
    op.create_index("request_key_decision", "request_key", ["decision"])
    op.create_index("request_key_at", "request_key", ["at"])
    op.create_table(
        "outcome",
        sa.Column("decision", sa.String(64), sa.ForeignKey("decision.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("month", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("amount", sa.Double),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "suppression",
        sa.Column("customer", sa.LargeBinary(16), primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
