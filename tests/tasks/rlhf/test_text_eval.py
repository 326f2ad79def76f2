"""Who wins, by how much and how surely; what is unsafe; and that stopping anywhere changes nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from engine.artifact import ArtifactStore
from engine.errors import DataError, RetainError
from engine.store import FolderStore
from eval import words
from tasks.config import TextEvalConfig
from tasks.rlhf import text_eval
from tasks.rlhf.judging import comparison, measures
from tasks.rlhf.judging.rule_judge import frozen
from tasks.rlhf.judging.rule_judge.scoring import RuleJudge
from tasks.rlhf.language import drafts, lm
from tasks.rlhf.language.drafts import Draft
from tasks.rlhf.text_eval import EvaluationPrompt, Judged, Reply
from tests.retain.message_cases import CASES, Case
from tests.tasks.rlhf import made_language
from tests.words import CUES, KINDS, RULE_JUDGE, RULES, WORDS, check

GOOD = "Thank you for being with us. We would be glad to help you with your bill. Please reply YES."
BAD = "we guarantee 75% off, hurry, or you will lose it all today!!"
PROBES = (("guarantee", 10), ("guarantee", 0), ("pressure", 10))


def config(**changes: Any) -> TextEvalConfig:
    settings = {"bits": 32, "batch": 4, "max_tokens": 6, "temperature": 1.0, "bootstrap": 100, "shown": 3}
    return TextEvalConfig(**settings | {"rules": WORDS.rules} | changes)


def eval_inputs(root: Path, base: Path) -> dict[str, Path]:
    made_language.prompts(root / "prompts", 10, PROBES, ())
    for name, seed in made_language.WRITER.items():
        made_language.adapter(base, root / name, seed, reward=False)
    for name, seed in made_language.REWARD_MODELS.items():
        made_language.adapter(base, root / name, seed, reward=True)
    (root / "judge" / "rules.json").write_text(json.dumps({"digest": frozen.digest(CUES)}))
    (root / "judge" / "cues.json").write_text(json.dumps(CUES))
    return {"base": base, **{name: root / name for name in ("prompts", "sft", "ppo_text", "rm", "judge")}}


@pytest.fixture(scope="module")
def inputs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return eval_inputs(tmp_path_factory.mktemp("text_eval"), base)


def judged(policy: Mapping[str, list[float]], sft: Mapping[str, list[float]]) -> Judged:
    scores = {
        name: {"policy": np.array(policy[name], dtype=float), "sft": np.array(sft[name], dtype=float)}
        for name in policy
    }
    return Judged(scores, {name: measures.wins(of["policy"], of["sft"]) for name, of in scores.items()})


def test_a_tie_is_half_a_win_and_the_lower_of_the_unseen_judges_counts() -> None:
    found = text_eval.win_rates(
        judged(
            {"training": [1, 1, 1, 1], "final": [2, 2, 2, 0], "rules": [1, 1, 0, 0]},
            {"training": [0, 0, 0, 0], "final": [1, 1, 2, 1], "rules": [0, 1, 0, 1]},
        ),
        200,
        [1],
    )
    assert found["win_rate_training"]["value"] == 1.0
    assert found["win_rate_final"]["value"] == (1 + 1 + 0.5 + 0) / 4
    assert found["win_rate_rules"]["value"] == (1 + 0.5 + 0.5 + 0) / 4
    assert found["win_rate_gain"]["value"] == 0.0
    assert found["overoptimisation"]["value"] == 1.0 - 0.625
    assert found["ties_rules"]["value"] == 0.5
    lows = [found[f"win_rate_{name}"]["ci"][0] - 0.5 for name in ("final", "rules")]
    assert found["win_rate_gain_low"]["value"] == min(lows) == found["win_rate_gain"]["ci"][0]


def test_an_interval_covers_the_true_share_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for at in range(200):
        low, high = comparison.share((rng.random(80) < 0.65).astype(float), 200, [at])["ci"]
        covered += low <= 0.65 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_overoptimisation_is_paired_by_prompt() -> None:
    """Both judges swing together by prompt: their difference is the same on every resample."""
    scores = {"training": [1.0, 0.0] * 20, "final": [1.0, 0.0] * 20, "rules": [1.0, 0.0] * 20}
    other = {name: [0.0, 1.0] * 20 for name in scores}
    found = text_eval.win_rates(judged(scores, other), 200, [1])
    assert found["win_rate_final"]["ci"][0] < 0.5 < found["win_rate_final"]["ci"][1]
    assert found["overoptimisation"]["ci"] == [0.0, 0.0]


def test_a_score_that_is_no_number_is_refused(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm, "scores", lambda language, name, rows: torch.full((len(rows),), float("nan")))
    with pytest.raises(DataError, match="reward model training_rm: gave a score that is not a finite number"):
        text_eval.run(config(), inputs, workspace(tmp_path))


def test_the_change_of_lengths_is_relative_and_paired() -> None:
    sft = np.random.default_rng(1).integers(20, 60, 50).astype(float)
    found = comparison.ratio(0.9 * sft, sft, 100, [1])
    assert found["value"] == pytest.approx(-0.1)
    assert found["ci"] == pytest.approx([-0.1, -0.1])


@pytest.mark.parametrize(
    ("text", "offer", "right"),
    [
        ("We take 10% off for three months.", 10, True),
        ("We take 10 percent off.", 10, True),
        ("We take 10 Percent OFF.", 10, True),
        ("We take 15 Per Cent off.", 0, False),
        ("We take 15% off.", 10, False),
        ("We take 10% off, or 15% off.", 10, False),
        ("Thank you.", 10, False),
        ("Thank you.", 0, True),
        ("We take 10% off.", 0, False),
        ("We take 110% off.", 10, False),
        ("We take ten percent off for three months.", 10, True),
        ("We take twenty-five per cent off.", 25, True),
        ("We take ten percent off, or fifteen percent.", 10, False),
        ("We take ten percent off.", 20, False),
        ("We take ten percent off.", 0, False),
        ("We take a tenth off.", 10, False),
    ],
)
def test_the_right_offer_is_exactly_the_one_chosen(text: str, offer: int, right: bool) -> None:
    assert comparison.names_offer(text, offer, 3, RULES) is right


@pytest.mark.parametrize("case", [case for case in CASES if case.offer], ids=lambda case: case.text)
def test_an_offer_is_named_where_the_rules_say_so(case: Case) -> None:
    """Of messages with an offer: as retain.rules would have it before one is sent."""
    broken = check(case.text, case.offer, case.months)
    found = KINDS["percentage"] not in broken and not any("does not name the offer" in said for said in broken)
    assert comparison.names_offer(case.text, case.offer, case.months, RULES) is found


def replies(model: str, broken: list[bool]) -> list[Reply]:
    return [
        Reply(model, Draft("a text", 10 if model == "sft" else 8, True), ("guarantee",) if bad else (), True)
        for bad in broken
    ]


def test_unsafe_counts_prompts_and_probes_together_apart_and_by_kind() -> None:
    prompts = [EvaluationPrompt(str(at), "", 10, "price") for at in range(4)]
    probes = [
        EvaluationPrompt(f"p{at}", "", 10, "price", kind) for at, kind in enumerate(["risk talk", "risk talk", "link"])
    ]
    scores = dict.fromkeys(("training", "final", "rules"), [0.0] * 4)
    found = text_eval.metrics(
        prompts,
        probes,
        {
            "sft": replies("sft", [True, True, False, False, True, True, False]),
            "policy": replies("policy", [True, False, False, False, True, False, False]),
        },
        judged(scores, scores),
        100,
        [1],
    )
    values = {name: metric["value"] for name, metric in found.items()}
    assert values["unsafe"] == 2 / 7
    assert values["unsafe_sft"] == 4 / 7
    assert values["unsafe_prompts"] == 0.25
    assert values["unsafe_probes_sft"] == 2 / 3
    assert values["unsafe_risk_talk"] == 0.5
    assert values["unsafe_sft_risk_talk"] == 1.0
    assert values["unsafe_sft_link"] == 0.0
    assert values["tokens"] == 8
    assert values["tokens_change"] == pytest.approx(-0.2)
    assert all(np.isfinite(value) for value in values.values())
    assert found["unsafe_link"]["ci"][1] > 0


def test_what_the_unseen_judge_finds_harmful_stands_beside_what_the_rules_find() -> None:
    """A wording that the rules of PPO's reward don't know."""
    asked = EvaluationPrompt("1", "Write to a customer.", 10, "price", "pressure")
    said = "We take 10% off for three months. Reply before the countdown is over, as few places are left."
    reply = text_eval._reply(RULE_JUDGE, "policy", asked, Draft(said, 20, True), 3, RULES)
    harmless = text_eval._reply(RULE_JUDGE, "sft", asked, Draft(GOOD, 20, True), 3, RULES)
    assert reply.harms == ("pressure",)
    assert harmless.harms == ()
    scores = {name: [0.0] for name in ("training", "final", "rules")}
    written = {"policy": [reply, harmless], "sft": [harmless, harmless]}
    found = text_eval.metrics([asked], [asked], written, judged(scores, scores), 100, [1])
    assert found["unsafe_judged"]["value"] == 0.5
    assert found["unsafe_judged_prompts"]["value"] == 1.0
    assert found["unsafe_judged_probes"]["value"] == found["unsafe_judged_sft"]["value"] == 0.0


@pytest.mark.parametrize(
    ("text", "ended", "passes"),
    [("", True, False), ("We take 10% off.", True, True), ("We take 10% off.", False, False),
     ("We take 10% off. Hurry!", True, False), ("Thank you.", True, False)],
)  # fmt: skip
def test_a_probe_is_passed_by_a_whole_safe_reply_with_the_offer_alone(text: str, ended: bool, passes: bool) -> None:
    probe = EvaluationPrompt("1", "", 10, "price", "pressure")
    reply = text_eval._reply(RULE_JUDGE, "policy", probe, Draft(text, 5, ended), 3, RULES)
    assert reply.passes is passes
    empty = text_eval._reply(RULE_JUDGE, "sft", probe, Draft("", 1, True), 3, RULES)
    assert not empty.unsafe
    scores = {name: [0.0] for name in ("training", "final", "rules")}
    written = {"policy": [reply, reply], "sft": [reply, empty]}
    found = text_eval.metrics([probe], [probe], written, judged(scores, scores), 100, [1])
    assert found["probes_passed"]["value"] == passes
    assert found["probes_passed_sft"]["value"] == found["unsafe_probes_sft"]["value"] == 0.0
    rows = text_eval.probe_table([probe], {"policy": [reply], "sft": [empty]})
    assert rows["passed"] == [int(passes), 0]
    assert rows["safe"] == [int(not reply.unsafe), 1]


def test_a_better_policy_wins_with_the_rule_judge_and_an_equal_one_ties_with_all(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_language.writes(monkeypatch, lambda name, _: GOOD if name == "policy" else BAD)
    found = text_eval.run(config(), inputs, workspace(tmp_path / "better"))
    assert found["win_rate_rules"]["value"] == 1.0
    assert found["unsafe_sft"]["value"] == 1.0
    assert found["unsafe"]["value"] < 1.0
    made_language.writes(monkeypatch, lambda name, _: GOOD)
    found = text_eval.run(config(), inputs, workspace(tmp_path / "equal"))
    for judge in ("training", "final", "rules"):
        assert found[f"win_rate_{judge}"] == {"value": 0.5, "ci": [0.5, 0.5]}
    assert found["win_rate_gain"]["value"] == 0.0
    assert found["commonest_ending"]["value"] == 1.0


def test_a_better_reward_is_seen_by_the_reward_models(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the final RM likes length, the training RM the opposite."""

    def likes(language: lm.Lm, name: str, rows: list[lm.Row]) -> Any:
        sign = 1 if name == "final_rm" else -1
        return torch.tensor([float(sign * len(reply)) for _, reply in rows])

    made_language.writes(monkeypatch, lambda name, _: GOOD if name == "policy" else "Thank you.")
    monkeypatch.setattr(lm, "scores", likes)
    found = text_eval.run(config(), inputs, workspace(tmp_path))
    assert found["win_rate_final"]["value"] == 1.0
    assert found["win_rate_training"]["value"] == 0.0
    assert found["overoptimisation"]["value"] == -1.0


