"""Where a release comes from, and what is said when there is none."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from engine.artifact import MANIFEST
from engine.errors import RetainError
from serve.loading import load_release, warnings_about
from serve.router import Router
from serve.settings import read
from tests.engine.processes import message_without_privileges
from tests.releases import TERMS, bank, dataset, inputs, measured, part, policy, publish, run_stage, scores
from tests.words import GUARD, best_message


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(tmp_path / "empty"))


def test_a_release_is_found_by_its_path(artifact: Path, tmp_path: Path) -> None:
    settings = read({"RELEASE_PATH": str(artifact)})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.router == Router(force_baseline=True, percent=5.0, key="retain")
    version, release = load_release(settings)
    assert release.experiment == "toy"
    shutil.copytree(artifact, tmp_path / "copy")
    assert load_release(read({"RELEASE_PATH": str(tmp_path / "copy")}))[0] == version


def test_without_a_path_the_current_release_is_served(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(store))
    settings = read({"EXPERIMENT": "toy", "RETAIN_HOST": "0.0.0.0", "PORT": "0"})
    assert (settings.host, settings.port) == ("0.0.0.0", 0)
    assert load_release(settings)[1].experiment == "toy"


def test_the_experiment_may_be_named_by_the_path_of_its_file(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETAIN_STORE", str(store))
    for file in ("toy.yaml", "experiment_toy.yaml", "nothing.yaml"):
        (tmp_path / file).touch()
    assert load_release(read({"EXPERIMENT": str(tmp_path / "toy.yaml")}))[1].experiment == "toy"
    assert load_release(read({"EXPERIMENT": str(tmp_path / "experiment_toy.yaml")}))[1].experiment == "toy"
    with pytest.raises(RetainError, match=rf"run `make run EXPERIMENT={tmp_path}/nothing.yaml` first"):
        read({"EXPERIMENT": str(tmp_path / "nothing.yaml")})
    with pytest.raises(RetainError, match="wants the name of an experiment, such as local, or the path of its file"):
        read({"EXPERIMENT": str(tmp_path / "missing.yaml")})


def test_a_file_of_a_shipped_experiment_s_name_serves_no_other_one_s_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "local.yaml").touch()
    with pytest.raises(
        RetainError, match=r"local\.yaml: 'local' is the name of .*, too, .*Give the file .* another name"
    ):
        read({"EXPERIMENT": "~/local.yaml"})


def test_a_part_is_overridden_by_the_playbook_s_names(artifact: Path, store: Path, tmp_path: Path) -> None:
    part(tmp_path / "risk", dataset("telco"), seed=8)
    other = publish(tmp_path / "store", "risk", tmp_path / "risk")
    version, plain = load_release(read({"RELEASE_PATH": str(artifact)}))
    assert plain.replaced == ()
    accept = store / "toy" / "accept" / ("f" * 64)
    settings = read({"RELEASE_PATH": str(artifact), "RISK_MODEL_PATH": str(other), "ACCEPT_MODEL_PATH": str(accept)})
    changed, release = load_release(settings)
    assert changed == f"{version}+risk:{release.versions['risk']}+accept:{release.versions['accept']}"
    assert release.replaced == ("risk", "accept")
    assert release.versions["risk"] != plain.versions["risk"]
    assert release.versions["accept"] == plain.versions["accept"]


def test_an_idle_connection_is_kept_longer_than_balancers_keep_it(artifact: Path) -> None:
    assert read({"RELEASE_PATH": str(artifact)}).keep_alive == 620  # Google's balancers: 600 s
    assert read({"RELEASE_PATH": str(artifact), "RETAIN_KEEP_ALIVE": "75"}).keep_alive == 75
    for value in ("0", "-1", "5.5", "3601", "for ever", "\u0666"):
        with pytest.raises(RetainError, match=f"^RETAIN_KEEP_ALIVE={value}: wants a number of seconds from 1 to 3600$"):
            read({"RELEASE_PATH": str(artifact), "RETAIN_KEEP_ALIVE": value})


@pytest.mark.parametrize(
    ("environment", "router"),
    [
        ({"FORCE_BASELINE": ""}, Router(True, 5.0)),
        ({"FORCE_BASELINE": "True", "CANARY_PERCENT": "50"}, Router(True, 50.0)),
        ({"FORCE_BASELINE": "false"}, Router(False, 5.0)),
        ({"FORCE_BASELINE": "0", "CANARY_PERCENT": "100", "ASSIGNMENT_KEY": "s3cret"}, Router(False, 100.0, "s3cret")),
        ({"FORCE_BASELINE": "FALSE", "CANARY_PERCENT": "0.5"}, Router(False, 0.5)),
        ({"FORCE_BASELINE": "1", "CANARY_PERCENT": "0"}, Router(True, 0.0)),
    ],
)
def test_arms_are_set_by_the_playbook_s_names(environment: dict[str, str], router: Router, tmp_path: Path) -> None:
    assert read({"RELEASE_PATH": str(tmp_path), **environment}).router == router


@pytest.mark.parametrize(
    ("environment", "forced", "percent"),
    [
        ({}, False, None),
        ({"FORCE_BASELINE": "", "CANARY_PERCENT": ""}, False, None),
        ({"FORCE_BASELINE": "false", "CANARY_PERCENT": "5"}, False, 5.0),
        ({"FORCE_BASELINE": "true", "CANARY_PERCENT": "0"}, True, 0.0),
    ],
)
def test_a_rollout_is_limited_by_what_is_set_alone(
    artifact: Path, environment: dict[str, str], forced: bool, percent: float | None
) -> None:
    settings = read({"RELEASE_PATH": str(artifact), **environment})
    assert (settings.force_baseline, settings.canary_percent) == (forced, percent)


def test_a_policy_is_replaced_by_another_decision_artifact(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "decision").mkdir()
    (tmp_path / "decision" / "policy.json").write_bytes(policy(dataset("telco"), 99.0, 20).to_json())
    (tmp_path / "decision" / "terms.json").write_text(json.dumps(TERMS))
    other = publish(tmp_path / "store", "decision", tmp_path / "decision")
    version, plain = load_release(read({"RELEASE_PATH": str(artifact)}))
    changed, release = load_release(read({"RELEASE_PATH": str(artifact), "PPO_POLICY_PATH": str(other)}))
    assert changed == f"{version}+decision:{release.versions['policy']}"
    assert release.replaced == ("decision",)
    assert release.versions["policy"] != plain.versions["policy"]
    assert warnings_about(release) == ["decision is that of PPO_POLICY_PATH, not the release's own"]


def test_banks_of_messages_are_replaced_by_another_messages_artifact(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "messages"
    folder.mkdir()
    for source in ("sft", "rlhf"):
        (folder / f"{source}.json").write_text(json.dumps(bank(source, offers=(10,))))
    (folder / "scores.json").write_text(json.dumps(scores(*bank("sft"), sign=-1)))
    other = str(publish(tmp_path / "store", "messages", folder))
    version, plain = load_release(read({"RELEASE_PATH": str(artifact)}))
    both = {"RELEASE_PATH": str(artifact), "SFT_PATH": other, "RLHF_PATH": other}
    changed, release = load_release(read(both))
    assert changed == f"{version}+sft:{release.versions['sft']}+rlhf:{release.versions['rlhf']}"
    assert {name: len(found.entries) for name, found in release.banks.items()} == {
        "template": 24,
        "sft": 12,
        "rlhf": 12,
    }
    assert "rlhf is that of RLHF_PATH, not the release's own" in warnings_about(release)
    with_scores, ranked = load_release(read(both | {"RM_PATH": other}))
    assert with_scores == f"{changed}+scores:{ranked.versions['scores']}"
    best = [best_message(found.banks["sft"], "price", 10, 6, GUARD) for found in (plain, release, ranked)]
    assert [text.text.endswith("if you like.") for text in best if text] == [True, True, False]
    assert ranked.banks["template"].entries == plain.banks["template"].entries


def test_a_bank_of_another_artifact_loses_what_the_guard_refuses(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "messages"
    folder.mkdir()
    free = [entry | {"text": f"{entry['text']} It is free."} for entry in bank("sft", offers=(10,))[:2]]
    (folder / "sft.json").write_text(json.dumps([*free, *bank("sft", offers=(5,))]))
    other = publish(tmp_path / "store", "messages", folder)
    _, release = load_release(read({"RELEASE_PATH": str(artifact), "SFT_PATH": str(other)}))
    assert {entry.offer for entry in release.banks["sft"].entries} == {5}
    assert warnings_about(release) == [
        "sft is that of SFT_PATH, not the release's own",
        "2 messages of sft were dropped by the guard: promises something besides the offer",
    ]
    one = dataclasses.replace(release, dropped=release.dropped[1:], replaced=())
    assert warnings_about(one) == ["1 message of sft was dropped by the guard: promises something besides the offer"]


@pytest.mark.parametrize(
    ("setting", "stage", "part", "name"),
    [("PPO_POLICY_PATH", "decision", "decision", "policy"), ("SFT_PATH", "messages", "sft", "sft")],
)
def test_a_part_in_the_shadow_is_not_shown_for_being_named_in_the_environment(
    tmp_path: Path, setting: str, stage: str, part: str, name: str
) -> None:
    given = inputs(tmp_path / "inputs", dataset("telco"), dataset("bank"))
    measured(given, "decision", lift_gain=0.0)
    measured(given, "sft", training_loss=9.0)
    release = publish(tmp_path / "store", "release", run_stage(tmp_path, given))
    own = publish(tmp_path / "store", stage, given[stage])
    plain_version, plain = load_release(read({"RELEASE_PATH": str(release)}))
    version, held = load_release(read({"RELEASE_PATH": str(release), setting: str(own)}))
    assert (version, held.parts, held.replaced) == (plain_version, plain.parts, ())
    assert (held.standing(part), part in held.shown) == ("shadow_only", False)
    assert warnings_about(held) == [
        f"the {name} of {setting} is the one that is shadow_only in this release: no customer is shown it"
    ]
    # Another one is a trial of whoever chose it.
    path = given[stage] / f"{name}.json"
    if part == "sft":
        path.write_text(json.dumps(bank("sft", offers=(10,))))
    else:
        path.write_bytes(policy(dataset("telco"), eager=99.0, offer=20).to_json())
    other = publish(tmp_path / "store", stage, given[stage], "e" * 64)
    version, trial = load_release(read({"RELEASE_PATH": str(release), setting: str(other)}))
    assert version == f"{plain_version}+{part}:{trial.versions[name]}"
    assert (trial.standing(part), trial.replaced) == ("served", (part,))
    assert warnings_about(trial) == [f"{part} is that of {setting}, not the release's own"]


def test_a_policy_that_was_left_out_is_not_even_loaded_by_its_path(tmp_path: Path) -> None:
    given = inputs(tmp_path / "inputs", dataset("telco"), dataset("bank"))
    measured(given, "decision", over_cap=0.5)
    release = publish(tmp_path / "store", "release", run_stage(tmp_path, given))
    own = publish(tmp_path / "store", "decision", given["decision"])
    _, held = load_release(read({"RELEASE_PATH": str(release), "PPO_POLICY_PATH": str(own)}))
    assert (held.policy, held.standing("decision")) == (None, "left_out")
    assert warnings_about(held) == [
        "the policy of PPO_POLICY_PATH is the one that is left_out in this release: no customer is shown it"
    ]


def test_a_policy_that_can_not_be_served_is_one_line(artifact: Path, store: Path, tmp_path: Path) -> None:
    for number, (content, says) in enumerate(
        (
            (policy(dataset("bank")).to_json(), "policy.json: observes "),
            (json.dumps(json.loads(policy(dataset("telco")).to_json()) | {"price": "NaN"}).encode(), "a price of nan"),
            (b"", "decision/policy.json: wants observed"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "policy.json").write_bytes(content)
        (folder / "terms.json").write_text(json.dumps(TERMS))
        other = publish(tmp_path / f"store-{number}", "decision", folder)
        with pytest.raises(RetainError, match=f"^PPO_POLICY_PATH: .* can't be served: .*{says}") as error:
            load_release(read({"RELEASE_PATH": str(artifact), "PPO_POLICY_PATH": str(other)}))
        assert "\n" not in str(error.value)
    risk = store / "toy" / "risk" / ("f" * 64)
    with pytest.raises(RetainError, match=r"PPO_POLICY_PATH: .* decision/policy\.json: is missing"):
        load_release(read({"RELEASE_PATH": str(artifact), "PPO_POLICY_PATH": str(risk)}))


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"PORT": "http"}, "PORT=http: wants a number"),
        ({"PORT": "70000"}, "PORT=70000: wants a number"),
        ({"PORT": "-1"}, "PORT=-1: wants a number"),
        ({"EXPERIMENT": "../other"}, "EXPERIMENT='../other': wants the name"),
        ({"RELEASE_PATH": "no/such/folder"}, "RELEASE_PATH=no/such/folder: is no folder"),
        ({"RELEASE_PATH": "{here}", "RISK_MODEL_PATH": "nowhere"}, "RISK_MODEL_PATH=nowhere: is no folder"),
        ({"RELEASE_PATH": "{here}", "PPO_POLICY_PATH": "nowhere"}, "PPO_POLICY_PATH=nowhere: is no folder"),
        ({"RELEASE_PATH": "{here}", "RLHF_PATH": "nowhere"}, "RLHF_PATH=nowhere: is no folder"),
        ({"RELEASE_PATH": "{here}", "FORCE_BASELINE": "maybe"}, "FORCE_BASELINE=maybe: wants true or false"),
        ({"RELEASE_PATH": "{here}", "FORCE_BASELINE": "2"}, "FORCE_BASELINE=2: wants true or false"),
        ({"RELEASE_PATH": "{here}", "CANARY_PERCENT": "five"}, "CANARY_PERCENT=five: wants a number from 0 to 100"),
        ({"RELEASE_PATH": "{here}", "CANARY_PERCENT": "-1"}, "CANARY_PERCENT=-1: wants a number from 0 to 100"),
        ({"RELEASE_PATH": "{here}", "CANARY_PERCENT": "100.1"}, "CANARY_PERCENT=100.1: wants a number"),
        ({"RELEASE_PATH": "{here}", "CANARY_PERCENT": "nan"}, "CANARY_PERCENT=nan: wants a number"),
        ({"RELEASE_PATH": "{here}", "CANARY_PERCENT": "1e1"}, "CANARY_PERCENT=1e1: wants a number"),
        ({"RELEASE_PATH": "{here}", "ASSIGNMENT_KEY": "k" * 65}, "ASSIGNMENT_KEY: wants 1 to 64 bytes of text"),
        ({"RELEASE_PATH": "{here}", "ASSIGNMENT_KEY": "a\nb"}, "ASSIGNMENT_KEY: wants 1 to 64 bytes of text"),
        ({}, "experiment local has no release in"),
        ({"EXPERIMENT": "exp_001_mvp"}, "run `make run EXPERIMENT=exp_001_mvp` first"),
    ],
)
def test_a_setting_that_can_not_be_used_is_named(environment: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(RetainError) as error:
        read({name: value.format(here=tmp_path) for name, value in environment.items()})
    assert says in str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_what_can_be_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_STORE", "s3://retain/artifacts")
    with pytest.raises(RetainError, match=r"RETAIN_STORE=s3://retain/artifacts: is neither a folder nor gs://"):
        read({})


def test_a_damaged_pointer_is_named(tmp_path: Path) -> None:
    pointer = tmp_path / "empty" / "local" / "current.json"
    pointer.parent.mkdir(parents=True)
    for content in ("{", "[]"):
        pointer.write_text(content)
        with pytest.raises(
            RetainError, match=r"current\.json: not a list of what completed last; remove it and run again"
        ):
            read({})


def test_a_release_with_a_changed_byte_is_refused(artifact: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact, copy)
    victim = max((copy / "files").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    with pytest.raises(RetainError, match="is missing or damaged"):
        load_release(read({"RELEASE_PATH": str(copy)}))


@pytest.mark.parametrize("place", ["files", MANIFEST, "", ".."])
def test_a_release_that_may_not_be_read_is_not_called_damaged(artifact: Path, tmp_path: Path, place: str) -> None:
    copy = tmp_path / "store" / "copy"
    shutil.copytree(artifact, copy)
    path = copy / place
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        message = message_without_privileges(lambda: load_release(read({"RELEASE_PATH": str(copy)})))
        assert message.startswith("RELEASE_PATH")
        assert "can't be read (Permission denied)" in message
        assert not re.search(r"damaged|remove|\n", message)
    finally:
        path.chmod(mode)


def test_a_home_is_expanded_in_every_path(
    artifact: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(store.parent))
    name = "~/" + str(artifact.relative_to(store.parent))
    settings = read({"RELEASE_PATH": name, "SFT_PATH": name})
    assert (settings.release, settings.parts["sft"]) == (artifact.resolve(), artifact.resolve())
    monkeypatch.setenv("RETAIN_STORE", f"~/{store.name}")
    assert read({"EXPERIMENT": "toy"}).release == artifact


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (os.fsdecode(b"/tmp/\xff"), r"RELEASE_PATH=/tmp/\\xff: isn't UTF-8; give that folder another name"),
        ("~nobody-of-this-name/x", "RELEASE_PATH=~nobody-of-this-name/x: this machine knows no such home"),
    ],
)
def test_a_path_that_can_not_be_used_is_one_line(value: str, says: str) -> None:
    with pytest.raises(RetainError, match=says) as error:
        read({"RELEASE_PATH": value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("RISK_MODEL_PATH", "risk"),
        ("ACCEPT_MODEL_PATH", "accept"),
        ("SFT_PATH", "messages"),
        ("RM_PATH", "messages"),
    ],
)
def test_a_damaged_part_names_its_setting(artifact: Path, store: Path, tmp_path: Path, setting: str, part: str) -> None:
    copy = tmp_path / part
    shutil.copytree(store / "toy" / part / ("f" * 64), copy)
    max((copy / "files").iterdir(), key=lambda path: path.stat().st_size).unlink()
    with pytest.raises(RetainError, match=rf"^{setting}: .* is missing or damaged") as error:
        load_release(read({"RELEASE_PATH": str(artifact), setting: str(copy)}))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_release_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(RetainError, match=r"holds no manifest\.json"):
        load_release(read({"RELEASE_PATH": str(tmp_path)}))
    accept = store / "toy" / "accept" / ("f" * 64)
    with pytest.raises(RetainError, match=r"RELEASE_PATH: .* can't be served: release\.json: is missing"):
        load_release(read({"RELEASE_PATH": str(accept)}))


def test_a_part_of_another_stage_is_refused(store: Path, artifact: Path) -> None:
    accept = store / "toy" / "accept" / ("f" * 64)
    with pytest.raises(RetainError, match=r"RISK_MODEL_PATH: .* can't be served: risk/featurizer\.json: its column"):
        load_release(read({"RELEASE_PATH": str(artifact), "RISK_MODEL_PATH": str(accept)}))
