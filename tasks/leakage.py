"""How well an outcome may be told before it has to be doubted."""

from __future__ import annotations

# AUC. Churn and answers to campaigns are told with .7 to .9; what lies above this has mostly seen the outcome.
TOO_GOOD = 0.97
