"""A table described in a few lines of YAML: where it is, its columns, its target, and what they mean.

Training validates a source against this description, features are derived from it, and the API accepts
exactly its columns: what a value may be (`bounds`, `is_nullable`, `is_blank`, `is_id`, `total_and_tenure`) is declared
here for both. `ops/datasets/telco.yaml` and `bank.yaml` are the first two descriptions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from retain.frozen import Frozen

Value = str | int

# What a column may stand for. A role that is missing only takes away what needs it (a table without
# `do_not_contact` has no opt-out column).
Role = Literal[
    "id",
    "monthly_charge",
    "tenure",
    "total_charge",
    "contract",
    "payment",
    "support",
    "internet",
    "do_not_contact",
    "name",
]
MAX_TEXT = 200  # characters of a text
MAX_ID = 128  # characters of an id
# What a number may be at most, whatever is described: above LARGEST it is infinite as a feature (float32), above
# LARGEST_INTEGER a float64 can't tell an integer from its neighbour.
LARGEST = 3.4028234663852886e38
LARGEST_INTEGER = 2**53 - 1


class DescriptionError(ValueError):
    """A description that can't be used: what is wrong with what stands at `path`, keys and places that lead there."""

    def __init__(self, problem: str, *path: str | int) -> None:
        super().__init__(problem)
        self.path = path


class Source(Frozen):
    """Where the table's CSV is found, and how it is written.

    `files`: names looked for in a data folder (`.gz` is decompressed), or absolute paths. `url`: of its download; none
    for a table of one's own. `members`: the way through nested zip files of the download, outermost first. `sha256` is
    that of the decompressed CSV; a table without one is taken as it is. `decimal`: what stands before the decimals.
    """

    files: tuple[str, ...] = Field(min_length=1)
    url: str | None = None
    members: tuple[str, ...] = ()
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    licence: str
    separator: Literal[",", ";", "\t", "|"]
    encoding: Literal["utf-8", "latin-1"]
    decimal: Literal[".", ","] = Field(default=".", exclude_if=lambda decimal: decimal == ".")


class Target(Frozen):
    column: str
    positive: Value
    negative: Value


class Column(Frozen):
    """One column. A `flag` has two values (false, true), a `category` all that are allowed.

    A `text` is the customer's name (role `name`), which a message may greet with: at most MAX_TEXT characters, "" for
    none, and never a feature, so no model, no policy and no reason holds it.

    `missing`: a number that means "no value" (pdays 999: never contacted); it may lie outside the bounds. `blank`:
    what training does with a row whose cell is empty: it refuses the table, drops the row, or keeps it, the cell then
    being `blank_value`, or `missing` where there is none. `blank_value`: what a blank stands for in a request. A blank
    total charge is taken of customers of tenure 0 only, in a table as in a request: they have no total yet, anybody
    else's is lost. `outside`: what becomes of a request in which the number is not plausible (retain/plausible.py).
    `leak`: known only after the outcome, so never a feature. `protected`: shown by group, never seen by a policy.
    """

    name: str = Field(min_length=1)
    kind: Literal["id", "number", "category", "flag", "text"]
    values: tuple[Value, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    integer: bool = False
    missing: float | None = None
    blank: Literal["error", "drop", "keep"] = "error"
    blank_value: float | None = None
    outside: Literal["refuse", "warn"] | None = Field(default=None, exclude_if=lambda value: value is None)
    protected: bool = False
    bands: tuple[float, ...] = ()
    leak: bool = False
    about: str = ""
    example: str | int | float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Column:
        numeric = ("minimum", "maximum", "missing", "blank_value", "outside")
        if self.kind != "number" and (self.integer or any(getattr(self, name) is not None for name in numeric)):
            raise ValueError(f"column {self.name!r} is a {self.kind}: only a number has {', '.join(numeric)}, integer")
        if self.kind == "flag" and len(self.values) != 2:
            raise ValueError(f"column {self.name!r} is a flag: values are [false, true]")
        if self.kind == "category" and len(self.values) < 2:
            raise ValueError(f"column {self.name!r} is a category: values lists the two or more that are allowed")
        if self.blank == "keep" and not is_nullable(self):
            raise DescriptionError(
                "a blank is kept as the number that stands for none: write `missing: -1`, or another number that no "
                "customer has. Of a category list '' among its values instead",
                "blank",
            )
        if self.kind == "id" and self.blank != "error":
            raise DescriptionError(f"column {self.name!r} is an id, which every customer has", "blank")
        if self.kind == "text" and (self.protected or self.leak or self.blank != "error"):
            raise ValueError(f"column {self.name!r} is a text: it is neither protected nor a leak, and may be empty")
        if self.kind in ("id", "number", "text") and self.values:
            raise ValueError(f"column {self.name!r} is a {self.kind}: it has no values")
        if len(set(self.values)) != len(self.values) or len({type(value) for value in self.values}) > 1:
            raise ValueError(f"column {self.name!r}: values are distinct, and all texts or all integers")
        if bool(self.bands) != (self.protected and self.kind == "number"):
            raise ValueError(f"column {self.name!r}: a protected number, and nothing else, has bands to be shown by")
        if list(self.bands) != sorted(set(self.bands)):
            raise ValueError(f"column {self.name!r}: bands are numbers that rise")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"column {self.name!r}: minimum {self.minimum:g} is above maximum {self.maximum:g}")
        limit = LARGEST_INTEGER if self.integer else LARGEST
        if self.missing is not None and (abs(self.missing) > limit or (self.integer and self.missing % 1)):
            raise ValueError(f"column {self.name!r}: missing {self.missing:g} is no value that the column could hold")
        if self.blank_value is not None and abs(self.blank_value) > LARGEST:
            raise ValueError(f"column {self.name!r}: blank_value {self.blank_value:g} is beyond float32")
        if self.example is not None and not _takes(self, self.example):
            raise DescriptionError(f"column {self.name!r} doesn't take this value", "example")
        return self


