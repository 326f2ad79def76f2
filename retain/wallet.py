"""The offer budget: a hold when an offer is made, settled by its answer, never overdrawn.

An offer that was made is honoured, so what may still be accepted has to be covered before it is made. A wallet counts
as *committed* what contacts cost, and for each accepted offer its FULL remaining liability (discount x charge x months
left; a customer who leaves gives hers back). The offers still *open*, made and not yet answered, are held for in one
of two modes: `worst_case` holds their full liability; `expected` holds what they will cost with probability 1 - 1e-6.

**P(overdraw) in mode `expected`.** Let offer i be accepted, A_i = 1, with probability at most q_i given all that was
known when it was made, and open offers answer independently (given the same; and to be still unanswered is no sign of
yes). For any theta > 0 the open set S has

    E exp(theta sum_S A_i L_i) <= prod_S (1 - q_i + q_i exp(theta L_i)) = exp(sum_S psi_i(theta)),

so by Markov's inequality (Chernoff 1952)

    P( sum_S A_i L_i > (sum_S psi_i(theta) + ln 1/delta) / theta ) <= delta.

S is known before its answers are: so may theta be, and the hold is the least of the right-hand side over a fixed grid
of theta, and of the worst case sum_S L_i (theta -> infinity). Offers are admitted while committed + hold <= budget.
Committed money grows by answers of open offers alone, so whenever the budget is passed, the answers to the offers that
were open at the last admission before came out above their hold. Call *batch* j what is admitted between two answers:
only its last admission counts, for it holds for the largest open set, and the policy can't choose it by answers it has
not seen. With delta_j = delta / (j (j + 1)), whose sum over all j is delta, P(the wallet is ever overdrawn) <= delta:
for any policy, an adversary too, and for any number of offers. (A margin of 4.75 standard deviations is 1e-6 for normal
sums only: of 200 offers with p = .001 three are accepted once in 900 times, where it holds for 2.3.) In worst_case
nothing is left to chance.

**What q is.** The wallet is told p, what the model believes, and holds for DOUBT = 2 times that: q = min(1, 2 p), for
ever. So the bound holds for any policy as long as each offer's true acceptance is at most twice the told one, whichever
offers are wrong. Answers do not dispel the doubt: those to one kind of offer say nothing of another's.

**When p is wrong.** If every p_i is right, exp(ln k sum A_i - sum ln(1 + p_i (k - 1))) is a supermartingale for each
k > 1 (Ville 1939), so its mean over a few k passes 1 / alpha with probability <= alpha in all time. It takes an offer
as declined until it is answered, so a yes that comes sooner than a no misleads nobody. When it passes, acceptance runs
above its interval, and the wallet goes over to worst_case for good: offers made from then on are held for in full.
That is no bound for what was open then: it was admitted on a smaller hold, and where acceptance is more than twice what
was told it may still pass the budget. alpha is 1e-3: a false alarm costs some revenue, nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Mode = Literal["expected", "worst_case"]

OVERDRAW = 1e-6
FALSE_ALARM = 1e-3  # alpha
DOUBT = 2.0  # how many times the acceptances that it is told a wallet holds for
ODDS = np.array([1.1, 1.2, 1.4, 1.7, 2.0, 3.0])  # k of the alarm: how much too low the odds of acceptance may be
# theta from ln(1/delta) / budget, where the margin alone would fill the wallet, in steps of sqrt 2, which loses at most
# 1.5 % of the margin to the best theta. The 48th is 1.2e7 times the first: beyond, the worst case is as good.
THETAS = np.log(1 / OVERDRAW) * 2.0 ** (np.arange(48) / 2)


class Wallet:
    """One budget. Amounts in currency units; the arrays of a call are offers in their order of arrival.

    `overdraw`: how likely it may be, in all time, that the budget is passed. `budget` may be changed at any time: what
    is committed and held stays.
    """

    def __init__(self, budget: float, mode: Mode = "expected", overdraw: float = OVERDRAW) -> None:
        if not 0 <= budget < np.inf:
            raise ValueError(f"a budget of {budget:g}: wants a finite number from 0")
        if mode not in ("expected", "worst_case"):
            raise ValueError(f"a wallet in mode {mode!r}: wants expected or worst_case")
        self.budget = float(budget)
        self.mode: Mode = mode
        self.overdraw = overdraw
        self.committed = 0.0
        self.batch = 1
        self.open = 0
        self._liability = 0.0  # of the open offers, all accepted
        self._mean = 0.0  # of the open offers, accepted as often as believed
        self._scale = self.budget  # stays where it is when the budget is changed: any theta gives a bound
        self._theta = THETAS / max(self._scale, 1e-6)  # less than a millionth buys nothing, and would overflow
        self._psi = np.zeros(len(THETAS))  # of the open offers, summed
        self._answered = False
        self._above = np.zeros(len(ODDS))  # ln of the alarm's supermartingale, for each k

    @property
    def held(self) -> float:
        """What the open offers are taken to cost at most."""
        return float(self._hold(self._psi, self._liability, self.batch))

    @property
    def expected(self) -> float:
        """What is committed, and what the open offers will cost on average if acceptance is what is believed."""
        return self.committed + self._mean

    @property
    def free(self) -> float:
        return self.budget - self.committed - self.held

    def admit(self, cost: Floats, liability: Floats, acceptance: Floats) -> Bools:
        """(n,): which of n offers are made; those are open from now on, and their contact `cost` is committed.

        The result is that of asking for one after the other, bit for bit. Raises ValueError for an offer that has
        no price: an amount that is negative or not finite, an acceptance outside 0..1.
        """
        _check(liability, acceptance)
        if not (np.isfinite(cost).all() and (cost >= 0).all()):
            raise ValueError("an offer's contact cost is negative or not finite")
        made = np.zeros(len(cost), np.bool_)
        if not len(cost):
            return made
        if self._answered:
            self._answered = False
            self.batch += 1
        psi = self._prices(liability, acceptance)
        waiting = np.arange(len(cost))
        while len(waiting):
            # If everything that waits were admitted in turn: committed, psi and liability after each.
            committed = np.cumsum(np.concatenate(([self.committed], cost[waiting])))[1:]
            prices = np.cumsum(np.concatenate((self._psi[None], psi[waiting])), axis=0)[1:]
            liabilities = np.cumsum(np.concatenate(([self._liability], liability[waiting])))[1:]
            fits = committed + self._hold(prices, liabilities, self.batch) <= self.budget
            first = len(fits) if fits.all() else int(fits.argmin())
            if first:
                made[waiting[:first]] = True
                self.committed, self._psi = float(committed[first - 1]), prices[first - 1]
                self._liability, self.open = float(liabilities[first - 1]), self.open + first
            # Holds only grow: whoever would not fit now, alone, will not fit after others either.
            waiting = waiting[first + 1 :]
            alone = self._hold(self._psi + psi[waiting], self._liability + liability[waiting], self.batch)
            waiting = waiting[self.committed + cost[waiting] + alone <= self.budget]
        mean = acceptance[made] * liability[made]
        self._mean = float(np.cumsum(np.concatenate(([self._mean], mean)))[-1])
        self._above = _in_turn(self._above, -np.log1p(acceptance[made, None] * (ODDS - 1)))
        return made

    def admit_one(self, cost: float, liability: float, acceptance: float) -> bool:
        """`admit` of a single offer, bit for bit, in 7 us instead of 61: for a service, where they come one by one."""
        if not 0 <= cost < math.inf:
            raise ValueError("an offer's contact cost is negative or not finite")
        if not 0 <= liability < math.inf:
            raise ValueError("an offer's liability is negative or not finite")
        if not 0 <= acceptance <= 1:
            raise ValueError("an offer's acceptance is no probability")
        if self._answered:
            self._answered = False
            self.batch += 1
        no, yes, above = _alone(acceptance)
        psi = self._psi + np.logaddexp(no, yes + liability * self._theta)
        total = self._liability + liability
        if not self.committed + cost + float(self._hold(psi, total, self.batch)) <= self.budget:
            return False
        self.committed += cost
        self._psi, self._liability = psi, total
        self._mean += acceptance * liability
        self.open += 1
        self._above = self._above - above
        return True

    def would_admit(self, cost: float, liability: float, acceptance: float) -> bool:
        """What admit_one() would answer now; nothing is held for."""
        no, yes, _ = _alone(acceptance)
        psi = self._psi + np.logaddexp(no, yes + liability * self._theta)
        held = float(self._hold(psi, self._liability + liability, self.batch + self._answered))
        return self.committed + cost + held <= self.budget

    def settle(self, liability: Floats, acceptance: Floats, accepted: Bools) -> None:
        """Answers of open offers (expired ones declined), with the liability and acceptance they were admitted with."""
        _check(liability, acceptance)
        if len(accepted) > self.open:
            raise ValueError(f"{len(accepted)} answers to {self.open} open offers")
        if not len(accepted):
            return
        self.open -= len(accepted)
        self.committed += float(liability[accepted].sum())
        if self.open:
            self._psi = self._psi - self._prices(liability, acceptance).sum(axis=0)
            self._liability -= float(liability.sum())
            self._mean -= float((acceptance * liability).sum())
        else:  # exactly nothing, whatever was rounded on the way
            self._psi = np.zeros(len(THETAS))
            self._liability = self._mean = 0.0
        self._answered = True
        self._count_accepted(int(accepted.sum()))

    def settle_late(self, liability: float) -> None:
        """An offer that was settled as declined, since nobody answered in time, and was accepted after all.

        It is committed without a hold, so the bound on P(overdraw) holds only for answers that come in time.
        """
        self.committed += liability
        self._count_accepted(1)

    def withdraw(self, cost: float, liability: float, acceptance: float) -> None:
        """An open offer that nobody received: as if it had not been made, but for rounding."""
        self.settle(np.array([liability]), np.array([acceptance]), np.array([False]))
        self.committed -= cost
        self._above = self._above + np.log1p(acceptance * (ODDS - 1))

    def release(self, amount: float) -> None:
        """Gives back what accepted offers will not cost any more, since their customers left."""
        self.committed -= amount

    def copy(self) -> Wallet:
        """The wallet as it is now, whatever becomes of this one."""
        same = Wallet.__new__(Wallet)
        vars(same).update(vars(self))  # no method changes an array in place
        return same

    def state(self) -> dict[str, Any]:
        """All that it consists of, as JSON can hold it: `restored` makes the same wallet of it, to the last bit."""
        return {
            "budget": self.budget,
            "mode": self.mode,
            "overdraw": self.overdraw,
            "committed": self.committed,
            "batch": self.batch,
            "open": self.open,
            "scale": self._scale,
            "liability": self._liability,
            "mean": self._mean,
            "psi": self._psi.tolist(),
            "answered": self._answered,
            "above": self._above.tolist(),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Wallet:
        """The wallet whose `state` this is. Raises ValueError for what is no wallet's."""
        try:
            wallet = cls(state["scale"], state["mode"], state["overdraw"])
            wallet.budget, wallet.committed = float(state["budget"]), float(state["committed"])
            wallet.batch, wallet.open = int(state["batch"]), int(state["open"])
            wallet._liability, wallet._mean = float(state["liability"]), float(state["mean"])
            wallet._psi, wallet._above = np.array(state["psi"], np.float64), np.array(state["above"], np.float64)
            wallet._answered = bool(state["answered"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no state of a wallet: {error}") from None
        if wallet._psi.shape != THETAS.shape or wallet._above.shape != ODDS.shape:
            raise ValueError("no state of a wallet: of another size")
        return wallet

    def _count_accepted(self, count: int) -> None:
        self._above = self._above + np.log(ODDS) * count
        if np.logaddexp.reduce(self._above) >= np.log(len(ODDS) / FALSE_ALARM):
            self.mode = "worst_case"

    def _prices(self, liability: Floats, acceptance: Floats) -> Floats:
        """(n, thetas) psi of each offer, without overflow."""
        q = np.minimum(1.0, DOUBT * acceptance)
        with np.errstate(divide="ignore"):
            no, yes = np.log1p(-q), np.log(q)
        return np.asarray(np.logaddexp(no[:, None], yes[:, None] + liability[:, None] * self._theta))

    def _hold(self, psi: Floats, liability: Floats | float, batch: int) -> Floats:
        """(...,) of summed psi (..., thetas) and summed liability (...,) of the offers that are open in that batch."""
        if self.mode == "worst_case":
            return np.asarray(liability)
        rare = np.log(batch * (batch + 1) / self.overdraw)
        return np.asarray(np.minimum(((psi + rare) / self._theta).min(axis=-1), liability))


@lru_cache(maxsize=4096)  # a service meets few acceptances: of its cells, offers and histories
def _alone(acceptance: float) -> tuple[Floats, Floats, Floats]:
    """What `admit` needs of one offer's acceptance: ln of a no and of a yes (1,) for psi, and what the alarm takes
    off (odds,)."""
    p = np.array([acceptance])
    q = np.minimum(1.0, DOUBT * p)
    with np.errstate(divide="ignore"):
        return np.log1p(-q), np.log(q), np.log1p(p * (ODDS - 1))


def _in_turn(start: Floats, rows: Floats) -> Floats:
    """`start` (k,) plus the rows (n, k), one after the other: sums of another order round otherwise."""
    return np.asarray(np.cumsum(np.concatenate((start[None], rows)), axis=0)[-1])


def _check(liability: Floats, acceptance: Floats) -> None:
    if not (np.isfinite(liability).all() and (liability >= 0).all()):
        raise ValueError("an offer's liability is negative or not finite")
    if not ((acceptance >= 0) & (acceptance <= 1)).all():
        raise ValueError("an offer's acceptance is no probability")
