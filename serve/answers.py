"""What the routes answer, as OpenAPI describes it; the service writes the JSON itself (deciding.py, routes.py)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from retain.decision import Action, Arm, Why
from retain.message import SITUATIONS
from retain.release import SOURCES
from serve.operations import Status


class Reason(BaseModel):
    """A column's share in the log-odds of churn, along the paths of the trees; protected columns are left out."""

    feature: str
    value: Any
    contribution: float


class Text(BaseModel):
    """`text` ends in a line of its own that says how to opt out, and who writes. `source`: who wrote what is above it,
    nobody's model (template), or the language model before (sft) or after (rlhf) it was trained on preferences."""

    situation: Literal[SITUATIONS]  # type: ignore[valid-type]
    text: str
    source: Literal[SOURCES]  # type: ignore[valid-type]


class Answer(BaseModel):
    """`mode` is the arm that decided: in any doubt about the learned policy's decision it is the baseline.

    `decision_id` is what /outcomes wants; null where nothing could be put on record (`why`: state_unavailable), and
    then nobody is contacted. `repeated`: an offer of hers is still open, and this is the decision that made it.
    `send_after`: from when on (UTC) the message may be sent, by the quiet hours where she lives.
    """

    decision_id: str | None
    repeated: bool
    risk: float
    acceptance: float
    acceptance_full: float | None
    action: Action
    offer: int | None
    why: Why
    message: Text | None
    send_after: str | None
    reasons: list[Reason]
    mode: Arm
    versions: dict[str, str]


class NotedAnswer(BaseModel):
    """`recorded`; `repeated`: it was on record already; `late`: recorded, though the offer had expired, so that what it
    costs is committed all the same."""

    status: Literal["recorded", "repeated", "late"]


# What an outcome is refused for, with its status code and a sentence.
REFUSED: dict[Status, tuple[int, str]] = {
    "unknown": (404, "there is no such decision"),
    "no_offer": (422, "the decision made no offer that could be accepted or declined"),
    "contradicts": (409, "something else is on record already, and stays"),
}
