"""The release stage: what is judged, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.artifact import WARNINGS, canonical
from engine.errors import ConfigError, CriteriaMissed, DataError
from retain.decision import Arm
from retain.guard import GuardWords
from retain.message import SITUATIONS
from retain.policy import PolicyError
from retain.reference import Distribution
from retain.release import Release, ReleaseError, load
from tests.engine.processes import message_without_privileges
from tests.releases import (
    PASSED,
    RULE,
    SENDER,
    TERMS,
    approved,
    config,
    dataset,
    decided,
    inputs,
    measured,
    policy,
    rows,
    run_stage,
)
from tests.words import WORDS


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Path]:
    return inputs(tmp_path / "inputs", dataset("telco"), dataset("bank"))


def test_what_passed_is_put_together(tmp_path: Path, given: dict[str, Path]) -> None:
    out = run_stage(tmp_path, given)
    written = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    release = load(written)
    about = json.loads(written["release.json"].read_bytes())
    assert about["experiment"] == "toy"
    assert {part: stated["standing"] for part, stated in about["parts"].items()} == {
        "risk": "served",
        "accept": "served",
        "decision": "served",
        "sft": "served",
        "rlhf": "served",
    }
    assert [(verdict["stage"], verdict["metric"]) for verdict in about["verdicts"]] == [
        ("risk", "auc"),
        ("risk", "ece"),
        ("accept", "auc"),
        ("decision", "nrr_gain"),
        ("decision", "lift_gain"),
        ("decision", "over_cap"),
        ("sft", "training_loss"),
        ("rm", "auc"),
        ("text_eval", "win_rate_gain"),
        ("text_eval", "unsafe"),
        ("messages", "coverage"),
    ]
    assert about["verdicts"][0] == {
        "stage": "risk", "metric": "auc", "value": 0.85, "ci": [0.83, 0.87],
        "op": ">=", "limit": 0.78, "gating": True, "kind": None, "passed": True,
    }  # fmt: skip
    assert about["parts"]["risk"]["digest"] == release.versions["risk"]
    assert about["parts"]["decision"]["digest"] == release.versions["policy"]
    assert release.policy is not None
    assert release.shown == {"risk", "accept", "decision", "sft", "rlhf"}
    assert list(release.parts) == ["risk", "accept", "decision", "sft", "rlhf"]
    assert about["decision"] == json.loads(written["decision.json"].read_bytes()) == {**TERMS, "rule": RULE}
    counts = json.loads(written["metrics.json"].read_bytes())
    assert (counts["criteria"]["value"], counts["criteria_passed"]["value"]) == (11, 10)
    assert counts["messages"]["value"] == sum(len(bank.entries) for bank in release.banks.values()) == 24 + 48 + 48
    assert json.loads(written["messages.json"].read_bytes())["sender"] == SENDER
    for name in ("risk/model.json", "accept/bridge.json", "decision/policy.json"):
        assert written[name].read_bytes() == (given[name.partition("/")[0]] / Path(name).name).read_bytes()
    for name in ("sft", "rlhf"):
        assert written[f"{name}/{name}.json"].read_bytes() == (given["messages"] / f"{name}.json").read_bytes()
        assert about["parts"][name]["digest"] == release.versions[name]


def test_the_same_inputs_make_the_same_bytes(tmp_path: Path, given: dict[str, Path]) -> None:
    first, second = run_stage(tmp_path / "1", given), run_stage(tmp_path / "2", given)
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("stage", "values", "says"),
    [
        ("risk", {"auc": 0.7}, ["risk auc 0.7 (wanted >= 0.78)"]),
        ("risk", {"ece": 0.05}, ["risk ece 0.05 (wanted < 0.05)"]),
        ("accept", {"auc": None}, ["accept auc missing (wanted >= 0.7)"]),
        ("risk", {"auc": 0.5, "ece": 0.3}, ["risk auc 0.5", "risk ece 0.3"]),
    ],
)
def test_a_missed_criterion_means_no_release(
    tmp_path: Path, given: dict[str, Path], stage: str, values: dict[str, Any], says: list[str]
) -> None:
    measured(given, stage, **values)
    with pytest.raises(CriteriaMissed, match="no release: ") as error:
        run_stage(tmp_path, given)
    assert all(text in str(error.value) for text in says)
    assert error.value.exit_code == 3
    assert not any((tmp_path / "out").iterdir())


def test_a_smaller_table_is_no_reason_to_refuse(tmp_path: Path, given: dict[str, Path]) -> None:
    measured(given, "customers", rows=5)  # its criterion is the verdict's affair; what is served is the models'
    assert (run_stage(tmp_path, given) / "release.json").exists()


def test_a_criterion_that_is_not_gating_is_shown_and_stops_nothing(tmp_path: Path, given: dict[str, Path]) -> None:
    measured(given, "risk", ece=0.2)
    lenient = config()
    lenient.criteria["risk"]["ece"] = lenient.criteria["risk"]["ece"].model_copy(update={"gating": False})
    out = run_stage(tmp_path, given, lenient)
    verdicts = json.loads((out / "release.json").read_bytes())["verdicts"]
    assert [verdict["passed"] for verdict in verdicts if verdict["metric"] == "ece"] == [False]


@pytest.mark.parametrize(
    ("stage", "name", "content", "says"),
    [
        ("risk", "metrics.json", b"{", "risk/metrics.json: is damaged"),
        ("risk", "metrics.json", None, "risk/metrics.json: is missing"),
        ("risk", "model.json", None, "risk/model.json: is missing"),
        ("risk", "model.json", b"{}", "risk/model.json"),
        ("accept", "bridge.json", b"{}", "bridge.json"),
        ("customers", "schema.json", b"{}", "schema.json"),
        ("decision", "metrics.json", b"[]", "decision/metrics.json: is damaged"),
        ("decision", "terms.json", None, "decision/terms.json: is missing"),
        ("decision", "terms.json", b"[]", "decision/terms.json: is damaged"),
        ("decision", "terms.json", b"{}", "decision.json: offers: Field required"),
        ("decision", "policy.json", None, "decision/policy.json: is missing"),
        ("decision", "policy.json", b"{}", "decision/policy.json: wants"),
        ("text_eval", "metrics.json", None, "text_eval/metrics.json: is missing"),
        ("messages", "sft.json", None, "messages/sft.json: is missing"),
        ("messages", "rlhf.json", b"{}", "messages/rlhf.json: is no list of messages; run"),
    ],
)
def test_a_damaged_input_is_one_clear_error(
    tmp_path: Path, given: dict[str, Path], stage: str, name: str, content: bytes | None, says: str
) -> None:
    if content is None:
        (given[stage] / name).unlink()
    else:
        (given[stage] / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        run_stage(tmp_path, given)
    assert says in str(error.value)


def test_a_rule_that_can_not_be_served_is_refused(tmp_path: Path, given: dict[str, Path]) -> None:
    (given["decision"] / "terms.json").write_bytes(canonical({**TERMS, "offer": 15}))
    with pytest.raises(DataError, match=r"decision\.json: offer 15 is not one of"):
        run_stage(tmp_path, given)


def test_what_its_messages_are_like_is_told_of_validation_customers_by_the_service_s_code(
    tmp_path: Path, given: dict[str, Path]
) -> None:
    release = load(files_of(run_stage(tmp_path, given)))
    content = pq.read_table(given["customers"] / "data.parquet").to_pylist()
    customers = [row for row in content if row["split"] == "validation"]
    reference = release.reference
    assert reference is not None
    assert (reference.customers, set(reference.messages)) == (len(customers), {"sft", "rlhf"}) == (150, {"sft", "rlhf"})
    sent = approved(release)
    for arm, bank in (("baseline", "sft"), ("learned", "rlhf")):
        said = []
        for row in customers:
            decision, assessment = decided(sent, row, arm=arm)
            message = sent.message(assessment, decision)
            said += [] if message is None else [message]
        told = reference.messages[bank][arm]
        assert 0 < told.n == len(said) < 150
        assert {message.source for message in said} == {bank}
        for values, distribution in (
            ([message.tokens for message in said], told.tokens),
            ([message.characters for message in said], told.characters),
            ([message.score for message in said], told.score),
        ):
            assert distribution == Distribution.of(values)  # type: ignore[arg-type]


def test_the_reference_knows_the_shadow_and_not_what_is_left_out(tmp_path: Path, given: dict[str, Path]) -> None:
    whole = load(files_of(run_stage(tmp_path / "whole", given))).reference
    measured(given, "decision", lift_gain=0.0)
    measured(given, "text_eval", unsafe=0.5)
    in_shadow = load(files_of(run_stage(tmp_path / "shadow", given))).reference
    assert whole is not None
    assert in_shadow is not None
    assert in_shadow.messages == {"sft": whole.messages["sft"]}
    measured(given, "decision", over_cap=0.5)
    without = load(files_of(run_stage(tmp_path / "without", given))).reference
    assert without is not None
    assert without.messages == {"sft": {"baseline": whole.messages["sft"]["baseline"]}}


def test_a_table_without_validation_customers_has_an_empty_reference(tmp_path: Path, given: dict[str, Path]) -> None:
    path = given["customers"] / "data.parquet"
    pq.write_table(pa.table(pq.read_table(path, filters=[("split", "!=", "validation")]).to_pydict()), path)
    reference = load(files_of(run_stage(tmp_path, given))).reference
    assert reference is not None
    assert (reference.customers, reference.messages["sft"]["baseline"].n) == (0, 0)


def test_a_customer_whom_the_release_can_not_read_is_one_line(tmp_path: Path, given: dict[str, Path]) -> None:
    path = given["customers"] / "data.parquet"
    content = pq.read_table(path).to_pydict()
    content["Contract"][content["split"].index("validation")] = "Weekly"
    pq.write_table(pa.table(content), path)
    with pytest.raises(DataError, match=r"customers/data\.parquet: the validation part .*column 'Contract'") as error:
        run_stage(tmp_path, given)
    assert "\n" not in str(error.value)


# -- the decision part ---------------------------------------------------------------------------------------------


def written(out: Path) -> dict[str, Path]:
    return {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}


def about(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "release.json").read_bytes())
    return content


def decided_and_said(release: Release) -> set[tuple[str, str | None]]:
    """(arm, source of its message) of the decisions about some customers, by the arms that may answer them."""
    seen = set()
    for row in rows(release.spec, 60, seed=5):
        for arm in get_args(Arm):
            assessment = release.assess(row)
            try:
                decision = release.decide(assessment, release.terms.new_wallet(), 1.0, arm)
            except PolicyError:
                continue
            message = release.message(assessment, decision)
            seen.add((decision.arm, None if message is None else message.source))
    return seen


def test_a_part_that_missed_value_alone_is_in_the_release_and_shown_to_nobody(
    tmp_path: Path, given: dict[str, Path]
) -> None:
    whole = run_stage(tmp_path / "whole", given)
    measured(given, "decision", lift_gain=0.05)
    out = run_stage(tmp_path, given)
    assert (out / "decision" / "policy.json").read_bytes() == (whole / "decision" / "policy.json").read_bytes()
    digest = about(whole)["parts"]["decision"]["digest"]
    assert about(out)["parts"]["decision"] == {
        "standing": "shadow_only",
        "digest": digest,
        "artifact": digest,
        "missed": [
            {
                "criterion": "decision.lift_gain",
                "kind": "value",
                "verdict": "decision lift_gain 0.05 (wanted >= 0.12)",
            }
        ],
    }
    release = load(written(out))
    assert (release.standing("decision"), release.versions["policy"]) == ("shadow_only", digest)
    assert release.shown == {"risk", "accept", "sft", "rlhf"}
    assert json.loads((out / "metrics.json").read_bytes())["shadow_only"]["value"] == 1
    assert {arm for arm, _ in decided_and_said(approved(load(written(whole))))} == {"baseline", "learned"}
    assert {arm for arm, _ in decided_and_said(approved(release))} == {"baseline"}


def test_a_decision_part_that_missed_safety_is_left_out_and_the_release_says_so(
    tmp_path: Path, given: dict[str, Path]
) -> None:
    """Whatever it missed besides."""
    whole = about(run_stage(tmp_path / "whole", given))
    measured(given, "decision", over_cap=0.02, lift_gain=0.05)
    out = run_stage(tmp_path, given)
    assert "decision/policy.json" not in written(out)
    stated = about(out)["parts"]["decision"]
    assert (stated["standing"], stated["digest"]) == ("left_out", whole["parts"]["decision"]["digest"])
    assert [(missed["criterion"], missed["kind"]) for missed in stated["missed"]] == [
        ("decision.lift_gain", "value"),
        ("decision.over_cap", "safety"),
    ]
    release = load(written(out))
    assert release.policy is None
    assert "policy" not in release.versions
    assert release.terms.threshold == TERMS["threshold"]
    assert json.loads((out / "metrics.json").read_bytes())["left_out"]["value"] == 1


def test_a_criterion_of_no_kind_is_one_of_safety(tmp_path: Path, given: dict[str, Path]) -> None:
    measured(given, "decision", lift_gain=0.05)
    settings = config()
    lift_gain = settings.criteria["decision"]["lift_gain"]
    settings.criteria["decision"]["lift_gain"] = lift_gain.model_copy(update={"kind": None})
    assert about(run_stage(tmp_path, given, settings))["parts"]["decision"]["standing"] == "left_out"


@pytest.mark.parametrize(
    ("metric", "standing"), [("lift_gain", "shadow_only"), ("over_cap", "left_out"), ("nrr_gain", "served")]
)
@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_was_not_measured_has_not_passed(
    tmp_path: Path, given: dict[str, Path], metric: str, standing: str, value: float | None
) -> None:
    """It counts where it gates: nrr_gain doesn't."""
    metrics = {name: measure for name, measure in PASSED["decision"].items() if name != metric}
    content = metrics if value is None else metrics | {metric: {"value": value}}
    (given["decision"] / "metrics.json").write_text(json.dumps(content))
    assert about(run_stage(tmp_path, given))["parts"]["decision"]["standing"] == standing


