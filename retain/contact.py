"""Who may be contacted now, whatever a policy wants: the one mask that simulator and service share.

Nobody who opted out, nobody whose offer still runs, nobody who was contacted as often as the cap allows, nobody twice
within a month (decisions are monthly; a policy never learnt what a second contact in the same month does). Action 0,
no contact, is always allowed; actions 1.. are the offers in the order of the experiment's levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bar = Literal["do_not_contact", "hold_out", "running_offer", "contact_cap", "contacted_this_month"]


def allowed(contacts: NDArray[Any], max_contacts: int, window: int) -> Bools:
    """(n,): whether one more contact now keeps to at most `max_contacts` in any `window` months.

    `contacts` (n, months) counts those of each month, oldest first; the last column is the month that ends now.
    """
    if max_contacts < 0 or window < 1:
        raise ValueError(f"a cap of {max_contacts} contacts in {window} months: wants 0 or more in 1 or more")
    if contacts.ndim != 2 or contacts.shape[1] < window:
        raise ValueError(f"contacts of shape {contacts.shape}: wants (customers, {window} months or more)")
    return np.asarray((contacts[:, -window:].sum(axis=1) < max_contacts) & (contacts[:, -1] == 0))


def mask(
    contacts: NDArray[Any],
    months_left: NDArray[Any],
    opted_out: Bools,
    offers: int,
    max_contacts: int,
    window: int,
) -> Bools:
    """(n, 1 + offers): which actions are allowed. `months_left` (n,) of the running offer, 0 when none runs."""
    free = allowed(contacts, max_contacts, window) & (months_left <= 0) & ~opted_out
    out = np.empty((len(free), 1 + offers), np.bool_)
    out[:, 0] = True
    out[:, 1:] = free[:, None]
    return out


def barred(
    contacts: Sequence[int], running: bool, opted_out: bool, max_contacts: int, window: int, held_out: bool = False
) -> Bar | None:
    """`mask` of one customer, with what forbids a contact; the customer's own word first, None when nothing does.

    `contacts` of each month that is known of, oldest first; the last one is the month that ends now. `held_out`: she is
    one of those whom nobody ever contacts, by whom the worth of contacts is measured.
    """
    if opted_out:
        return "do_not_contact"
    if held_out:
        return "hold_out"
    if running:
        return "running_offer"
    if sum(contacts[-window:]) >= max_contacts:
        return "contact_cap"
    if contacts and contacts[-1]:
        return "contacted_this_month"
    return None
