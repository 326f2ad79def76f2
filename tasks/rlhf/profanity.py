"""A second opinion on what a message may not hold, by a model that others trained (alt-profanity-check, offline).

The package loads its model by joblib, which means unpickling it, and does so when it is imported. So the package is
imported only here, only when candidates are judged, and only after its two files proved to be those that were looked
at: their sha256 stand below. Nothing of it is stored or served.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from engine.errors import RetainError

FILES = {  # of alt-profanity-check 1.9.1
    "data/model.joblib": "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
    "data/vectorizer.joblib": "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
}
PACKAGE = "profanity_check"
LIMIT = 0.5  # its own, for a yes


def profane(texts: Sequence[str]) -> list[bool]:
    """Of each text. Raises RetainError where the package is missing or holds other files."""
    if not texts:
        return []
    verify(folder())
    from profanity_check import predict_prob  # not before its files were looked at

    return [bool(share >= LIMIT) for share in predict_prob(list(texts))]


def folder() -> Path:
    """Where the package lies; finding it doesn't import it."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise RetainError(f"package {PACKAGE} is missing; run make setup")
    return Path(found.origin).parent


def verify(package: Path) -> None:
    for name, expected in FILES.items():
        path = package / name
        found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "nothing"
        if found != expected:
            raise RetainError(
                f"{PACKAGE}/{name}: has sha256 {found[:12]}, not {expected[:12]} as alt-profanity-check 1.9.1 has; it "
                "would be unpickled, so it is not loaded. Install the pinned version again (make setup)"
            )
