"""Which arm decides about a customer: the baseline, or the learned policy for a share of customers.

A keyed hash of the customer's id decides, so a customer stays in her arm, over restarts and releases, and a growing
share only adds customers. Another key draws other customers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

from retain.decision import Arm
from retain.release import Release

# The default key is public. If customer ids can be guessed and arms must not be, set your own key.
DEFAULT_KEY = "retain"
MAX_KEY = 64  # bytes, of blake2b
DEFAULT_PERCENT = 5.0


@dataclass(frozen=True)
class Router:
    """`percent` of customers are decided about by the learned policy, none of them if `force_baseline`."""

    force_baseline: bool = True
    percent: float = DEFAULT_PERCENT
    key: str = DEFAULT_KEY

    def arm(self, customer: str | int | None) -> Arm:
        """The arm of the customer with that id, whether it was written as text or as a number; without one there is
        nothing to be told apart by, so the baseline decides."""
        if customer is None or not self._below:
            return "baseline"
        place = blake2b(str(customer).encode(), key=self._key, digest_size=8).digest()
        return "learned" if int.from_bytes(place) < self._below else "baseline"

    @property
    def learned_percent(self) -> float:
        return 0.0 if self.force_baseline else self.percent

    @cached_property
    def _below(self) -> int:
        return round(self.learned_percent / 100 * 2**64)

    @cached_property
    def _key(self) -> bytes:
        return self.key.encode()


EVERYBODY_BASELINE = Router()


def routed(router: Router, release: Release) -> tuple[Router, list[str]]:
    """The router that holds for a release, and what to warn of: where there is no policy that customers may be shown,
    or no id to draw by, the baseline decides about everybody."""
    if not router.learned_percent:
        return router, []
    why = None
    if release.policy is None or "decision" not in release.shown:
        missed = [each.verdict for each in release.parts["decision"].missed]
        why = "the release has no learned policy" if release.policy is None else "its learned policy is shadow_only"
        why += f" (it missed {'; '.join(missed)})" if missed else ""
    elif "id" not in release.spec.roles:
        why = f"{release.spec.name} has no id that an arm could be drawn by"
    if why is None:
        return router, []
    return Router(True, router.percent, router.key), [f"FORCE_BASELINE=false, but {why}: everybody gets the baseline"]
