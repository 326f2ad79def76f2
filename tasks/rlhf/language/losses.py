"""The metric training_loss, which `base` and `sft` share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LAST_STEPS = 100


def training_loss(losses: Sequence[float]) -> dict[str, float]:
    """A metric: the mean loss of the last LAST_STEPS steps, or of all where there are fewer."""
    return {"value": float(np.mean(losses[-LAST_STEPS:]))}