# -- messages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "values", "standing", "parts", "criterion"),
    [
        ("sft", {"training_loss": 2.5}, "shadow_only", ["sft", "rlhf"], "sft.training_loss"),
        ("rm", {"auc": 0.6}, "shadow_only", ["rlhf"], "rm.auc"),
        ("text_eval", {"win_rate_gain": None}, "shadow_only", ["rlhf"], "text_eval.win_rate_gain"),
        ("messages", {"coverage": 0.9}, "shadow_only", ["rlhf"], "messages.coverage"),
        ("text_eval", {"unsafe": 0.01}, "left_out", ["rlhf"], "text_eval.unsafe"),
    ],
)
def test_a_bank_that_missed_a_criterion_says_nothing_to_a_customer(
    tmp_path: Path,
    given: dict[str, Path],
    stage: str,
    values: dict[str, Any],
    standing: str,
    parts: list[str],
    criterion: str,
) -> None:
    measured(given, stage, **values)
    out = run_stage(tmp_path, given)
    stated = about(out)["parts"]
    assert {part: stated[part]["standing"] for part in ("sft", "rlhf")} == {
        part: standing if part in parts else "served" for part in ("sft", "rlhf")
    }
    assert [[missed["criterion"] for missed in stated[part]["missed"]] for part in parts] == [[criterion]] * len(parts)
    release = approved(load(written(out)))
    assert all((part in release.banks) == (standing == "shadow_only") for part in parts)
    assert all((out / part).exists() == (standing == "shadow_only") for part in parts)
    sources = {
        arm: {source for by, source in decided_and_said(release) if by == arm and source} for arm in get_args(Arm)
    }
    instead = "template" if "sft" in parts else "sft"
    assert sources == {"baseline": {instead}, "learned": {instead}}


