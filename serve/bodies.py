"""Bodies of the routes beside /retain: what became of a decision, and who may not be contacted any more.

They are read as strictly as requests for a decision are (schema.py), and what is refused is told in the same words.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from retain.record import OutcomeKind
from serve.operations import Outcome
from serve.schema import KINDS, MAX_ERRORS, Invalid, Place, identifier, parse, printable

MAX_MONTH = 120
MAX_AMOUNT = 1e9  # in units of the currency
MAX_REASON = 200
MICROSECOND = 1_000_000
DECISION_ID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

Body = TypeVar("Body", bound="_Body")

# What callers are told, by pydantic's types; beside those of a request for a decision.
_KINDS = KINDS | {
    "literal_error": "not_one_of_the_allowed",
    "string_pattern_mismatch": "string_length_or_characters",
    "model_type": "not_an_object",
    "no_time": "no_time",
    "wants_month_and_amount": "wants_month_and_amount",
    "no_month_or_amount": "no_month_or_amount",
    "finite_number": "not_finite",
}


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _time(value: str) -> str:
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None and 1970 <= moment.astimezone(UTC).year < 3000:
            return value
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError("no_time", "no time")


class OutcomeBody(_Body):
    """What became of a decision. `month` counts from the decision, `amount` is what was paid in it, in the currency of
    the offers; both belong to `revenue` alone. `at`: when it happened, in ISO 8601 with its zone; now unless stated."""

    decision_id: Annotated[str, Field(pattern=DECISION_ID)]
    outcome: OutcomeKind
    month: Annotated[int, Field(ge=1, le=MAX_MONTH)] | None = None
    amount: Annotated[float, Field(ge=0, le=MAX_AMOUNT)] | None = None
    at: Annotated[str, Field(max_length=40), AfterValidator(_time)] | None = None

    @model_validator(mode="after")
    def _belongs(self) -> OutcomeBody:
        if self.outcome == "revenue":
            if self.month is None or self.amount is None:
                raise PydanticCustomError("wants_month_and_amount", "wants month and amount")
        elif self.month is not None or self.amount is not None:
            raise PydanticCustomError("no_month_or_amount", "has neither month nor amount")
        return self

    @property
    def operation(self) -> Outcome:
        at = None if self.at is None else int(datetime.fromisoformat(self.at).timestamp() * MICROSECOND)
        return Outcome(self.decision_id, self.outcome, self.month, self.amount, at)


class SuppressBody(_Body):
    """Somebody whom nobody may contact from now on, in any channel; `reason` is kept beside it."""

    customer: Annotated[str | int, AfterValidator(identifier)]
    reason: Annotated[str, Field(max_length=MAX_REASON), AfterValidator(printable)] = ""


def read(model: type[Body], body: bytes) -> Body:
    """Raises Invalid with everything that is wrong."""
    content = parse(body)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        faults: dict[Place, tuple[str, Place]] = {}
        for fault in error.errors(include_url=False, include_context=False):
            # A key that the caller made up isn't repeated: it is told of the object that it is in.
            place = tuple(name for name in fault["loc"][:1] if name in model.model_fields)
            kind = _KINDS.get(fault["type"], "invalid")
            if fault["type"] == "int_type" and type(fault["input"]) is float:
                kind = "integer_type"
            faults.setdefault(place, (kind, place))
        raise Invalid(list(faults.values())[:MAX_ERRORS]) from None


def schemas() -> dict[str, dict[str, Any]]:
    """By path, the JSON schema of its body."""
    return {"/outcomes": OutcomeBody.model_json_schema(), "/suppress": SuppressBody.model_json_schema()}
