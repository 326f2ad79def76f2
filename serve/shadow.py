"""What the learned arm would have done, as the decision's record holds it (retain.record.Shadow)."""

from __future__ import annotations

from typing import Any

import orjson

from retain.release import Release
from serve.learned import Failure, Wish
from serve.spoken import Chosen, Said

_NOTHING: dict[str, Any] = {
    "version": None,
    "wanted": None,
    "missing": None,
    "risk": None,
    "probabilities": (),
    "said": None,
    "rlhf_missing": None,
    "chosen": None,
    "breaks": (),
    "seconds": None,
    "waited": None,
}


def heard(answer: Wish | Failure, version: str | None, release: Release) -> bytes:
    """What the arm of the release with this `version` said, or that it failed."""
    if isinstance(answer, Failure):
        return orjson.dumps(_NOTHING | {"version": version, "missing": answer.kind})
    return orjson.dumps(
        {
            "version": version,
            "wanted": {"offer": answer.offer, "why": answer.why},
            "missing": None,
            "risk": answer.case.risk,
            "probabilities": answer.probabilities,
            "said": _said(answer.said),
            "rlhf_missing": None if answer.offer is None else _rlhf_missing(answer, release),
            "chosen": _said(answer.chosen),
            "breaks": () if answer.chosen is None else answer.chosen.breaks,
            "seconds": answer.seconds,
            "waited": answer.waited,
        }
    )


def _rlhf_missing(wish: Wish, release: Release) -> str | None:
    """Why what would be said isn't a text that PPO trained; None: it is."""
    if wish.said is not None and wish.said.source == "rlhf":
        return None
    if "rlhf" not in release.banks:
        return "left_out"
    return "unread" if wish.chosen is not None and wish.chosen.source == "rlhf" else "no_message"


def _said(text: Said | Chosen | None) -> dict[str, Any] | None:
    if text is None:
        return None
    return {
        "source": text.source,
        "text": text.text,
        "characters": len(text.text),
        "tokens": text.tokens,
        "score": text.score,
    }