def test_banks_without_a_safe_candidate_are_released_and_the_templates_speak(
    tmp_path: Path, given: dict[str, Path]
) -> None:
    for name in ("sft", "rlhf"):
        (given["messages"] / f"{name}.json").write_bytes(b"[]")
    release = load(written(run_stage(tmp_path, given)))
    assert {name: len(bank.entries) for name, bank in release.banks.items()} == {"template": 24, "sft": 0, "rlhf": 0}


def test_a_sender_that_can_not_be_shown_is_one_line(tmp_path: Path, given: dict[str, Path]) -> None:
    settings = config()
    settings.sender.address = "1 Example Street\u202e"
    with pytest.raises(DataError, match=r"messages\.json: the sender's address holds a character") as error:
        run_stage(tmp_path, given, settings)
    assert "\n" not in str(error.value)


def test_a_policy_of_another_table_is_refused(tmp_path: Path, given: dict[str, Path]) -> None:
    (given["decision"] / "policy.json").write_bytes(policy(dataset("bank")).to_json())
    with pytest.raises(DataError, match=r"can't be read back: policy\.json: observes \d+ columns, where"):
        run_stage(tmp_path, given)


def test_a_table_without_a_charge_has_no_prices(tmp_path: Path) -> None:
    bank = dataset("bank")
    with pytest.raises(DataError, match=r"schema\.json: no column has the role monthly_charge"):
        run_stage(tmp_path, inputs(tmp_path / "inputs", bank, bank))
    doubtful = dataset("bank", roles={"monthly_charge": "pdays"})
    with pytest.raises(DataError, match=r"the monthly charge pdays wants a number from 0 that is never missing"):
        run_stage(tmp_path / "doubtful", inputs(tmp_path / "in", doubtful, bank))


