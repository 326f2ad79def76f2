"""docs/WORDS.md is true where it counts: its figures of rules, cases and cues are computed here as they are there."""

from __future__ import annotations

import re

import pytest

from flows.plan import load_experiment
from tests.docs.documents import lacks, paragraphs, read, row, section
from tests.retain.message_cases import CASES
from tests.retain.test_message_cases import COUNTS, figures
from tests.tasks.rlhf.judging.test_rule_judge import cues
from tests.words import RULE_JUDGE, unsafe

TEXT = read("docs/WORDS.md")


def in_hundredths(share: float) -> str:
    return f"{share:.2f}".removeprefix("0")


@pytest.mark.parametrize("part", COUNTS)
def test_the_table_of_the_rules_is_what_they_reach(part: str) -> None:
    cells = [cell.strip(" *") for cell in row(TEXT, f"`{part}`").split("|")]
    counts = [str(COUNTS[part][wrong]) for wrong in (True, False)]
    reached = figures([case for case in CASES if case.part == part])
    assert cells == counts + [in_hundredths(share) for share in reached]


def test_how_many_messages_are_labelled() -> None:
    assert lacks(paragraphs(TEXT, "`tests/retain/message_cases"), len(CASES)) == set()


def test_what_the_rule_judge_finds_of_messages_no_word_was_added_for() -> None:
    held_out = [case for case in CASES if case.part == "held_out"]
    found = [bool(RULE_JUDGE.harms("", case.text, case.offer, "default", case.months or 6)) for case in held_out]
    both = sum(harm for case, harm in zip(held_out, found) if case.unsafe)
    recall, precision = both / sum(case.unsafe for case in held_out), both / sum(found)
    said = paragraphs(TEXT, "rule judge", "`held_out`")
    assert lacks(said, len(held_out), round(100 * recall), round(100 * precision)) == set()


def test_what_rules_and_rule_judge_share() -> None:
    several = [cue for cue in cues() if " " in cue]
    refused = [cue for cue in several if unsafe(cue.replace("*", ""), 20, 6)]
    assert lacks(paragraphs(TEXT, "cues", "generator"), len(several), len(refused)) == set()


def test_what_ppo_is_paid_is_the_locked_experiment_s() -> None:
    ppo = load_experiment("exp_001_mvp").stages.ppo_text
    rewards = ppo.rewards
    said = section(TEXT, "What PPO is paid")
    (formula,) = re.findall(r"reward = [^;]*", said)
    assert lacks(formula, rewards.rm, rewards.clip, rewards.safety, rewards.brevity, rewards.ending) == set()
    assert lacks(said, ppo.kl.target) == set()
