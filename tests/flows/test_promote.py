"""When a run proposes a release, and what it says where it doesn't."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deploy import people
from engine.artifact import ArtifactWriter
from engine.criteria import Criterion
from engine.document import Document
from engine.errors import RetainError
from flows import promote as promoting
from flows.heldout import Rows
from flows.plan import Plan
from flows.promote import (
    BRIDGE,
    Comparison,
    Floats,
    _refuses_more,
    bridged,
    compare,
    lower,
    not_now,
    propose_if_no_worse,
    unlike,
    worse,
)
from retain.dataset import bridge_roles, cell
from retain.parts import REQUIRED, Part
from retain.plausible import Plausibility, Ranges
from retain.rollout import MAX_WORDS, Evidence, Rollout, forgive, propose, release_latch, roll_back, rollout_key
from retain.rollout import promote as make_champion
from retain.signals import SIGNALS
from tasks.config import Margins, NotWorseBy
from tests.datasets import described
from tests.deploy.fakes import GOOD_PARTS, MISSED_PARTS, NO_PARTS
from tests.flows.toy_plan import MARGINS, toy_plan
from tests.rollouts import ANN, CHAMPION, DAY, GOOD, MISSED, PLAN, figures, part

STARTED = propose(None, CHAMPION, GOOD, **ANN)
LATCHED = roll_back(STARTED, by="Ann", why="too many complaints", at=2)
FREE = release_latch(LATCHED, **ANN)


@pytest.mark.parametrize(
    ("rollout", "version", "says"),
    [
        (None, MISSED, "no rollout of toy was begun, which takes a person: EXPERIMENT=toy python -m deploy.controller"),
        (STARTED, GOOD, f"it is the challenger already: {GOOD} in the shadow of {CHAMPION}"),
        (STARTED, CHAMPION, "it is the champion"),
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
    assert not_now(STARTED, MISSED, "toy") == ""  # whether it would be is to be said
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
    rows = Rows(columns, np.zeros(4))
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
    return compare(part, Rows({}, y), *scores)


def test_a_worse_model_is_named_with_its_figures() -> None:
    assert worse([compared(), compared("accept")], MARGINS) == ""
    assert worse([compared(noise=0.02), compared("accept")], MARGINS) == ""
    said = worse([compared(), compared("accept", noise=1.5)], MARGINS)
    assert said.startswith("its accept is not shown to be as good as the champion's on 2,000 held-out rows: AUC 0.")
    assert ", where 0.01 is the margin; Brier score 0." in said
    assert said.endswith(", where 0.003 is the margin")
    assert "\n" not in said


def test_what_so_few_rows_can_not_show_is_not_proposed() -> None:
    """That a difference isn't seen is no sign that there is none."""
    few = compared(noise=0.2, rows=200)
    assert all(each.low < 0 < each.high for each in few.differences)
    assert worse([few], MARGINS).startswith(
        "its risk is not shown to be as good as the champion's on 200 held-out rows"
    )
    wide = NotWorseBy(risk=Margins(auc=0.1, brier=0.1), accept=MARGINS.accept)
    assert worse([few], wide) == ""


def test_a_model_that_gives_no_numbers_is_not_proposed() -> None:
    nothing = compared()
    broken = [replace(each, now=math.nan, low=math.nan, high=math.nan) for each in nothing.differences]
    assert "its risk is not shown to be as good" in worse([replace(nothing, differences=tuple(broken))], MARGINS)


def clients(rows: int = 4_000) -> tuple[dict[str, Any], Rows]:
    """A bridge.json, and clients who accept as it says."""
    spec = described("bank")
    rng = np.random.default_rng(7)
    names = [part.column for part in spec.bridge]
    listed = {column.name: column.values for column in spec.columns}
    columns = {
        name: rng.choice(np.array(listed[name], dtype=object), rows) if listed[name] else rng.integers(20, 90, rows)
        for name in names
    }
    roles = bridge_roles(spec)
    cells = [cell(spec, dict(zip(names, each)), roles) for each in zip(*(columns[n].tolist() for n in names))]
    kinds = sorted(set(cells))
    chance = dict(zip(kinds, np.linspace(0.05, 0.45, len(kinds)).tolist()))
    y = (rng.random(rows) < np.array([chance[each] for each in cells])).astype(np.float64)
    stated = {each: {"acceptance": chance[each], "sd": 0.1, "rows": 100} for each in kinds}
    return {"roles": list(roles), "overall": 0.25, "cells": stated}, Rows(columns, y)