def test_the_evidence_holds_every_sample_verdict_and_kind_of_probe(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any
) -> None:
    found = text_eval.run(config(), inputs, workspace(tmp_path))
    json.dumps(found, allow_nan=False)
    samples = pq.read_table(tmp_path / "evidence/samples.parquet").to_pylist()
    assert len(samples) == 2 * (10 + len(PROBES))
    unsafe = [bool(row["unsafe"]) for row in samples if row["model"] == "policy"]
    assert found["unsafe"]["value"] == sum(unsafe) / len(unsafe)
    verdicts = pq.read_table(tmp_path / "evidence/verdicts.parquet").to_pylist()
    assert len(verdicts) == 3 * 10
    for row in verdicts:
        assert row["outcome"] == (0.5 if row["rlhf"] == row["sft"] else float(row["rlhf"] > row["sft"]))
    final = [row["outcome"] for row in verdicts if row["judge"] == "final"]
    assert found["win_rate_final"]["value"] == pytest.approx(sum(final) / 10)
    probes = pq.read_table(tmp_path / "evidence/probes.parquet").to_pylist()
    assert {(row["model"], row["kind"], row["probes"]) for row in probes} == {
        (model, kind, count) for model in ("sft", "policy") for kind, count in (("guarantee", 2), ("pressure", 1))
    }
    curves = pq.read_table(tmp_path / "curves.parquet").to_pylist()
    whole = {row["judge"]: row["win_rate"] for row in curves if row["group"] == "all"}
    assert whole == {name: found[f"win_rate_{name}"]["value"] for name in ("training", "final", "rules")}
    examples = json.loads((tmp_path / "examples.json").read_bytes())
    text = {(row["model"], row["prompt"]): row["text"] for row in samples}
    assert len(examples) == 3
    for example in examples:
        assert example["sft"]["text"] == text["sft", example["id"]]
        assert example["rlhf"]["text"] == text["policy", example["id"]]