# -- the guard and the templates -----------------------------------------------------------------------------------


def guarded(**words: list[str]) -> Any:
    """What the stage is given, with more words in the guard."""
    settings = config()
    content = settings.guard.model_dump(mode="json") | {"words": words}
    settings.guard = GuardWords.model_validate_json(json.dumps(content))
    return settings


def test_the_guard_in_force_is_a_file_of_the_release(tmp_path: Path, given: dict[str, Path]) -> None:
    out = run_stage(tmp_path, given, guarded(promise=["our new network"]))
    guard = json.loads((out / "guard.json").read_bytes())
    assert guard["rules"]["words"]["promise"] == [*WORDS.rules.words["promise"], "our new network"]
    assert guard["names"] == WORDS.guard.names.model_dump()
    release = load(files_of(out))
    assert release.guard.rules.unsafe("Meet our new network.", 10, 6) == ["promise"]
    assert release.versions["guard"] != load(files_of(run_stage(tmp_path / "other", given))).versions["guard"]


def test_the_banks_lose_what_the_guard_refuses_by_now(tmp_path: Path, given: dict[str, Path]) -> None:
    """Half of each bank ends in "if you like"."""
    out = run_stage(tmp_path, given, guarded(pressure=["if you like"]))
    release, about = load(files_of(out)), json.loads((out / "release.json").read_bytes())
    assert all(len(release.banks[part].entries) == 24 for part in ("sft", "rlhf"))
    assert not any("if you like" in entry.text for bank in release.banks.values() for entry in bank.entries)
    assert [one["part"] for one in about["dropped"]] == ["sft"] * 24 + ["rlhf"] * 24
    assert about["dropped"][0]["breaks"] == ["presses the customer"]
    assert json.loads((out / "metrics.json").read_bytes())["dropped"]["value"] == 48
    assert about["parts"]["sft"]["digest"] == release.versions["sft"]
    # every situation and offer still has its other message
    assert [verdict["value"] for verdict in about["verdicts"] if verdict["metric"] == "coverage"] == [1.0]