def test_a_bridge_that_is_off_is_found_out() -> None:
    """It is what /retain decides by; risk and accept are the same."""
    content, rows = clients()
    spec, sound = described("bank"), [compared(), compared("accept")]

    def by(**changed: Any) -> str:
        before, now = (bridged(each, spec, rows) for each in (content, content | changed))
        return worse([*sound, compare(BRIDGE, rows, before, now)], MARGINS)

    def cells(change: Callable[[float], float]) -> dict[str, Any]:
        return {key: each | {"acceptance": change(each["acceptance"])} for key, each in content["cells"].items()}

    assert by() == ""
    assert by(cells=cells(lambda value: value + 0.005)) == ""
    said = by(cells=cells(lambda value: value + 0.15))
    assert said.startswith(
        "its bridge is not shown to be as good as the champion's on 4,000 held-out rows: Brier score"
    )
    assert "AUC" in by(cells=cells(lambda value: 0.5 - value))
    assert "its bridge" in by(cells={})  # everybody gets the overall mean
    with pytest.raises(RetainError, match=r"the held-out rows have no column \w+"):
        bridged(content, spec, Rows({}, rows.y))


def test_a_better_model_is_not_worse() -> None:
    better = compared(noise=1.5)
    swapped = [
        replace(each, before=each.now, now=each.before, low=-each.high, high=-each.low) for each in better.differences
    ]
    assert worse([replace(better, differences=tuple(swapped))], MARGINS) == ""


def test_too_few_rows_tell_nothing() -> None:
    said = worse([compared(rows=40)], MARGINS)
    assert said.startswith("40 rows are held out from the risk of both releases, ")
    assert said.endswith("at least 30 are needed to tell whether it is worse than the champion's")


# -- all of it, with what is read and written


JUDGED = {"auc": Criterion(at_least=0.7)}
DATA = {"risk": "customers", "accept": "campaigns"}


@dataclass
class Scene:
    """A rollout, and a release of which nothing is wrong unless the test says otherwise."""

    plan: Plan
    rollout: Document[Rollout]
    releases: dict[str, Any]
    scores: dict[str, Floats]
    bridges: dict[str, Floats]

    def propose(self, version: str = MISSED) -> list[str]:
        return propose_if_no_worse(self.plan, version, "a retrain")

    def put(self, rollout: Rollout) -> Rollout:
        return self.rollout.change(lambda _: rollout)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """What is read from tables and models is given, what is kept lies in a store."""
    plan = toy_plan(tmp_path / "store")
    plan = replace(
        plan, experiment=plan.experiment.model_copy(update={"tag": "toy", "criteria": dict.fromkeys(REQUIRED, JUDGED)})
    )
    rng = np.random.default_rng(7)
    chance = 1 / (1 + np.exp(-rng.normal(-1, 1, 2_000)))
    rows = Rows({}, (rng.random(2_000) < chance).astype(np.float64))
    made = Scene(
        plan,
        Document(plan.store, rollout_key("toy"), Rollout),
        {each: release(parts=GOOD_PARTS, versions={"policy": each}) for each in (CHAMPION, GOOD, MISSED)},
        dict.fromkeys((CHAMPION, GOOD, MISSED), chance),
        dict.fromkeys((CHAMPION, GOOD, MISSED), chance),
    )
    monkeypatch.setattr(promoting, "_load", lambda plan, version: made.releases[version])
    monkeypatch.setattr(promoting, "_held_out", lambda artifacts, champion, version, part: rows)
    monkeypatch.setattr(promoting, "_refuses_more", lambda *_: "")
    monkeypatch.setattr(promoting, "find", lambda version, experiment: Path(version))
    monkeypatch.setattr(promoting, "data_of", lambda artifacts, release, part: (DATA[part], "1" * 32))
    for data in DATA.values():
        writer = ArtifactWriter(tmp_path / data)
        writer.json("metrics.json", {"rows": {"value": 3_000}})
        plan.artifacts.publish(data, "1" * 32, tmp_path / data)
    by_release = {id(each): version for version, each in made.releases.items()}
    monkeypatch.setattr(promoting, "_scores", lambda release, part, rows: made.scores[by_release[id(release)]])
    monkeypatch.setattr(promoting, "_bridged", lambda plan, version, release, rows: made.bridges[version])
    parts = SimpleNamespace(version=MISSED, parts=GOOD_PARTS)
    monkeypatch.setattr(people, "named", lambda release, experiment: parts)
    monkeypatch.setattr(people, "_others_answer", lambda *_: [])
    made.put(FREE)
    return made


