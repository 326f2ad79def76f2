"""How well a score ranks two groups."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def auc(positive: Array, negative: Array) -> float:
    """Share of (positive, negative) couples, all of them, in which the positive scores higher; ties half. (m,) and (n,)
    scores without NaN, neither of them empty."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / 2 / len(negative))