class BridgeRole(Frozen):
    """One of the yes/no properties by which two tables are matched, told from one column of this table."""

    role: str
    column: str
    equals: Value | None = None
    at_least: float | None = None

    @model_validator(mode="after")
    def _one_test(self) -> BridgeRole:
        if (self.equals is None) == (self.at_least is None):
            raise ValueError(f"bridge role {self.role!r} states exactly one of equals, at_least")
        return self


class DatasetSpec(Frozen):
    """A table. `columns` are those of the file without the target, in the file's order; `ignore` names those of the
    file that nothing reads."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    source: Source
    target: Target
    columns: tuple[Column, ...] = Field(min_length=1)
    ignore: tuple[str, ...] = Field(default=(), exclude_if=lambda names: not names)
    roles: dict[Role, str] = Field(default_factory=dict)
    bridge: tuple[BridgeRole, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSpec:
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"column {twice[0]!r} is described twice")
        if self.target.column in names:
            raise ValueError(f"column {self.target.column!r} is the target: it is not described among the columns")
        if self.target.positive == self.target.negative:
            raise ValueError("the target's positive and negative values are the same")
        for role, name in self.roles.items():
            if name not in names:
                raise DescriptionError(f"role {role!r} names column {name!r}, which is not described", "roles", role)
        for place, name in enumerate(self.ignore):
            if name in names or name == self.target.column:
                raise DescriptionError(f"{name!r} is described, too: it is either read or ignored", "ignore", place)
        for place, part in enumerate(self.bridge):
            if part.column not in names:
                raise DescriptionError(
                    f"bridge role {part.role!r} names column {part.column!r}, which is not described", "bridge", place
                )
        roles = bridge_roles(self)
        if len(set(roles)) != len(roles):
            raise ValueError("a bridge role is stated twice")
        ids = [column.name for column in self.columns if column.kind == "id"]
        if len(ids) > 1:
            raise ValueError(f"columns {', '.join(ids)} are all ids: a table has at most one")
        if ids != ([self.roles["id"]] if "id" in self.roles else []):
            raise ValueError("role 'id' and the column of kind id are the same column, or neither is there")
        texts = [column.name for column in self.columns if column.kind == "text"]
        if texts != ([self.roles["name"]] if "name" in self.roles else []):
            raise ValueError("role 'name' and the column of kind text are the same column, or neither is there")
        if any(part.column in texts for part in self.bridge):
            raise ValueError("a bridge role is told from a text, which is no feature")
        if not feature_columns(self):
            raise ValueError("no column is left as a feature")
        for place, part in enumerate(self.bridge):
            if problem := _untestable(part, column(self, part.column)):
                raise DescriptionError(f"bridge role {part.role!r} {problem}", "bridge", place)
        if problem := _no_opt_out(self):
            raise DescriptionError(problem, "roles", "do_not_contact")
        return self


def _takes(column: Column, value: str | float) -> bool:
    """Whether a request may have the value in this column."""
    if column.kind in ("id", "text"):
        return column.kind == "id" or (isinstance(value, str) and len(value) <= MAX_TEXT)
    if column.kind != "number":
        return value in column.values and type(value) is type(column.values[0])
    if isinstance(value, str):
        return False
    low, high = bounds(column)
    return value == column.missing or (low <= value <= high and not (column.integer and value % 1))


def _untestable(part: BridgeRole, column: Column) -> str | None:
    """Why a bridge role can't be told from its column; None if it can."""
    if column.leak:
        return f"is told from {column.name!r}, a leak, which no request has: name another column"
    if part.at_least is not None and column.kind != "number":
        return f"compares {column.name!r}, a {column.kind}, with a number: write `equals` and one of its values"
    if column.kind in ("flag", "category") and (part.equals is None or not _takes(column, part.equals)):
        known = ", ".join(map(repr, column.values))
        return f"waits for {part.equals!r} in {column.name!r}, which is only ever one of {known}"
    return None


