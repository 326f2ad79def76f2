"""Which arm decides about a customer: the baseline, or the learned policy for a share of customers.

A keyed hash of the customer's id decides, so a customer stays in her arm, over restarts and releases, and a growing
share only adds customers. Another key draws other customers. A second hash draws the hold-out: customers whom no arm
ever contacts, by whom the worth of all contacts is measured in the end. A third one, of a decision's id, draws the
decisions that explore: a uniform action in place of the baseline's, so that a log can tell what other actions do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the settings import this module, and the supervisor needs no more than them
    from retain.decision import Arm
    from retain.release import Release

# The default key is public. If customer ids can be guessed and arms must not be, set your own key.
DEFAULT_KEY = "retain"
MAX_KEY = 64  # bytes, of blake2b
DEFAULT_PERCENT = 5.0
DEFAULT_HOLD_OUT = 5.0
WHOLE = 2**64


@dataclass(frozen=True)
class Router:
    """`percent` of customers are decided about by the learned policy, none of them if `force_baseline`; `hold_out`
    percent are contacted by nobody. `exploration` is the share of the baseline's decisions that explore."""

    force_baseline: bool = True
    percent: float = DEFAULT_PERCENT
    key: str = DEFAULT_KEY
    hold_out: float = DEFAULT_HOLD_OUT
    exploration: float = 0.0

    def arm(self, customer: str | int | None) -> Arm:
        """The arm of the customer with that id, whether it was written as text or as a number; without one there is
        nothing to be told apart by, so the baseline decides."""
        if customer is None or not self._below:
            return "baseline"
        return "learned" if self._place(str(customer)) < self._below else "baseline"

    def held_out(self, customer: str | int | None) -> bool:
        """Whether nobody ever contacts the customer with that id; without an id nobody could be told apart."""
        return customer is not None and self._place(str(customer), b"hold-out") < self.hold_out / 100 * WHOLE

    def explored(self, decision: str, actions: int) -> int | None:
        """Which of so many actions is taken by the decision with that id, if it explores; None if it doesn't."""
        if not self.exploration or self._place(decision, b"explores") >= self.exploration * WHOLE:
            return None
        return self._place(decision, b"action") * actions // WHOLE

    def _place(self, text: str, purpose: bytes = b"") -> int:
        """A number from 0 to WHOLE - 1, even over texts, and another for each purpose."""
        digest = blake2b(text.encode(), key=self._key, digest_size=8, person=purpose).digest()
        return int.from_bytes(digest)

    @property
    def compares(self) -> bool:
        """Whether chance decides what is done about some customers, so that what becomes of them can be compared."""
        return bool(self.exploration or self.learned_percent)

    @property
    def learned_percent(self) -> float:
        return 0.0 if self.force_baseline else self.percent

    @cached_property
    def _below(self) -> int:
        return round(self.learned_percent / 100 * WHOLE)

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
    return replace(router, force_baseline=True), [f"FORCE_BASELINE=false, but {why}: everybody gets the baseline"]
