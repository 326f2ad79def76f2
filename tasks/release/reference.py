"""What a release would say to the customers of the validation part, by the service's own code.

Each customer is decided about alone, with no history and with the whole budget before her: what she would be told is to
be seen, not who is left when the money is spent. Nobody's reading counts, since none of these messages is sent.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import DataError
from retain.decision import Arm
from retain.policy import PolicyError
from retain.reference import Messages, Reference
from retain.release import TEMPLATES, Release
from retain.request import request_columns

PART = "validation"


def reference(release: Release, customers: Path) -> Reference:
    """Of both arms, where the release has a policy, and of each bank that it has. `customers`: the artifact's folder.

    Raises DataError for a table that can't be read, or a policy that can't decide about one of its customers.
    """
    names = [column.name for column in request_columns(release.spec)]
    try:
        content = (customers / "data.parquet").read_bytes()
        table = pq.read_table(pa.BufferReader(content), columns=names, filters=[("split", "=", PART)])
        assessments = [release.assess(row) for row in table.to_pylist()]
    except (OSError, ValueError) as error:
        raise DataError(f"{customers.name}/data.parquet: the {PART} part can't be read ({error})") from None
    banks = [bank for bank in release.banks if bank != TEMPLATES]
    messages: dict[str, dict[Arm, Messages]] = {bank: {} for bank in banks}
    for arm in get_args(Arm):
        if arm == "learned" and release.policy is None:
            continue
        try:
            decided = [
                (one, release.decide(one, release.terms.new_wallet(), 1.0, arm, in_shadow=True)) for one in assessments
            ]
        except PolicyError as error:
            raise DataError(f"the policy can't decide about a customer of the {PART} part: {error}") from None
        for bank in banks:
            said = (release.shadow_message(bank, one, decision) for one, decision in decided)
            messages[bank][arm] = Messages.of(message for message in said if message is not None)
    return Reference(customers=len(assessments), messages=messages)