def _no_opt_out(spec: DatasetSpec) -> str | None:
    """Why the column of role do_not_contact can't say whom not to contact; None if it can, or there is no such role."""
    if "do_not_contact" not in spec.roles:
        return None
    told_by = column(spec, spec.roles["do_not_contact"])
    if told_by.leak:
        return f"column {told_by.name!r} is a leak, which no request has, so nobody could be contacted: take `leak` out"
    if told_by.kind in ("id", "text"):
        return f"column {told_by.name!r} is of kind {told_by.kind}: a flag says whom not to contact, [no, yes]"
    return None


def bounds(column: Column) -> tuple[float, float]:
    """The smallest and the largest value of a number: those described, within what can be read and be a feature."""
    limit = float(LARGEST_INTEGER) if column.integer else LARGEST
    low = -limit if column.minimum is None else max(column.minimum, -limit)
    high = limit if column.maximum is None else min(column.maximum, limit)
    return low, high


def is_nullable(column: Column) -> bool:
    """Whether a customer may be without this number: something then stands for it."""
    return column.blank_value is not None or column.missing is not None


def is_id(text: str) -> bool:
    """Whether a text can be a customer's id: something visible, without space around it or control characters."""
    return 0 < len(text) <= MAX_ID and text == text.strip() and text.isprintable()


def is_blank(text: str) -> bool:
    """Whether a cell holds nothing, as CSV exports write it: "", or spaces (IBM's table has one)."""
    return not text.strip()


def total_and_tenure(spec: DatasetSpec) -> tuple[str, str] | None:
    """The columns of total charge and tenure of a table that has both: a blank total is taken where tenure is 0."""
    names = spec.roles.get("total_charge"), spec.roles.get("tenure")
    return None if names[0] is None or names[1] is None else (names[0], names[1])


def column(spec: DatasetSpec, name: str) -> Column:
    """The column of that name; KeyError when it isn't described."""
    for candidate in spec.columns:
        if candidate.name == name:
            return candidate
    raise KeyError(name)


def number_of(spec: DatasetSpec, role: Role, row: Mapping[str, object]) -> float | None:
    """The number of a role in a row; None where no column has the role, or the number is missing."""
    value = row.get(spec.roles.get(role, ""))
    if not isinstance(value, int | float) or value != value or value == column(spec, spec.roles[role]).missing:
        return None
    return value


def feature_columns(spec: DatasetSpec) -> tuple[Column, ...]:
    """The columns a model may see: neither the id, nor a text, nor what is known only after the outcome."""
    return tuple(column for column in spec.columns if column.kind not in ("id", "text") and not column.leak)


def protected_columns(spec: DatasetSpec) -> tuple[Column, ...]:
    return tuple(column for column in spec.columns if column.protected)


def bridge_roles(spec: DatasetSpec) -> tuple[str, ...]:
    return tuple(part.role for part in spec.bridge)


def cell(spec: DatasetSpec, row: Mapping[str, object], roles: Sequence[str] | None = None) -> str:
    """The bridge cell of one customer: "1,0,1" is one yes/no per role, in the order of `roles`.

    A table that lacks one of the roles has one cell for everybody: "". Raises KeyError for a row without the
    column of a role.
    """
    wanted = bridge_roles(spec) if roles is None else tuple(roles)
    tests = {part.role: part for part in spec.bridge}
    if any(role not in tests for role in wanted):
        return ""
    return ",".join("1" if _holds(spec, tests[role], row[tests[role].column]) else "0" for role in wanted)


def _holds(spec: DatasetSpec, part: BridgeRole, value: object) -> bool:
    if part.at_least is None:
        return value == part.equals
    # A missing number (None, NaN, or what stands for one) is not at least anything.
    return isinstance(value, int | float) and value >= part.at_least and value != column(spec, part.column).missing