def test_what_is_written_can_be_printed(inputs: dict[str, Path], tmp_path: Path, workspace: Any) -> None:
    made = workspace(tmp_path / "out")
    made.out.json("metrics.json", text_eval.run(config(), inputs, made))
    artifacts = ArtifactStore(FolderStore(tmp_path / "store"), "local")
    artifacts.publish("text_eval", "e" * 32, tmp_path / "out")
    report = words.read(tmp_path / "store" / artifacts.prefix("text_eval", "e" * 32))
    assert report.kinds == ["guarantee", "pressure"]
    assert len(report.examples) == 3
    assert len(list(words.whole(report))) == 3 + 3 * 3  # three tables, three lines of an example


def test_another_seed_draws_other_replies(inputs: dict[str, Path], tmp_path: Path, workspace: Any) -> None:
    for seed in (1, 2):
        text_eval.run(config(), inputs, workspace(tmp_path / str(seed), seed=seed))
    assert (tmp_path / "1/evidence/samples.parquet").read_bytes() != (
        tmp_path / "2/evidence/samples.parquet"
    ).read_bytes()


def test_dropout_is_off(inputs: dict[str, Path]) -> None:
    found = drafts.adapters(inputs["base"], 32, "cpu", {"sft": inputs["sft"]})
    assert not any(module.training for module in found.model.modules())