def test_each_comparison_is_counted_once(scene: Scene) -> None:
    worse_scores = np.clip(scene.scores[MISSED] + np.random.default_rng(1).normal(0, 0.3, 2_000), 0, 1)
    good, scene.scores[MISSED] = scene.scores[MISSED], worse_scores
    for _ in range(2):  # nothing has changed meanwhile
        (said,) = scene.propose()
        assert said.startswith(f"release {MISSED} is not proposed: its risk is not shown to be as good as ")
        assert said.endswith("the margin. Held-out rows have been read for 1 comparison so far")
    scene.scores[MISSED] = good
    scene.put(forgive(FREE, GOOD, **ANN))
    scene.scores[GOOD] = worse_scores
    assert scene.propose(GOOD)[0].endswith("read for 2 comparisons so far")
    said = scene.propose()[0]
    assert f"release {MISSED} is proposed as the challenger, in the shadow of {CHAMPION}: it met its criteria" in said
    rollout = scene.rollout.read()
    assert rollout is not None
    reason = rollout.history[-1].reason
    assert reason.endswith("Held-out rows have been read for 2 comparisons so far")
    assert "; Brier score 0." in reason
    assert ". bridge: AUC 0." in reason
    # At most: more rows than a file may have, and a thousand comparisons.
    assert len(reason) + 2 * (len("99,999,999") - len("2,000")) + 3 < MAX_WORDS


def test_a_release_with_a_worse_bridge_is_not_proposed(scene: Scene) -> None:
    scene.bridges[MISSED] = np.clip(scene.bridges[MISSED] + 0.2, 0, 1)
    (said,) = scene.propose()
    assert said.startswith(
        f"release {MISSED} is not proposed: its bridge is not shown to be as good as the champion's "
    )
    assert scene.rollout.read() == FREE


def test_the_same_under_another_name_as_one_in_quarantine_is_not_proposed(scene: Scene) -> None:
    """Other criteria alone make another release of the very policy that was rolled back."""
    scene.releases[MISSED].versions = dict(scene.releases[GOOD].versions)
    assert scene.propose() == [
        f"release {MISSED} is not proposed: it decides and says the same as {GOOD}, which Ann rolled back: "
        "too many complaints"
    ]
    del scene.releases[GOOD]  # of one that was removed from the store nothing can be told


@pytest.mark.parametrize("criteria", [{}, {"auc": Criterion(at_least=0.7, gating=False)}])
def test_what_nothing_was_asked_of_has_met_nothing(scene: Scene, criteria: dict[str, Criterion]) -> None:
    """Its part is `served` all the same."""
    stated = scene.plan.experiment.model_copy(update={"criteria": {"risk": JUDGED, "accept": criteria}})
    scene.plan = replace(scene.plan, experiment=stated)
    assert scene.propose() == [f"release {MISSED} is not proposed: the experiment states no gating criterion of accept"]
    assert scene.rollout.read() == FREE


@pytest.mark.parametrize("data", ["customers", "campaigns"])
def test_a_table_of_which_a_part_was_lost_proposes_nothing(scene: Scene, data: str) -> None:
    stated = dict.fromkeys(REQUIRED, JUDGED) | {data: {"rows": Criterion(at_least=7_032)}}
    scene.plan = replace(scene.plan, experiment=scene.plan.experiment.model_copy(update={"criteria": stated}))
    (said,) = scene.propose()
    assert said.startswith(f"release {MISSED} is not proposed: its data missed a criterion: {data} rows 3000 ")
    enough = stated | {data: {"rows": Criterion(at_least=3_000)}}
    scene.plan = replace(scene.plan, experiment=scene.plan.experiment.model_copy(update={"criteria": enough}))
    assert f"release {MISSED} is proposed as the challenger" in scene.propose()[0]


def test_behind_a_challenger_it_says_whether_it_would_be_proposed_and_how_a_person_does(scene: Scene) -> None:
    other = propose(None, CHAMPION, GOOD, **ANN)
    scene.put(other)
    (said,) = scene.propose()
    assert said.startswith(
        f"release {MISSED} is not proposed: a rollout is in progress: {GOOD} in the shadow of {CHAMPION}. But for that "
        "it would be: it met its criteria, and is not worse than"
    )
    assert said.endswith(
        f"To try it instead takes a person: EXPERIMENT=toy python -m deploy.controller propose {MISSED} "
        f"--in-place-of {GOOD} --by NAME --reason TEXT"
    )
    full = other.model_copy(update={"phase": "full", "percent": 100.0})
    scene.put(full)
    (said,) = scene.propose()
    assert "takes a person, and the baseline decides about its customers until then: EXPERIMENT=toy" in said
    assert scene.rollout.read() == full, "no customer is thrown back by a retrain"


def test_after_a_promotion_the_release_is_compared_with_the_new_champion(scene: Scene) -> None:
    full = propose(None, CHAMPION, GOOD, **ANN).model_copy(update={"phase": "full", "percent": 100.0})
    signals = Evidence(1, GOOD, GOOD_PARTS, figures(SIGNALS), DAY)
    scene.put(make_champion(full, GOOD, signals, PLAN, **ANN))
    assert f"is not worse than {GOOD}: risk on 2,000 held-out rows" in scene.propose()[0]
