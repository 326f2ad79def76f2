"""What the learned arm would have done, as the decision's record holds it (retain.record.Shadow)."""

from __future__ import annotations

from typing import Any

import orjson

from serve.learned import Failure, Wish
from serve.spoken import Banks, Chosen, Said

_NOTHING: dict[str, Any] = {
    "version": None,
    "wanted": None,
    "missing": None,
    "risk": None,
    "probabilities": (),
    "said": None,
    "banks": None,
    "chosen": None,
    "breaks": (),
    "seconds": None,
}


def heard(answer: Wish | Failure, version: str | None, replied: float) -> bytes:
    """What the arm of the release with this `version` said, or that it failed. `replied`: seconds until the
    request was answered."""
    measured = {"version": version, "waited": answer.waited, "replied": replied}
    if isinstance(answer, Failure):
        return orjson.dumps(_NOTHING | measured | {"missing": answer.kind})
    return orjson.dumps(
        {
            **measured,
            "wanted": {"offer": answer.offer, "why": answer.why},
            "missing": None,
            "risk": answer.case.risk,
            "probabilities": answer.probabilities,
            "said": _said(answer.said, answer.banks),
            "banks": orjson.Fragment(answer.banks.record),
            "chosen": _said(answer.chosen, answer.banks),
            "breaks": () if answer.chosen is None else answer.chosen.breaks,
            "seconds": answer.seconds,
        }
    )


def _said(text: Said | Chosen | None, banks: Banks) -> dict[str, Any] | None:
    if text is None:
        return None
    return {
        "source": text.source,
        "text": None if banks.texts.get(text.source) == text.text else text.text,
        "characters": len(text.text),
        "tokens": text.tokens,
        "score": text.score,
    }