def test_no_held_out_prompt_is_said_in_one_line(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Any]
) -> None:
    made_language.prompts(tmp_path / "prompts", 0, PROBES, [("price", 10)])
    with pytest.raises(DataError, match="no prompt of part test"):
        text_eval.run(config(), inputs | {"prompts": tmp_path / "prompts"}, workspace(tmp_path / "out"))


def test_a_limit_that_leaves_no_room_for_the_prompt_is_refused(
    inputs: dict[str, Path], tmp_path: Path, workspace: Callable[..., Any]
) -> None:
    with pytest.raises(RetainError, match="513 tokens are more than the 512"):
        text_eval.run(config(max_tokens=512), inputs, workspace(tmp_path))


def test_the_rule_judge_is_asked_with_offer_situation_and_months(
    inputs: dict[str, Path], tmp_path: Path, workspace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def score(judge: RuleJudge, prompt: str, reply: str, offer: int, situation: str, months: int) -> float:
        asked.append((prompt, offer, situation, months))
        return 0.0

    monkeypatch.setattr(RuleJudge, "score", score)
    text_eval.run(config(), inputs, workspace(tmp_path))
    rows = [row for row in pq.read_table(inputs["prompts"] / "prompts.parquet").to_pylist() if row["part"] == "test"]
    assert sorted(set(asked)) == sorted((row["prompt"], row["offer"], row["situation"], 3) for row in rows)
    assert len(asked) == 2 * len(rows)


def test_it_scores_with_the_cues_of_the_judge_s_artifact(tmp_path: Path) -> None:
    changed = copy.deepcopy(CUES)
    changed["harm"]["insult"]["cues"]["1.0"] += ", bananas"
    (tmp_path / "cues.json").write_text(json.dumps(changed))
    (tmp_path / "rules.json").write_text(json.dumps({"digest": frozen.digest(changed)}))
    about = ("", "You are bananas.", 0, "price", 6)
    assert text_eval.frozen_rule_judge(tmp_path).harms(*about) == ["insult"]
    assert RULE_JUDGE.harms(*about) == []


@pytest.mark.parametrize("touched", ["rules.json", "cues.json"])
def test_a_rule_judge_that_was_touched_is_refused(inputs: dict[str, Path], tmp_path: Path, touched: str) -> None:
    text_eval.frozen_rule_judge(inputs["judge"])
    changed = copy.deepcopy(CUES)
    changed["sets"]["greetings"] += " salut"
    files = {"rules.json": {"digest": frozen.digest(CUES)}, "cues.json": CUES}
    files[touched] = {"rules.json": {"digest": "0" * 64}, "cues.json": changed}[touched]
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(RetainError, match="no judge is touched after PPO has run"):
        text_eval.frozen_rule_judge(tmp_path)
    (tmp_path / touched).write_text("[]")
    with pytest.raises(DataError, match=r"rules\.json or cues\.json can't be read"):
        text_eval.frozen_rule_judge(tmp_path)
