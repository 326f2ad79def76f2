"""What the learned arm would have done, as the decision's record holds it (retain.record.Shadow)."""

from __future__ import annotations

from typing import Any

import orjson

from serve.learned import Failure, Wish
from serve.spoken import Chosen, Said

_NOTHING: dict[str, Any] = {
    "wanted": None,
    "missing": None,
    "risk": None,
    "probabilities": (),
    "said": None,
    "chosen": None,
    "breaks": (),
    "seconds": None,
    "waited": None,
}


def heard(answer: Wish | Failure) -> bytes:
    """What the arm said, or that it failed."""
    if isinstance(answer, Failure):
        return orjson.dumps(_NOTHING | {"missing": answer.kind})
    return orjson.dumps(
        {
            "wanted": {"offer": answer.offer, "why": answer.why},
            "missing": None,
            "risk": answer.case.risk,
            "probabilities": answer.probabilities,
            "said": _said(answer.said),
            "chosen": _said(answer.chosen),
            "breaks": () if answer.chosen is None else answer.chosen.breaks,
            "seconds": answer.seconds,
            "waited": answer.waited,
        }
    )


def _said(text: Said | Chosen | None) -> dict[str, Any] | None:
    if text is None:
        return None
    tokens = text.tokens if isinstance(text, Said) else None
    return {"source": text.source, "characters": len(text.text), "tokens": tokens, "score": text.score}