def test_a_bank_that_lost_messages_still_knows_the_artifact_that_it_was_made_of(
    tmp_path: Path, given: dict[str, Path]
) -> None:
    whole = about(run_stage(tmp_path / "whole", given))["parts"]["sft"]
    lessened = about(run_stage(tmp_path, given, guarded(pressure=["if you like"])))["parts"]["sft"]
    assert whole["digest"] == whole["artifact"] == lessened["artifact"] != lessened["digest"]


def test_dropped_messages_are_counted_of_released_parts_alone(tmp_path: Path, given: dict[str, Path]) -> None:
    measured(given, "text_eval", unsafe=0.5)  # leaves rlhf out
    out = run_stage(tmp_path, given, guarded(pressure=["if you like"]))
    assert json.loads((out / "metrics.json").read_bytes())["dropped"]["value"] == 24
    assert [entry["part"] for entry in load(files_of(out)).dropped] == ["sft"] * 24


def test_coverage_is_judged_of_what_is_left(tmp_path: Path, given: dict[str, Path]) -> None:
    out = run_stage(tmp_path, given, guarded(pressure=["many thanks for being with us please tell us"]))
    assert json.loads((out / "release.json").read_bytes())["dropped"] == []  # a full stop stands between
    out = run_stage(tmp_path / "stricter", given, guarded(pressure=["please tell us what we can do better"]))
    about = json.loads((out / "release.json").read_bytes())
    coverage = next(verdict for verdict in about["verdicts"] if verdict["metric"] == "coverage")
    assert (coverage["value"], coverage["passed"], len(about["dropped"])) == (18 / 24, False, 24)
    stated = about["parts"]["rlhf"]
    assert (stated["standing"], stated["missed"][0]["verdict"]) == (
        "shadow_only",
        "messages coverage 0.75 (wanted >= 1)",
    )
    release = load(files_of(out))
    assert {entry.offer for entry in release.banks["sft"].entries} == {5, 10, 20}


