"""docs/WORDS.md is true where it counts: its figures of rules, cases and cues are computed here as they are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows.plan import load_experiment
from retain.rules import unsafe
from tasks.rlhf.judging import rule_judge
from tests.docs.test_decision import check_names
from tests.retain.message_cases import CASES
from tests.retain.test_message_cases import COUNTS, figures
from tests.tasks.rlhf.judging.test_rule_judge import cues

PROJECT = Path(__file__).resolve().parents[2]
RAW = (PROJECT / "docs" / "WORDS.md").read_text()
TEXT = " ".join(RAW.split())


def in_hundredths(share: float) -> str:
    return f"{share:.2f}".removeprefix("0")


@pytest.mark.parametrize("part", COUNTS)
def test_the_table_of_the_rules_is_what_they_reach(part: str) -> None:
    (line,) = (line for line in RAW.splitlines() if re.match(rf"\| (\*\*)?`{part}`", line))
    cells = [cell.strip(" *") for cell in line.split("|")[2:-1]]
    counts = [str(COUNTS[part][wrong]) for wrong in (True, False)]
    assert cells == counts + [in_hundredths(one) for one in figures([case for case in CASES if case.part == part])]


def test_how_many_messages_are_labelled() -> None:
    assert f"`tests/retain/message_cases.py` holds {len(CASES)} labelled messages" in TEXT


def test_what_the_rule_judge_finds_of_messages_no_word_was_added_for() -> None:
    held_out = [case for case in CASES if case.part == "held_out"]
    found = [bool(rule_judge.harms("", one.text, one.offer, "default", one.months or 6)) for one in held_out]
    both = sum(harm for case, harm in zip(held_out, found) if case.unsafe)
    recall, precision = both / sum(case.unsafe for case in held_out), both / sum(found)
    said = f"on the {len(held_out)} messages of `held_out`"
    assert said in TEXT
    assert f"it finds {100 * recall:.0f} % of the unsafe ones, and {100 * precision:.0f} % of what it finds" in TEXT


def test_what_rules_and_rule_judge_share() -> None:
    several = [cue for cue in cues() if " " in cue]
    refused = [cue for cue in several if unsafe(cue.replace("*", ""), 20, 6)]
    assert f"of its {len(several)} cues of two words or more none stands in the generator" in TEXT
    assert f"{len(refused)} of the {len(several)} are refused by the service's rules as well" in TEXT


def test_what_ppo_is_paid_is_the_locked_experiment_s() -> None:
    ppo = load_experiment("exp_001_mvp").stages.ppo_text
    rewards = ppo.rewards
    assert (
        f"reward = {rewards.rm} x RM score (standardised by the reference's own, within +-{rewards.clip:g}) "
        f"- {rewards.safety} if unsafe + {rewards.brevity} x (1 - tokens / limit) - {rewards.ending} if the reply"
    ) in TEXT
    assert f"when a token's mean KL is above {ppo.kl.target:g} nats" in TEXT


def test_what_it_names_exists() -> None:
    check_names(TEXT)
