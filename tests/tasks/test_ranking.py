"""The area under the curve against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tasks.ranking import auc


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns_with_ties(seed: int) -> None:
    draw = np.random.default_rng(seed)
    positive, negative = draw.integers(0, 6, 40) + 1.0, draw.integers(0, 6, 25) + 0.0
    labels = [1] * 40 + [0] * 25
    assert auc(positive, negative) == pytest.approx(roc_auc_score(labels, np.r_[positive, negative]), abs=1e-12)


def test_minus_infinity_ranks_last() -> None:
    assert auc(np.array([-np.inf, 2.0]), np.array([1.0, -np.inf])) == (0.5 + 1 + 1) / 4
