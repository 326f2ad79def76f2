"""What two releases have to have in common, so that one can be tried beside the other: the table, and what is offered.

The service loads no challenger that differs, and no run proposes one.
"""

from __future__ import annotations

import hashlib
from typing import Any

from retain.dataset import DatasetSpec
from retain.decision import Terms


def dataset_digest(spec: DatasetSpec) -> str:
    """What two releases for the same table have in common."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


def what_is_offered(terms: Terms) -> dict[str, Any]:
    """What a policy has to have learned from, to decide under these terms."""
    return {"offers": terms.offers.model_dump("json"), "cap": terms.cap.model_dump("json")}
