"""What PPO is paid for a reply: a reward model's opinion and three plain wishes, as the experiment weighs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tasks.config import RewardWeights


@dataclass(frozen=True)
class Scale:
    """Makes scores of one reward model numbers of order one: mean and deviation of those of the reference's replies."""

    mean: float
    sd: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Scale:
        """Measured once: a moving scale would change the reward under the policy's feet. Equal scores stay apart."""
        sd = float(np.std(scores))
        return cls(float(np.mean(scores)), sd if sd > 1e-6 else 1.0)

    def __call__(self, score: float) -> float:
        return (score - self.mean) / self.sd


@dataclass(frozen=True)
class Reward:
    """The parts as they are added up: what is a penalty is below 0."""

    rm: float
    safety: float
    brevity: float
    ending: float

    @property
    def total(self) -> float:
        return float(sum(astuple(self)))


def shaped(weights: RewardWeights, score: float, unsafe: bool, tokens: int, ended: bool, max_tokens: int) -> Reward:
    """`score` is standardised; `tokens` counts the end token, too; not `ended`: cut off at `max_tokens`."""
    return Reward(
        rm=weights.rm * min(max(score, -weights.clip), weights.clip),
        safety=-weights.safety * unsafe,
        brevity=weights.brevity * (1 - tokens / max_tokens),
        ending=-weights.ending * (not ended),
    )
