"""A release is read whole or refused in one line that names the file."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import DataError
from retain.dataset import protected_columns
from retain.decision import Arm, Decision
from retain.message import Bank, Message, Review, render
from retain.parts import Acceptance
from retain.policy import PolicyError
from retain.release import Release, ReleaseError, load, with_part
from tests.releases import (
    CHARGED,
    FOOTER,
    LEVELS,
    TERMS,
    approved,
    bank,
    dataset,
    decided,
    inputs,
    part,
    policy,
    rows,
    run_stage,
    scores,
    standing,
)
from tests.words import check


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("release")
    return run_stage(base, inputs(base / "inputs", dataset("telco"), dataset("bank")))


def files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def release(folder: Path) -> Release:
    return approved(load(files(folder)))


def test_a_customer_is_scored_as_the_parts_score_her(release: Release) -> None:
    table = rows(release.spec, 50, seed=5)
    x = np.array([release.risk.features(row) for row in table])
    scores = release.risk.scores(x)
    for row, features, score in zip(table, x, scores):
        decision, assessment = decided(release, row)
        assert np.array_equal(assessment.features, features, equal_nan=True)
        assert decision.risk == pytest.approx(float(score), abs=1e-12)
        assert decision.acceptance == release.bridge.score(row)[0]
        reasons = release.risk.reasons(features)
        sizes = [abs(value) for _, value in reasons]
        assert sizes == sorted(sizes, reverse=True)
        margin = release.risk.trees.bias + sum(value for _, value in reasons)
        assert margin == pytest.approx(float(release.risk.trees.margin(features)), abs=1e-4)
        assert {name for name, _ in reasons} <= {column.name for column in release.spec.columns}
    assert {decided(release, row)[0].action for row in table} == {"contact", "no_contact"}


def test_protected_columns_are_no_reasons(release: Release) -> None:
    protected = {column.name for column in protected_columns(release.spec)}
    left_out = set()
    for row in rows(release.spec, 20, seed=5):
        every, shown = release.risk.reasons(release.risk.features(row)), release.assess(row).reasons
        assert shown == [reason for reason in every if reason[0] not in protected]
        left_out |= {name for name, _ in every} - {name for name, _ in shown}
    assert left_out == protected


def test_only_a_table_with_the_bank_s_columns_gets_the_full_acceptance(tmp_path: Path, release: Release) -> None:
    assert release.assess(rows(release.spec, 1, seed=1)[0]).full_acceptance is None
    calls = dataset("bank", roles=CHARGED)
    both = load(files(run_stage(tmp_path, inputs(tmp_path / "inputs", calls, calls))))
    row = rows(calls, 1, seed=1)[0]
    assert both.assess(row).full_acceptance == both.accept.score(both.accept.features(row))


def test_a_policy_decides_about_a_customer_whose_number_is_missing(tmp_path: Path) -> None:
    """It sees the median that it was trained with, and that the number is missing; the trees see neither."""
    calls = dataset("bank", roles=CHARGED)
    release = load(files(run_stage(tmp_path, inputs(tmp_path / "inputs", calls, calls))))
    (row,) = rows(calls, 1, seed=1)
    known, unknown, sentinel = (release.assess({**row, "pdays": days}) for days in (6, None, 999))
    assert np.isnan(unknown.features).any()
    assert np.isfinite(unknown.case.features).all()
    assert unknown.case.features.tolist() == sentinel.case.features.tolist()
    assert known.case.features[:-1].tolist() == unknown.case.features[:-1].tolist()
    assert (known.case.features[-1], unknown.case.features[-1]) == (0, 1)
    assert decided(release, {**row, "pdays": None}, arm="learned")[0].arm == "learned"


def test_a_policy_without_the_medians_of_its_table_is_refused(tmp_path: Path) -> None:
    calls = dataset("bank", roles=CHARGED)
    given = inputs(tmp_path / "inputs", calls, calls)
    path = given["decision"] / "policy.json"
    path.write_bytes(dataclasses.replace(policy(calls), medians={}).to_json())
    with pytest.raises(DataError, match=r"policy\.json: has medians of none, where pdays may be missing"):
        run_stage(tmp_path, given)


def damaged(folder: Path, tmp_path: Path, name: str, change: Callable[[Any], Any]) -> dict[str, Path]:
    found = files(folder)
    content = change(json.loads(found[name].read_bytes()))
    if content is None:
        del found[name]
    else:
        found[name] = tmp_path / "damaged.json"
        found[name].write_text(content if isinstance(content, str) else json.dumps(content))
    return found


def with_sft(**stated: str) -> Callable[[Any], Any]:
    """release.json, which states that of the bank of sft."""
    return lambda content: content | {"parts": content["parts"] | {"sft": content["parts"]["sft"] | stated}}


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("release.json", lambda content: None, "release.json: is missing"),
        ("release.json", lambda content: "{", "release.json: is no JSON"),
        ("release.json", lambda content: "[" * 100_000, "release.json: is no JSON"),
        ("release.json", lambda content: [], "names no experiment"),
        ("schema.json", lambda content: None, "schema.json: is missing"),
        ("schema.json", lambda content: "nothing", "schema.json: as a whole"),
        ("schema.json", lambda content: content | {"extra": 1}, "schema.json: extra"),
        ("risk/model.json", lambda content: None, "risk/model.json: is missing"),
        ("risk/model.json", lambda content: {}, "risk/model.json: is no JSON model"),
        ("risk/calibration.json", lambda content: {}, "risk/calibration.json: wants"),
        ("risk/featurizer.json", lambda content: {}, "risk/featurizer.json"),
        ("accept/bridge.json", lambda content: None, "accept/bridge.json: is missing"),
        ("accept/bridge.json", lambda content: {}, "bridge.json: wants"),
        (
            "messages.json",
            lambda content: [],
            "messages.json: wants sender, quiet_hours and templates; an older release",
        ),
        ("messages.json", lambda content: content | {"templates": content["templates"][:1]}, "no message for"),
        ("messages.json", lambda content: content | {"templates": {}}, "messages.json: is no list"),
        ("messages.json", lambda content: content | {"sender": {"name": "x"}}, "sender wants name and address"),
        (
            "messages.json",
            lambda content: content | {"quiet_hours": content["quiet_hours"] | {"zones": ["Mars/Base"]}},
            "messages.json: quiet_hours.zones.0: is no time zone",
        ),
        (
            "messages.json",
            lambda content: content | {"sender": {"name": "x\ny", "address": "z"}},
            "messages.json: the sender's name holds a character",
        ),
        ("sft/sft.json", lambda content: {}, "sft/sft.json: is no list"),
        (
            "sft/sft.json",
            lambda content: [content[0] | {"source": "rlhf"}],
            "sft/sft.json: a message's source is 'rlhf'",
        ),
        (
            "rlhf/rlhf.json",
            lambda content: [content[2] | {"text": content[2]["text"] + " It is free."}],
            "rlhf/rlhf.json: message 0 (price, 5 %): promises something besides the offer",
        ),
        ("decision.json", lambda content: {}, "decision.json: offers: Field required"),
        ("decision.json", lambda content: [], "decision.json: as a whole"),
        ("decision.json", lambda content: content | {"threshold": 1.0}, "decision.json: threshold: "),
        ("decision/policy.json", lambda content: {}, "decision/policy.json: wants observed"),
        ("decision/policy.json", lambda content: content | {"price": 7}, "decision/policy.json: a price of 7"),
        ("reference.json", lambda content: "{", "reference.json: as a whole: Invalid JSON"),
        ("reference.json", lambda content: content | {"customers": -1}, "reference.json: customers: Input should be"),
        ("release.json", lambda content: content | {"dropped": {}}, "release.json: dropped is no list"),
        ("release.json", lambda content: content | {"parts": {}}, "release.json: its parts are "),
        ("release.json", lambda content: content | {"parts": None}, "release.json: parts: Input should be"),
        ("release.json", with_sft(standing="perhaps"), "release.json: parts.sft.standing: Input should be 'served'"),
        ("release.json", with_sft(standing="left_out"), "release.json: sft is left_out ("),
        ("release.json", with_sft(digest="0" * 12), "release.json: sft is served (000000000000), its files are "),
        ("sft/sft.json", lambda content: content[:-1], "release.json: sft is served ("),
        ("sft/sft.json", lambda content: None, "its files are None"),
    ],
)
def test_a_damaged_release_is_refused_in_one_line(
    folder: Path, tmp_path: Path, name: str, change: Callable[[Any], Any], says: str
) -> None:
    with pytest.raises(ReleaseError) as error:
        load(damaged(folder, tmp_path, name, change))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_featurizer_of_another_table_is_refused(folder: Path) -> None:
    mixed = files(folder)
    for name in ("model", "calibration", "featurizer"):
        mixed[f"risk/{name}.json"] = mixed[f"accept/{name}.json"]
    with pytest.raises(ReleaseError, match=r"risk/featurizer\.json: its column"):
        load(mixed)


def test_a_model_of_another_width_is_refused(folder: Path) -> None:
    mixed = files(folder)
    mixed["risk/model.json"] = mixed["accept/model.json"]
    with pytest.raises(ReleaseError, match=r"the model wants \d+ features, the featurizer makes \d+"):
        load(mixed)


def test_one_part_is_replaced_and_named_by_another_version(release: Release, tmp_path: Path) -> None:
    part(tmp_path / "risk", release.spec, seed=9)
    row = rows(release.spec, 1, seed=1)[0]
    changed = with_part(release, "risk", files(tmp_path / "risk"))
    assert changed.versions["risk"] != release.versions["risk"]
    assert (release.replaced, changed.replaced) == ((), ("risk",))
    assert changed.versions["accept"] == release.versions["accept"]
    assert decided(changed, row)[0].risk != decided(release, row)[0].risk


def test_the_policy_is_replaced_by_one_of_the_same_offers(release: Release, tmp_path: Path) -> None:
    eager = policy(release.spec, eager=99.0, offer=20)
    (tmp_path / "policy.json").write_bytes(eager.to_json())
    (tmp_path / "terms.json").write_text(json.dumps(TERMS | {"threshold": 0.9, "decay": 0.1}))
    row = rows(release.spec, 1, seed=1)[0]
    changed = with_part(release, "decision", files(tmp_path))
    assert changed.versions["policy"] != release.versions["policy"]
    assert changed.replaced == ("decision",)
    assert (release.reference is None, changed.reference) == (False, None)  # that was of the other policy
    assert changed.terms == release.terms
    assert decided(changed, row, arm="learned")[0].offer == 20
    without = dataclasses.replace(release, policy=None)
    assert with_part(without, "decision", files(tmp_path)).policy is not None
    with pytest.raises(PolicyError, match="no learned policy"):
        decided(without, row, arm="learned")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("policy.json", None, "decision/policy.json: is missing"),
        ("policy.json", "{", "decision/policy.json: wants observed"),
        ("policy.json", '{"observed": NaN}', "decision/policy.json: wants observed"),
        ("terms.json", None, "decision/terms.json: is missing"),
        ("terms.json", "[]", "decision/terms.json: its offers are None"),
        ("terms.json", json.dumps(TERMS | {"cap": {"max_contacts": 9, "window": 3}}), "its cap are"),
    ],
)
def test_a_policy_artifact_that_does_not_suit_is_refused(
    release: Release, tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    (tmp_path / "policy.json").write_bytes(policy(release.spec).to_json())
    (tmp_path / "terms.json").write_text(json.dumps(TERMS))
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ReleaseError) as error:
        with_part(release, "decision", files(tmp_path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# -- messages --------------------------------------------------------------------------------------------------------


def said(release: Release, arm: Arm, situation: str = "price", offer: int = 10) -> Message:
    """What an arm says to a customer of that situation."""
    column = release.spec.roles[{"price": "monthly_charge", "support": "support"}[situation]]
    decision = Decision(0.5, 0.5, "contact", offer, "policy_contact", arm)
    assessment = release.assess(rows(release.spec, 1, seed=1)[0] | {release.spec.roles["tenure"]: 40})
    assessment.reasons = [(column, 1.0)]
    message = release.message(assessment, decision)
    assert message is not None
    return message


def test_each_arm_speaks_from_its_bank(release: Release) -> None:
    baseline, learned = said(release, "baseline"), said(release, "learned")
    assert (baseline.source, learned.source) == ("sft", "rlhf")
    body, _, below = learned.text.partition("\n")
    assert below == release.footer == FOOTER
    assert body.startswith("Many thanks for being with us. We would like to take 10% off your charge for six months. ")
    assert check(body, 10, 6) == []


def test_of_a_template_there_is_no_score(release: Release) -> None:
    spoken = said(release, "baseline")
    assert (spoken.score, spoken.tokens) == (1.5, 23)
    assert spoken.characters == len(spoken.text.partition("\n")[0])
    unread = said(dataclasses.replace(release, verdicts={}), "baseline")
    assert (unread.source, unread.score, unread.tokens) == ("template", None, None)


def test_where_a_bank_has_nothing_to_say_the_next_one_speaks(release: Release) -> None:
    some = Bank.from_json(bank("rlhf", offers=(10,), situations=("price",)))
    partial = dataclasses.replace(release, banks={**release.banks, "rlhf": some})
    assert said(partial, "learned").source == "rlhf"
    assert said(partial, "learned", "support").source == "sft"
    assert said(partial, "learned", offer=20).source == "sft"
    empty = dataclasses.replace(release, banks={**release.banks, "rlhf": Bank([]), "sft": Bank([])})
    assert {said(empty, arm, "support").source for arm in ("baseline", "learned")} == {"template"}
    alone = dataclasses.replace(release, banks={"template": release.banks["template"], "rlhf": release.banks["rlhf"]})
    assert (said(alone, "baseline").source, said(alone, "learned").source) == ("template", "rlhf")


def test_an_unsafe_message_is_passed_over_when_sent(release: Release) -> None:
    entries = [dataclasses.replace(entry, text=entry.text + " Hurry.") for entry in release.banks["rlhf"].entries]
    changed = approved(dataclasses.replace(release, banks={**release.banks, "rlhf": Bank(entries)}))
    assert said(changed, "learned").source == "sft"


def test_a_message_is_sent_once_somebody_approved_it(release: Release) -> None:
    unread = dataclasses.replace(release, verdicts={})
    assert {said(unread, arm).source for arm in ("baseline", "learned")} == {"template"}
    best, second = sorted(
        (entry for entry in release.banks["rlhf"].entries if (entry.situation, entry.offer) == ("price", 10)),
        key=lambda entry: -entry.score,
    )
    one = dataclasses.replace(release, verdicts={second.text: "approved", best.text: "rejected"})
    assert said(one, "learned").text.startswith(render(second.text, 10, 6))
    assert said(one, "baseline").source == "template"
    listed = len(release.banks["rlhf"].entries)
    same_text = sum(entry.text == second.text for entry in release.banks["rlhf"].entries)
    assert one.reviews["rlhf"] == Review(listed, same_text, same_text, listed - 2 * same_text)
    assert unread.reviews["sft"] == Review(48, 0, 0, 48)


def accepts(release: Release, name: str, *criteria: str, **changes: str) -> Release:
    acceptance = {"part": name, "by": "Ann", "reason": "a trial", "digest": release.parts[name].digest}
    return dataclasses.replace(release, accepted=(Acceptance(**{**acceptance, **changes}, criteria=criteria),))  # type: ignore[arg-type]


def test_a_bank_in_the_shadow_speaks_once_a_person_accepted_it_as_it_is(release: Release) -> None:
    missed = ("text_eval.win_rate_gain", "messages.coverage")
    in_shadow = standing(release, "rlhf", "shadow_only", *missed)
    assert said(in_shadow, "learned").source == "sft"
    assert said(accepts(in_shadow, "rlhf", *missed, "rm.auc"), "learned").source == "rlhf"
    for lacking in (
        accepts(in_shadow, "rlhf", missed[0]),
        accepts(in_shadow, "rlhf", *missed, digest="0" * 12),
        accepts(in_shadow, "rlhf", *missed, part="sft"),
        accepts(standing(release, "rlhf", "left_out", *missed), "rlhf", *missed),
    ):
        assert said(lacking, "learned").source == "sft"
    both = standing(in_shadow, "sft", "shadow_only", "sft.training_loss")
    assert {said(both, arm).source for arm in ("baseline", "learned")} == {"template"}


def test_a_policy_in_the_shadow_decides_there_alone(release: Release) -> None:
    in_shadow = standing(release, "decision", "shadow_only", "decision.lift_gain")
    row = rows(release.spec, 1, seed=1)[0]
    assessment, wallet = in_shadow.assess(row), in_shadow.terms.new_wallet()
    with pytest.raises(PolicyError, match="policy is shadow_only: no customer is shown"):
        in_shadow.decide(assessment, wallet, 1.0, "learned")
    assert (wallet.open, wallet.held) == (0, 0)
    shadow = in_shadow.decide(assessment, wallet, 1.0, "learned", in_shadow=True)
    assert shadow == decided(release, row, arm="learned")[0]
    allowed = accepts(in_shadow, "decision", "decision.lift_gain")
    assert allowed.decide(allowed.assess(row), release.terms.new_wallet(), 1.0, "learned") == shadow


def test_the_risk_of_who_accepted_is_that_of_her_lower_charge(release: Release) -> None:
    changed = 0
    for row in rows(release.spec, 40, seed=5):
        assessment = release.assess(row)
        lower = release.assess(row | {"MonthlyCharges": row["MonthlyCharges"] * (1 - 20 / 100)}).case.risk
        assert assessment.risk_if_accepted(20) == lower
        assert assessment.risk_if_accepted(0) == assessment.case.risk
        changed += lower != assessment.case.risk
    assert changed


def test_the_shadow_reads_a_bank_wherever_it_stands_and_whoever_read_it(release: Release) -> None:
    unread = standing(dataclasses.replace(release, verdicts={}), "rlhf", "shadow_only", "rm.auc")
    decision, assessment = next(
        made for row in rows(release.spec, 60, seed=5) if (made := decided(release, row))[0].action == "contact"
    )
    assert unread.message(assessment, decision).source == "template"  # type: ignore[union-attr]
    sources = [
        message.source for name in ("sft", "rlhf") if (message := unread.shadow_message(name, assessment, decision))
    ]
    assert sources == ["sft", "rlhf"]
    without = dataclasses.replace(release, banks={**release.banks, "rlhf": Bank([])})
    assert without.shadow_message("rlhf", assessment, decision) is None
    assert without.shadow_message("nothing", assessment, decision) is None
    assert unread.shadow_message("sft", assessment, dataclasses.replace(decision, offer=None)) is None


@pytest.mark.parametrize(("stands", "is_there"), [("shadow_only", True), ("left_out", False)])
def test_the_release_s_own_part_is_not_shown_for_being_named_as_another(
    release: Release, tmp_path: Path, stands: Any, is_there: bool
) -> None:
    (tmp_path / "policy.json").write_bytes(release.policy.to_json())  # type: ignore[union-attr]
    (tmp_path / "terms.json").write_text(json.dumps(TERMS))
    missed = standing(release, "decision", stands, "decision.lift_gain")
    missed = missed if is_there else dataclasses.replace(missed, policy=None)
    held = with_part(missed, "decision", files(tmp_path))
    assert (held.held_back, held.replaced, held.versions) == (("decision",), (), missed.versions)
    assert ((held.policy is not None), "decision" in held.shown) == (is_there, False)
    (tmp_path / "policy.json").write_bytes(policy(release.spec, eager=99.0, offer=20).to_json())
    trial = with_part(missed, "decision", files(tmp_path))
    assert (trial.held_back, trial.replaced, trial.standing("decision")) == ((), ("decision",), "served")
    assert trial.parts["decision"].digest == trial.versions["policy"]


def test_a_bank_and_its_order_are_replaced(release: Release, tmp_path: Path) -> None:
    (tmp_path / "rlhf.json").write_text(json.dumps(bank("rlhf", situations=("support",))))
    changed = with_part(release, "rlhf", files(tmp_path))
    assert said(changed, "learned").source == "sft"
    assert said(changed, "learned", "support").source == "rlhf"
    assert changed.versions["rlhf"] != release.versions["rlhf"]
    assert changed.versions["sft"] == release.versions["sft"]
    (tmp_path / "scores.json").write_text(json.dumps(scores(*bank("sft"), sign=-1)))
    ordered = with_part(changed, "scores", files(tmp_path))
    assert ordered.replaced == ("rlhf", "scores")
    assert said(release, "baseline").text.partition("\n")[0].endswith("Reply YES if you like.")
    assert said(ordered, "baseline").text.partition("\n")[0].endswith("Reply YES.")


@pytest.mark.parametrize(
    ("part", "name", "content", "says"),
    [
        ("sft", "sft.json", None, "sft/sft.json: is missing"),
        ("sft", "sft.json", "{", "sft/sft.json: is no JSON"),
        ("sft", "sft.json", "[1]", "sft/sft.json: message 0: wants"),
        (
            "sft",
            "sft.json",
            json.dumps(bank("sft", offers=(7,))),
            "sft/sft.json: has a message for an offer of 7 %, where the release offers " + ", ".join(map(str, LEVELS)),
        ),
        ("scores", "scores.json", None, "scores/scores.json: is missing"),
        ("scores", "scores.json", "[]", "scores.json: wants a number"),
        ("scores", "scores.json", '{"a": 1}', "scores.json: wants a number"),
        ("scores", "scores.json", '{"price": {"a": 1}}', "scores.json: wants a number"),
        ("scores", "scores.json", '{"price/ten": {"a": 1}}', "scores.json: wants a number"),
        ("scores", "scores.json", '{"prize/10": {"a": 1}}', "scores.json: wants a number"),
        ("scores", "scores.json", '{"price/10": [1]}', "scores.json: wants a number"),
        ("scores", "scores.json", '{"price/10": {"a": NaN}}', "scores.json: wants a number"),
        ("scores", "scores.json", '{"price/10": {"a": "1"}}', "scores.json: wants a number"),
        ("scores", "scores.json", '{"price/10": {"a": 1' + "0" * 400 + "}}", "scores.json: wants a number"),
    ],
)
def test_messages_that_can_not_be_read_are_refused(
    release: Release, tmp_path: Path, part: str, name: str, content: str | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ReleaseError) as error:
        with_part(release, part, files(tmp_path))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_policy_whose_weights_are_no_numbers_is_refused(release: Release, tmp_path: Path) -> None:
    content = json.loads(policy(release.spec).to_json())
    content["layers"][0]["weight"][0][0] = float("nan")
    (tmp_path / "policy.json").write_text(json.dumps(content))
    (tmp_path / "terms.json").write_text(json.dumps(TERMS))
    with pytest.raises(ReleaseError, match=r"^decision/policy\.json: a number is not finite"):
        with_part(release, "decision", files(tmp_path))


def test_a_part_of_another_table_is_refused(release: Release, tmp_path: Path) -> None:
    part(tmp_path / "risk", dataset("bank"), seed=9)
    with pytest.raises(ReleaseError, match="its column 'age'"):
        with_part(release, "risk", files(tmp_path / "risk"))
    with pytest.raises(ReleaseError, match=r"accept/bridge\.json: is missing"):
        with_part(release, "accept", files(tmp_path / "risk"))


def test_a_release_loads_without_any_training_library(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from retain.release import load\n"
        "folder = Path(sys.argv[1])\n"
        "load({p.relative_to(folder).as_posix(): p for p in folder.rglob('*.json')})\n"
        "heavy = {'pandas', 'sklearn', 'xgboost', 'torch', 'pyarrow', 'scipy', 'pickle', 'yaml'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    # numpy imports pickle for its own files; nothing of ours may call it, which the linter holds.
    assert set(done.stdout.split()) <= {"pickle"}
