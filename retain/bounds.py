"""The bound of an offer, for the terms that state offers, the messages that name them and the requests that tell them.

Apart from retain/offers.py, whose code is no affair of the stages that write messages.
"""

from __future__ import annotations

MAX_PERCENT = 50  # off the monthly charge; more than half is no offer that any table of costs here was made for
