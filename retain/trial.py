"""What a trial on customers is worth: the NRR proxy of the challenger's customers beside that of the baseline's.

Chance has drawn whose a customer is, so the two differ in nothing but who decides about them. That holds of customers
as they were drawn (by intention to treat): whom nobody may contact, and about whom the baseline had to decide since the
challenger gave no answer, stay on the side they were drawn for. Decisions whose action was drawn (exploration) are left
out, since they are no arm's.

**Each customer counts once**, by her first decision in the trial. Decisions about the same customer are much alike:
1,300 of them, two weeks of requests about a hundred customers, tell little more than a hundred. The guard of 1,300
wants independent ones: with a standard deviation of up to .46, a mean that is 3 points too low comes by chance in less
than one of a hundred trials. And while an offer is open there is no further decision about its customer, so with every
decision counted, an arm that makes offers to customers at risk would look better for asking about them less often.

**Percentages.** When the percentage changes, customers change sides, so each of them counts once more, and decisions
are compared with those at the same percentage alone. Else the weeks before, with few customers at the challenger, would
be compared with the weeks after.

**A decision matures** once it is as old as an offer can be open, whatever is known of it. Outcomes that are known
earlier don't count earlier: of the offers of last week the answered ones would count alone, and who answers is like
nobody else (retain/shadow.py). Nor can those of whole days be taken once all their offers are answered: such days are
those with few offers, which happen to have been answered.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from retain.decision import Arm


class Worth(NamedTuple):
    """Of one arm: how many matured decisions its mean is worth, and the mean of their NRR proxy, None of none."""

    matured: float
    nrr: float | None


@dataclass
class _Sums:
    count: int = 0
    proxy: float = 0.0


@dataclass
class Comparison:
    """Gathers matured decisions, of each customer the first at a percentage."""

    _sums: defaultdict[float, dict[Arm, _Sums]] = field(
        default_factory=lambda: defaultdict(lambda: {"baseline": _Sums(), "learned": _Sums()})
    )

    def add(self, percent: float, assigned: Arm, proxy: float) -> None:
        """`percent` of customers are the challenger's, and this one is `assigned` to the challenger or not."""
        sums = self._sums[percent][assigned]
        sums.count += 1
        sums.proxy += proxy

    def worth(self) -> dict[Arm, Worth]:
        """Of percentages at which both arms have decisions. The baseline's mean weighs them as the challenger's does.

        With n of the challenger's and m of the baseline's at each percentage, the baseline's mean is worth
        (sum n)^2 / sum(n^2 / m) decisions, which is m where there is one percentage.
        """
        pairs = [(sums["learned"], sums["baseline"]) for sums in self._sums.values()]
        pairs = [(learned, baseline) for learned, baseline in pairs if learned.count and baseline.count]
        count = sum(learned.count for learned, _ in pairs)
        if not count:
            return {"baseline": Worth(0.0, None), "learned": Worth(0.0, None)}
        nrr = sum(learned.count * baseline.proxy / baseline.count for learned, baseline in pairs) / count
        matured = count**2 / sum(learned.count**2 / baseline.count for learned, baseline in pairs)
        return {
            "baseline": Worth(matured, nrr),
            "learned": Worth(float(count), sum(learned.proxy for learned, _ in pairs) / count),
        }