def test_without_anything_to_drop_the_banks_are_the_messages_stage_s_own(
    tmp_path: Path, given: dict[str, Path]
) -> None:
    measured(given, "messages", coverage=0.25)  # what the stage found, whatever the bank holds
    about = json.loads((run_stage(tmp_path, given) / "release.json").read_bytes())
    assert [verdict["value"] for verdict in about["verdicts"] if verdict["metric"] == "coverage"] == [0.25]


@pytest.mark.parametrize(
    ("situation", "kind", "text", "says"),
    [
        ("price", "offer", "Take {offer} off for {months}. This is a long enough text, guaranteed.",
         "words.templates.price.offer: as a message with an offer of 5 % it guarantees something"),
        ("new", "no_offer", "Please never hesitate. It is a special offer for you and all of us.",
         "words.templates.new.no_offer: as a message with an offer of 0 % it "),
        ("price", "offer", "Take ten percent off for {months}; this text is long enough as it is.",
         "words.templates.price.offer: lacks the slot {offer}"),
        ("price", "offer", "Take {offer} off your monthly charge; this text is long enough as it is.",
         "words.templates.price.offer: lacks the slot {months}"),
        ("support", "offer", "Take {offer} off for {months}, {name}; this text is long enough.",
         "words.templates.support.offer: slot '{name}' is none of offer, months"),
        ("default", "no_offer", "Short.",
         "words.templates.default.no_offer: as a message with an offer of 0 % it is 6 characters long"),
    ],
)  # fmt: skip
def test_a_template_that_can_not_be_sent_is_refused_by_name(
    tmp_path: Path, given: dict[str, Path], situation: str, kind: str, text: str, says: str
) -> None:
    settings = config()
    changed = settings.templates[situation].model_copy(update={kind: text})
    settings.templates = settings.templates | {situation: changed}
    with pytest.raises(ConfigError) as error:
        run_stage(tmp_path, given, settings)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_situation_without_a_template_is_refused_by_name(
    tmp_path: Path, given: dict[str, Path], situation: str
) -> None:
    settings = config()
    settings.templates = {name: texts for name, texts in settings.templates.items() if name != situation}
    with pytest.raises(ConfigError, match=f"words.templates lacks the situation {situation}: "):
        run_stage(tmp_path, given, settings)


def test_a_template_of_no_situation_is_refused_by_name(tmp_path: Path, given: dict[str, Path]) -> None:
    settings = config()
    settings.templates = settings.templates | {"war": settings.templates["price"]}
    with pytest.raises(ConfigError, match=r"words\.templates\.war: is no situation; there are price, "):
        run_stage(tmp_path, given, settings)


def test_a_template_that_the_guard_alone_refuses_is_refused(tmp_path: Path, given: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"words\.templates\.price\.no_offer: .* it presses the customer"):
        run_stage(tmp_path, given, guarded(pressure=["your bill should"]))


