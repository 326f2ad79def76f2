"""Whether a release that a run has made is proposed as the challenger of a rollout, and if not, why not.

What a run may do without a person is this one step: to put the release's learned policy into the shadow, where no
customer meets it. The champion stays the release that answers, by its baseline; every further step takes a person. The
step is taken only if all of this holds, and each refusal is one line with its figures:

- a person has begun the rollout, it has no challenger, isn't latched, and the release is neither its champion nor in
  quarantine, nor the same in all that it decides and says as one that is;
- risk and accept meet the gating criteria that they were judged by, and the tables that they were trained on theirs;
  the learned policy is not left out, and no part of the release stands lower than the champion's;
- the service could try it beside the champion (retain/alike.py), and takes every held-out customer that it takes now;
- neither risk nor accept is worse than the champion's on the same held-out rows (flows/heldout.py), by more than the
  margins that the experiment states (`not_worse_by`): of AUC and Brier score all of the 95 % interval of the paired
  difference (release less champion) is within its margin. The log loss is no measure: a calibrated score of 0 makes it
  infinite;
- the same holds, with accept's margins, of its bridge, by which /retain takes a customer to accept: asked about the
  held-out rows of accept, of which it is known who accepted. A bridge that is off by less than .04 for everybody is
  within a Brier score of .002. Whether customers accept as the bank's clients did, no row tells.

So it is for the data to show that a release is no worse, and few rows propose nothing: a test of non-inferiority, of
two measures of each model and of the bridge. A release that is worse by its margin or more in one of them passes with
about 2.5 % where the difference is spread over many rows, and with more where it sits in few (eval/paired.py): it has
to pass all six, so none of them needs a correction. The same held-out rows are read again in each week. What has been
compared is kept, and each proposal and refusal says how many comparisons there have been. Nothing is trained or chosen
by them. What is refused can be proposed by a person.

"In the champion's mode" would be the baseline, since the champion answers by nothing else, and that of another release
is nothing that a rollout can try. It is the learned policy of the release that is tried, where no customer meets it, so
nobody is decided about by another mode than before.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.people import Desk, Signature, propose_release
from deploy.settings import read
from engine.artifact import ArtifactStore, open_artifact
from engine.criteria import check_criteria
from engine.document import Document
from engine.errors import RetainError, StoreUnavailable
from engine.releases import find
from eval.paired import Difference, differences
from flows.changes import FOLDER, Begun, current_version, outcome
from flows.heldout import Rows, data_of, held_out, table_of
from flows.plan import Plan
from retain.alike import dataset_digest, what_is_offered
from retain.dataset import DatasetSpec
from retain.decision import Bridge
from retain.frozen import Frozen
from retain.parts import REQUIRED, Part, Standing
from retain.plausible import when_outside
from retain.release import Release, ReleaseError, load
from retain.rollout import POLICY, Rollout, RolloutError, describe
from tasks.config import Margins, NotWorseBy

Floats = NDArray[np.float64]

RANKS: Mapping[Standing, int] = {"left_out": 0, "shadow_only": 1, "served": 2}
# Below so many rows of each class an interval may miss what it says to hold 95 % of the time.
LEAST_OF_EACH_CLASS = 30
BRIDGE = "bridge"
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Comparison:
    """Of one part, or of accept's bridge, on `rows` held-out rows, the rarer class of which has `rarer`; without
    differences where that is too few."""

    part: str
    rows: int
    rarer: int
    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        return f"{self.part} on {self.rows:,} held-out rows: {'; '.join(map(str, self.differences))}"

    @property
    def brief(self) -> str:
        """For a reason, which has no room for all of it."""
        values = [f"{each.measure} {each.before:.4f} -> {each.now:.4f}" for each in self.differences]
        return f"{self.part}: {', '.join(values)}"


def propose_if_no_worse(plan: Plan, version: str, by: str) -> list[str]:
    """Proposes the release of this version, or says why not; in a line, and what else there is to say of it.

    Raises RetainError for what can't be read: that is no refusal.
    """
    settings = read(os.environ | {"EXPERIMENT": plan.experiment.tag})
    desk = Desk(settings, plan.store, say=lambda words: None)
    rollout = desk.rollout.read()
    if why := not_now(rollout, version, plan.experiment.tag):
        return [f"release {version} is not proposed: {why}"]
    assert rollout is not None
    why, figures = _judged(plan, rollout, version)
    if why:
        return [f"release {version} is not proposed: {why}"]
    reason = f"it met its criteria, and is not worse than {rollout.champion.release}: {figures}"
    if rollout.challenger is not None:
        return [
            f"release {version} is not proposed: a rollout is in progress: {describe(rollout)}. But for that it would "
            f"be: {reason}. {instead(rollout, version, plan.experiment.tag)}"
        ]
    try:
        said = propose_release(desk, version, Signature(by, reason), looked_at=rollout)
    except RolloutError as error:
        return [f"release {version} is not proposed: {error}"]
    return [
        f"release {version} is proposed as the challenger, in the shadow of {rollout.champion.release}: {reason}",
        *said,
    ]


def concluded(plan: Plan, begun: Begun, by: str) -> list[str]:
    """What came of a retrain whose stages are all there: the release, then whether it is proposed."""
    version = current_version(plan.artifacts)
    assert version is not None
    return [outcome(begun, version), *propose_if_no_worse(plan, version, by)]


def _judged(plan: Plan, rollout: Rollout, version: str) -> tuple[str, str]:
    """By all but the rollout: why the release is not proposed, or ""; and what the comparison has shown, if it is."""
    margins = plan.experiment.not_worse_by
    champion, release = (_load(plan, each) for each in (rollout.champion.release, version))
    if (
        why := _unasked(plan)
        or _of_data(plan, version)
        or lower(champion.parts, release.parts)
        or unlike(champion, release)
    ):
        return why, ""
    if why := _as_in_quarantine(plan, rollout, release):
        return why, ""
    compared = []
    for part in REQUIRED:
        rows = _held_out(plan.artifacts, rollout.champion.release, version, part)
        if why := _refuses_more(champion, release, part, rows):
            return why, ""
        compared.append(compare(part, rows, *(_scores(each, part, rows) for each in (champion, release))))
        if part == "accept":
            both = ((rollout.champion.release, champion), (version, release))
            compared.append(compare(BRIDGE, rows, *(_bridged(plan, *each, rows) for each in both)))
    number = _note(plan, Reading(champion=rollout.champion.release, release=version))
    read = f"Held-out rows have been read for {number} comparison{'s' * (number > 1)} so far"
    if why := worse(compared, margins):
        return f"{why}. {read}", ""
    return "", ". ".join([each.brief if each.part == BRIDGE else str(each) for each in compared] + [read])


# -- the rule: each of these returns why a release is not proposed, or "" ------------------------------------------


def not_now(rollout: Rollout | None, version: str, experiment: str) -> str:
    """By the rollout alone."""
    if rollout is None:
        begin = f"EXPERIMENT={experiment} python -m deploy.controller propose {version} --by NAME --reason TEXT"
        return f"no rollout of {experiment} was begun, which takes a person: {begin}"
    if rollout.challenger is not None and rollout.challenger.release == version:
        return f"it is the challenger already: {describe(rollout)}"
    if barred := [each for each in rollout.quarantined if each.release == version]:
        return f"it is in quarantine, since {barred[-1].by} rolled it back: {barred[-1].why}"
    if rollout.latched:
        return "the rollout is latched after a rollback, until a person releases the latch"
    if rollout.champion.release == version:
        return "it is the champion"
    return ""


def instead(rollout: Rollout, version: str, experiment: str) -> str:
    """What a person can do who would rather try the release than the challenger."""
    assert rollout.challenger is not None
    command = f"EXPERIMENT={experiment} python -m deploy.controller propose {version}"
    signed = f"{command} --in-place-of {rollout.challenger.release} --by NAME --reason TEXT"
    meanwhile = ", and the baseline decides about its customers until then" if rollout.percent else ""
    return f"To try it instead takes a person{meanwhile}: {signed}"


def _unasked(plan: Plan) -> str:
    """A part of which nothing is asked has missed nothing, and has not met anything either."""
    stated = {str(stage): criteria.values() for stage, criteria in plan.experiment.criteria.items()}
    without = [part for part in REQUIRED if not any(each.gating for each in stated.get(part, ()))]
    return f"the experiment states no gating criterion of {' or '.join(without)}" if without else ""


def _of_data(plan: Plan, version: str) -> str:
    """A table that was lost in part may still make models that pass."""
    stated = {str(stage): criteria for stage, criteria in plan.experiment.criteria.items()}
    for part in REQUIRED:
        data, fingerprint = data_of(plan.artifacts, find(version, plan.experiment.tag).name, part)
        verdicts = check_criteria(data, plan.artifacts.metrics(data, fingerprint), stated.get(data, {}))
        if missed := [str(each) for each in verdicts if each.gating and not each.passed]:
            return f"its data missed a criterion: {', '.join(missed)}"
    return ""


def lower(champion: Mapping[str, Part], release: Mapping[str, Part]) -> str:
    """By what both releases say of their parts."""
    for name in REQUIRED:
        if release[name].standing != "served":
            return f"{name} missed {_missed(release[name])}"
    for name, part in release.items():
        before = champion[name].standing
        if RANKS[part.standing] < RANKS[before]:
            return f"{name} is {part.standing}, and the champion's is {before}: it missed {_missed(part)}"
    if release[POLICY].standing == "left_out":
        return f"it has no learned policy to try, which missed {_missed(release[POLICY])}"
    return ""


def unlike(champion: Release, release: Release) -> str:
    """By what requests have to look like, and what is offered."""
    if dataset_digest(champion.spec) != dataset_digest(release.spec):
        before, now = ({column.name: column for column in each.spec.columns} for each in (champion, release))
        differ = [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]
        what = f"the columns {', '.join(differ)}" if differ else "what is said of the table beside its columns"
        return f"its table is described otherwise than the champion's, so it can't be tried beside it: {what}"
    if what_is_offered(champion.terms) != what_is_offered(release.terms):
        return "it makes other offers than the champion, or has another cap, so it can't be tried beside it"
    before, now = ({column.name: column for column in each.accept.featurizer.columns} for each in (champion, release))
    if differ := [name for name in dict.fromkeys((*before, *now)) if before.get(name) != now.get(name)]:
        return f"its accept and the champion's can't be compared: the columns {', '.join(differ)} differ"
    return ""


def compare(part: str, rows: Rows, champion: Floats, release: Floats) -> Comparison:
    """Of the probabilities (n,) that both give the rows."""
    rarer = int(min(rows.y.sum(), (1 - rows.y).sum()))
    found = differences(rows.y, champion, release) if rarer >= LEAST_OF_EACH_CLASS else ()
    return Comparison(part, len(rows.y), rarer, found)


def worse(compared: Sequence[Comparison], margins: NotWorseBy) -> str:
    """By the held-out rows."""
    for each in compared:
        if not each.differences:
            return (
                f"{each.rows:,} rows are held out from the {each.part} of both releases, {each.rarer:,} of the rarer "
                f"class: at least {LEAST_OF_EACH_CLASS} are needed to tell whether it is worse than the champion's"
            )
    for each in compared:
        part: Margins = margins.risk if each.part == "risk" else margins.accept
        allowed = zip(each.differences, (part.auc, part.brier), strict=True)
        if lost := [f"{one}, where {margin:g} is the margin" for one, margin in allowed if not one.within(margin)]:
            return (
                f"its {each.part} is not shown to be as good as the champion's on {each.rows:,} held-out rows: "
                f"{'; '.join(lost)}"
            )
    return ""


def _refuses_more(champion: Release, release: Release, part: str, rows: Rows) -> str:
    """By the ranges beyond which a number of a request is refused; customers alone make requests."""
    if part != REQUIRED[0]:
        return ""
    names = [column.name for column in release.spec.columns if column.kind == "number" and not column.leak]
    refused: dict[str, int] = {}
    for row in zip(*(rows.columns[name].tolist() for name in names)):
        values = dict(zip(names, row))
        before, now = (_refused(each, values) for each in (champion, release))
        if now and not before:
            refused[now[0]] = refused.get(now[0], 0) + 1
    if not refused:
        return ""
    counts = ", ".join(f"{count:,} by {name}" for name, count in refused.items())
    return f"it would refuse held-out customers that the champion takes, as implausible: {counts}"


def _refused(release: Release, values: Mapping[str, object]) -> list[str]:
    outside = release.plausible.outside(values)
    return [name for name in outside if when_outside(release.spec, name) == "refuse"]


def _as_in_quarantine(plan: Plan, rollout: Rollout, release: Release) -> str:
    """A change of criteria or limits alone makes another release of the same parts, which is no other one."""
    for barred in rollout.quarantined:
        try:
            versions = _load(plan, barred.release).versions
        except StoreUnavailable:
            raise
        except RetainError:
            continue  # it was removed from the store, or is damaged: nothing can be told of it
        if versions == release.versions:
            return f"it decides and says the same as {barred.release}, which {barred.by} rolled back: {barred.why}"
    return ""


# -- what was read before ------------------------------------------------------------------------------------------


class Reading(Frozen):
    """A comparison of two releases (their versions) on the held-out rows of both."""

    champion: str
    release: str


class Readings(Frozen):
    """All of an experiment, in order. Two releases that are compared again tell nothing new, and count once."""

    readings: tuple[Reading, ...] = ()


def _note(plan: Plan, reading: Reading) -> int:
    """How many comparisons there were, with this one."""

    def noted(before: Readings | None) -> Readings:
        there = before or Readings()
        return there if reading in there.readings else Readings(readings=(*there.readings, reading))

    key = f"{FOLDER}/{plan.experiment.tag}/readings.json"
    return len(Document(plan.store, key, Readings).change(noted).readings)


# -- what it goes by -----------------------------------------------------------------------------------------------


def _load(plan: Plan, version: str) -> Release:
    folder = find(version, plan.experiment.tag)
    try:
        return load(open_artifact(folder))
    except ReleaseError as error:
        raise RetainError(f"{folder}: can't be compared: {error}") from None


def _held_out(artifacts: ArtifactStore, champion: str, version: str, part: str) -> Rows:
    older, newer = (table_of(artifacts, find(each, artifacts.experiment).name, part) for each in (champion, version))
    return held_out(newer, older)


def _scores(release: Release, part: str, rows: Rows) -> Floats:
    scorer = release.risk if part == "risk" else release.accept
    scores = np.zeros(len(rows.y))
    for start in range(0, len(scores), ROWS_AT_ONCE):  # all trees' leaves of all rows would take much memory
        some = slice(start, start + ROWS_AT_ONCE)
        columns = {name: values[some] for name, values in rows.columns.items()}
        scores[some] = scorer.scores(scorer.featurizer.transform(columns))
    return scores


def _bridged(plan: Plan, version: str, release: Release, rows: Rows) -> Floats:
    files = open_artifact(find(version, plan.experiment.tag))
    clients = DatasetSpec.model_validate_json(files["accept/schema.json"].read_bytes())
    if release.bridge.warning is not None:
        return np.full(len(rows.y), release.bridge.overall)
    return bridged(json.loads(files["accept/bridge.json"].read_bytes()), clients, rows)


def bridged(content: Mapping[str, Any], clients: DatasetSpec, rows: Rows) -> Floats:
    """What a customer of the cell of each row is taken to accept with (n,), by a bridge.json. `clients`: the table that
    it was made from. Raises RetainError for rows without its columns."""
    bridge, names = Bridge(content, clients), [part.column for part in clients.bridge]
    if missing := [name for name in names if name not in rows.columns]:
        raise RetainError(f"its bridge can't be compared: the held-out rows have no column {', '.join(missing)}")
    values = zip(*(rows.columns[name].tolist() for name in names))
    return np.array([bridge.score(dict(zip(names, each)))[0] for each in values])


def _missed(part: Part) -> str:
    return ", ".join(missed.verdict for missed in part.missed) or "nothing that it names"
