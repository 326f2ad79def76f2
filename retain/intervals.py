"""95 % intervals: of a share by Wilson's formula, of anything else by the percentiles of a bootstrap.

Here because every stage family, eval and bench may import it, and because it is plain Python and numpy; engine knows
no statistics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NORMAL = 1.959963984540054  # 97.5 % of a normal distribution lie below
ENDS = (0.025, 0.975)  # quantiles
BLOCK = 256  # resamples drawn at once: memory stays small, and the draws are the same whatever it is


def wilson(hits: float, trials: int) -> tuple[float, float]:
    """(low, high) of the share hits / trials of independent trials (Wilson, JASA 22, 1927); a tie may be half a hit.

    It has a width where all or nothing was hit too: 0 of 100 still leaves up to .037. Raises ValueError for no trial.
    """
    if not trials:
        raise ValueError("a share of nothing")
    share, z = hits / trials, NORMAL
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    # At the ends the formula is 0 or 1 but for rounding.
    return 0.0 if hits == 0 else centre - half, 1.0 if hits == trials else centre + half


def percentiles(drawn: NDArray[Any]) -> tuple[float, float]:
    """(low, high) of the values (b,) that a statistic had on b resamples."""
    low, high = np.quantile(drawn, ENDS)
    return float(low), float(high)


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], NDArray[Any]], rows: int, resamples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """(low, high) of a statistic: for a block of resamples (b, rows), each the places of its rows, it has values (b,).

    What belongs together (both replies to a prompt, both models of a dialogue) has to be one row.
    """
    return percentiles(np.concatenate([statistic(drawn) for drawn in resampled(rows, resamples, rng)]))


def resampled(rows: int, resamples: int, rng: np.random.Generator, block: int = BLOCK) -> Iterator[NDArray[np.int64]]:
    """Blocks (b, rows) of places drawn with replacement, at most `block` resamples in each, `resamples` in all."""
    for start in range(0, resamples, block):
        yield rng.integers(rows, size=(min(block, resamples - start), rows))
