"""The random streams of this family: a draw comes from the generator of [seed, stream].

Results depend on the numbers, so they never change; a new stream takes a new number. Folds have no stream: they are
drawn from [seed, number of rows], and every table has more rows than there are streams.
"""

from __future__ import annotations

INTERVALS = 2  # resamples of the model's metrics
BRIDGE_INTERVALS = 3  # resamples of the metrics of the model behind the bridge
BACKTEST_INTERVALS = 4
