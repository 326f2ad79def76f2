"""When a run proposes a release, and what it says where it doesn't."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows.heldout import Rows
from flows.promote import Comparison, _refuses_more, compare, lower, not_now, unlike, worse
from retain.parts import Part
from retain.plausible import Plausibility, Ranges
from retain.rollout import Rollout, forgive, propose, release_latch, roll_back
from tests.datasets import described
from tests.deploy.fakes import GOOD_PARTS, MISSED_PARTS, NO_PARTS
from tests.rollouts import ANN, CHAMPION, GOOD, MISSED, part

STARTED = propose(None, CHAMPION, GOOD, **ANN)
LATCHED = roll_back(STARTED, by="Ann", why="too many complaints", at=2)
FREE = release_latch(LATCHED, **ANN)


@pytest.mark.parametrize(
    ("rollout", "version", "says"),
    [
        (None, MISSED, "no rollout of toy was begun, which takes a person: EXPERIMENT=toy python -m deploy.controller"),
        (STARTED, MISSED, f"a rollout is in progress: {GOOD} in the shadow of {CHAMPION}"),
        (STARTED, GOOD, f"a rollout is in progress: {GOOD} in the shadow of {CHAMPION}"),
        (LATCHED, MISSED, "the rollout is latched after a rollback, until a person releases the latch"),
        (LATCHED, GOOD, "it is in quarantine, since Ann rolled it back: too many complaints"),
        (FREE, GOOD, "it is in quarantine, since Ann rolled it back: too many complaints"),
        (FREE, CHAMPION, "it is the champion"),
    ],
)
def test_by_the_rollout_alone(rollout: Rollout | None, version: str, says: str) -> None:
    assert not_now(rollout, version, "toy").startswith(says)


def test_by_the_rollout_nothing_is_against_it() -> None:
    assert not_now(FREE, MISSED, "toy") == ""
    assert not_now(forgive(FREE, GOOD, **ANN), GOOD, "toy") == ""


@pytest.mark.parametrize(
    ("champion", "release", "says"),
    [
        (GOOD_PARTS, GOOD_PARTS, ""),
        (MISSED_PARTS, GOOD_PARTS, ""),
        (MISSED_PARTS, MISSED_PARTS, ""),
        (
            GOOD_PARTS,
            MISSED_PARTS,
            "decision is shadow_only, and the champion's is served: it missed decision.lift_gain, "
            "decision.lift_gain_low",
        ),
        (
            GOOD_PARTS,
            GOOD_PARTS | {"rlhf": part("left_out", "text_eval.unsafe", kind="safety")},
            "rlhf is left_out, and the champion's is shadow_only: it missed text_eval.unsafe",
        ),
        (NO_PARTS, NO_PARTS, "it has no learned policy to try, which missed decision.overspend"),
        (
            GOOD_PARTS,
            GOOD_PARTS | {"risk": part("shadow_only", "risk.auc")},
            "risk missed risk.auc",
        ),
    ],
)
def test_by_where_the_parts_stand(champion: Mapping[str, Part], release: Mapping[str, Part], says: str) -> None:
    assert lower(champion, release) == says


# -- the same requests


def release(**changes: Any) -> Any:
    """As much of a release as requests and offers are told from."""
    spec = described("telco")
    offers = SimpleNamespace(model_dump=lambda mode: {"levels": [0, 10]})
    terms = SimpleNamespace(offers=offers, cap=SimpleNamespace(model_dump=lambda mode: {"max_contacts": 2}))
    accept = SimpleNamespace(featurizer=SimpleNamespace(columns=described("bank").columns))
    plausible = Plausibility(spec, Ranges(columns={"MonthlyCharges": (4.0, 600.0)}, total=None))
    return SimpleNamespace(**{"spec": spec, "terms": terms, "accept": accept, "plausible": plausible, **changes})


def test_a_release_for_other_requests_or_offers_can_not_be_tried() -> None:
    champion = release()
    assert unlike(champion, release()) == ""
    spec = champion.spec
    wider = [c.model_copy(update={"maximum": 1e6}) if c.name == "MonthlyCharges" else c for c in spec.columns]
    other = release(spec=spec.model_copy(update={"columns": tuple(wider)}))
    assert unlike(champion, other) == (
        "its table is described otherwise than the champion's, so it can't be tried beside it: "
        "the columns MonthlyCharges"
    )
    named = release(spec=spec.model_copy(update={"title": "Another title"}))
    assert unlike(champion, named).endswith("what is said of the table beside its columns")
    offers = SimpleNamespace(model_dump=lambda mode: {"levels": [0, 15]})
    assert "makes other offers" in unlike(
        champion, release(terms=SimpleNamespace(offers=offers, cap=champion.terms.cap))
    )
    fewer = SimpleNamespace(featurizer=SimpleNamespace(columns=described("bank").columns[1:]))
    assert unlike(champion, release(accept=fewer)) == (
        f"its accept and the champion's can't be compared: the columns {described('bank').columns[0].name} differ"
    )


def test_customers_whom_the_champion_takes_are_taken_by_the_next_one() -> None:
    charges = np.array([20.0, 300.0, 700.0, 500.0])
    names = [column.name for column in described("telco").columns if column.kind == "number"]
    columns = {name: np.ones(4) for name in names} | {"MonthlyCharges": charges}
    rows = Rows(columns, np.zeros(4), [*"abcd"])
    narrow = Plausibility(described("telco"), Ranges(columns={"MonthlyCharges": (4.0, 400.0)}, total=None))
    champion, narrower = release(), release(plausible=narrow)
    assert _refuses_more(champion, champion, "risk", rows) == ""
    assert _refuses_more(narrower, champion, "risk", rows) == ""
    assert _refuses_more(champion, narrower, "accept", rows) == ""  # of campaigns nobody makes requests
    assert _refuses_more(champion, narrower, "risk", rows) == (
        "it would refuse held-out customers that the champion takes, as implausible: 1 by MonthlyCharges"
    )


# -- the same rows


def compared(part: str = "risk", noise: float = 0.0, rows: int = 2_000) -> Comparison:
    """A champion that knows the probabilities, and a release that sees them through noise."""
    rng = np.random.default_rng(7)
    margin = rng.normal(-1, 1, rows)
    y = (rng.random(rows) < 1 / (1 + np.exp(-margin))).astype(np.float64)
    scores = [1 / (1 + np.exp(-margin - size * rng.normal(size=rows))) for size in (0.0, noise)]
    return compare(part, Rows({}, y, []), *scores)


def test_a_worse_model_is_named_with_its_figures() -> None:
    assert worse([compared(), compared("accept")]) == ""
    assert worse([compared(noise=0.02), compared("accept")]) == ""
    said = worse([compared(), compared("accept", noise=1.5)])
    assert said.startswith("its accept is worse than the champion's on 2,000 held-out rows: AUC 0.")
    assert "Brier score" in said
    assert "\n" not in said


def test_a_better_model_is_not_worse() -> None:
    better = compared(noise=1.5)
    swapped = [
        replace(each, before=each.now, now=each.before, low=-each.high, high=-each.low) for each in better.differences
    ]
    assert worse([replace(better, differences=tuple(swapped))]) == ""


def test_too_few_rows_tell_nothing() -> None:
    said = worse([compared(rows=40)])
    assert said.startswith("40 rows are held out from the risk of both releases, ")
    assert said.endswith("at least 30 are needed to tell whether it is worse than the champion's")