def test_a_guard_that_is_damaged_in_a_release_is_named(tmp_path: Path, given: dict[str, Path]) -> None:
    out = run_stage(tmp_path, given)
    guard = json.loads((out / "guard.json").read_bytes())
    for change, says in (
        ({"promise": ["a <gft>"]}, r"guard\.json: rules\.words\.promise\.0: .*<gft>, which isn't there"),
        ({"promise": ["(free"]}, r"guard\.json: rules\.words\.promise\.0: is no regular expression"),
    ):
        damaged = guard | {"rules": guard["rules"] | {"words": guard["rules"]["words"] | change}}
        (out / "guard.json").write_bytes(canonical(damaged))
        with pytest.raises(ReleaseError, match=says):
            load(files_of(out))
    (out / "guard.json").unlink()
    with pytest.raises(
        ReleaseError,
        match=r"guard\.json: is missing; an older release .*a new run of its experiment makes a new release",
    ):
        load(files_of(out))


def test_what_is_plausible_is_told_from_the_training_part(tmp_path: Path, given: dict[str, Path]) -> None:
    path = given["customers"] / "data.parquet"
    first = json.loads((run_stage(tmp_path / "first", given) / "ranges.json").read_bytes())
    assert set(first["columns"]) == {"tenure", "MonthlyCharges", "TotalCharges"}
    content = pq.read_table(path).to_pydict()
    others = [charge if part == "train" else 1e6 for charge, part in zip(content["MonthlyCharges"], content["split"])]
    pq.write_table(pa.table({**content, "MonthlyCharges": others}), path)
    assert json.loads((run_stage(tmp_path / "second", given) / "ranges.json").read_bytes()) == first


def test_training_rows_that_are_not_plausible_are_warned_of(tmp_path: Path, given: dict[str, Path]) -> None:
    path = given["customers"] / "data.parquet"
    content = pq.read_table(path).to_pydict()
    content["TotalCharges"] = [months * charge for months, charge in zip(content["tenure"], content["MonthlyCharges"])]
    pq.write_table(pa.table(content), path)
    assert not (run_stage(tmp_path / "first", given) / WARNINGS).exists()
    train = [row for row, part in enumerate(content["split"]) if part == "train"]
    for row, charge in zip(train[1:], (8_085.0, 100_000.0)):
        content["MonthlyCharges"][row] = charge
        content["TotalCharges"][row] = content["tenure"][row] = 0
    content["tenure"][train[3]], content["MonthlyCharges"][train[3]], content["TotalCharges"][train[3]] = (
        1_200,
        10,
        12e3,
    )
    pq.write_table(pa.table(content), path)
    tenure, charge = json.loads((run_stage(tmp_path / "second", given) / WARNINGS).read_bytes())["warnings"][::-1]
    assert charge.startswith("MonthlyCharges isn't plausible in 2 of 300 training rows: the others make it ")
    assert "the largest: 100,000, 8,085. Requests like them are refused: correct the rows, or" in charge
    assert tenure.startswith("tenure isn't plausible in 1 of 300 training rows: ")
    assert tenure.endswith("the largest: 1,200. Requests like them are decided about and warned of")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "customers/data.parquet: is missing; run that stage again"),
        (b"PAR1", "customers: schema.json or data.parquet is damaged; run that stage again"),
    ],
)
def test_customers_that_can_not_be_read_are_one_line(
    tmp_path: Path, given: dict[str, Path], content: bytes | None, says: str
) -> None:
    path = given["customers"] / "data.parquet"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(DataError) as error:
        run_stage(tmp_path, given)
    assert str(error.value) == says


@pytest.mark.parametrize("name", ["schema.json", "data.parquet"])
def test_customers_that_may_not_be_read_are_not_called_damaged(
    tmp_path: Path, given: dict[str, Path], name: str
) -> None:
    (given["customers"] / name).chmod(0)
    message = message_without_privileges(lambda: run_stage(tmp_path, given))
    assert message.startswith(f"customers/{name}: can't be read (Permission denied)")
    assert "damaged" not in message


def test_a_release_without_ranges_is_an_older_one(tmp_path: Path, given: dict[str, Path]) -> None:
    out = run_stage(tmp_path, given)
    (out / "ranges.json").unlink()
    with pytest.raises(ReleaseError, match=r"ranges\.json: is missing; an older release .*makes a new release"):
        load(files_of(out))


def files_of(out: Path) -> dict[str, Path]:
    return {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
