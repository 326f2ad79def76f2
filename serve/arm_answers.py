"""What an answer of the learned arm's process has to be: it is trusted in nothing."""

from __future__ import annotations

import math
from typing import Any

from retain.message import SITUATIONS
from serve.trial_metrics import ArmFailure

REPORTED: dict[str, ArmFailure] = {"error": "error", "not_finite": "not_finite"}  # by the process itself
ROUNDED = 1e-6  # how far probabilities may be off by rounding


def are_probabilities(content: Any, actions: int) -> bool:
    """Whether it is a probability for each of so many actions."""
    return (
        type(content) is list
        and [type(number) for number in content] == [float] * actions
        and min(content) >= 0
        and abs(sum(content) - 1) <= ROUNDED
    )


def is_assessed(content: Any, offered: bool) -> bool:
    """Whether it is a situation, of one who is `offered` something, with a risk, an acceptance and its spread."""
    if type(content) is not list or len(content) != 4 or (offered and content[0] not in SITUATIONS):
        return False
    if not all(type(number) is float for number in content[1:]):
        return False
    risk, acceptance, spread = map(float, content[1:])
    return 0 <= risk <= 1 and 0 < acceptance < 1 and 0 <= spread < math.inf
