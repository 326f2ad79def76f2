"""Chosen and rejected replies from transcripts, ready pairs and votes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import DataError
from engine.stage import Workspace
from flows.wanted import Wanted
from tasks.config import PreferencesConfig
from tasks.data import corpus, preferences
from tests.datasets import needs_real_data, real_file
from tests.tasks.data.texts import Made, make, text_config, write

Workspaces = Callable[..., Workspace]


def others(n: int = 60) -> list[dict[str, str]]:
    """Enough for every part."""
    return [{"source": "o", "prompt": f"other {k}", "chosen": f"good {k}", "rejected": f"bad {k}"} for k in range(n)]


def voted(**changes: Any) -> dict[str, Any]:
    """As in SHP-2."""
    return {
        "post_id": "p",
        "domain": "legaladvice_train",
        "history": "May I?",
        "human_ref_A": "Yes.",
        "human_ref_B": "Ask.",
        "labels": 1,
        "score_A": 9,
        "score_B": 3,
        "score_ratio": 3.0,
        **changes,
    }


@pytest.fixture
def made(tmp_path: Path, workspace: Workspaces) -> Callable[..., Made]:
    def run(records: list[Any], dataset: str = "HH-RLHF", **changes: Any) -> Made:
        inputs = write(tmp_path / "source", [*records, *others()])
        return make(
            preferences.run, text_config(PreferencesConfig, dataset, **changes), inputs, workspace(tmp_path / "out")
        )

    return run


def found(made: Made) -> list[tuple[str, str, str, str]]:
    rows = [row for row in made.rows if row["source"] != "o"]
    return sorted((row["source"], row["prompt"], row["chosen"], row["rejected"]) for row in rows)


def test_transcripts_are_cut_at_their_last_reply(made: Callable[..., Made]) -> None:
    begin = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: How are you?\n\nAssistant:"
    got = made([{"chosen": f"{begin} Fine, thanks.", "rejected": f"{begin} Go away."}])
    prompt = "Hi.\n\nAssistant: Hello.\n\nHuman: How are you?"
    assert found(got) == [("hh-rlhf/HH-RLHF", prompt, "Fine, thanks.", "Go away.")]


def test_transcripts_that_part_earlier_are_left_out(made: Callable[..., Made]) -> None:
    records = [
        {
            "chosen": "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: And?\n\nAssistant: So.",
            "rejected": "\n\nHuman: Hi.\n\nAssistant: What?\n\nHuman: And?\n\nAssistant: So what.",
        },
        {"chosen": "\n\nHuman: Hi.\n\nAssistant: A", "rejected": "\n\nHuman: Ho.\n\nAssistant: B"},
        {"chosen": "\n\nHuman: Hi.\n\nAssistant: A", "rejected": "\n\nHuman: Hi.\n\nAssistant: A "},
        {"chosen": "\n\nHuman: Hi.\n\nAssistant:", "rejected": "\n\nHuman: Hi.\n\nAssistant: B"},
    ]
    got = made(records)
    assert found(got) == []
    assert got.dropped == {"without_common_prompt": 2, "no_preference": 1, "empty": 1}


def test_transcripts_that_end_with_the_human_are_left_out(made: Callable[..., Made]) -> None:
    begin = "\n\nHuman: Hi.\n\nAssistant:"
    asked = f"{begin} Hello.\n\nHuman: Thanks, bye."
    records = [
        {"chosen": asked, "rejected": f"{begin} Go away."},
        {"chosen": f"{begin} Hello.", "rejected": asked},
        {"prompt": "Hi", "chosen": "Hello.\n\nHuman: And?", "rejected": "No."},
    ]
    got = made(records)
    assert found(got) == []
    assert got.dropped == {"ends_with_the_human": 3}


def test_a_source_is_plain_short_and_only_the_largest_are_counted_apart(made: Callable[..., Made]) -> None:
    def record(source: str, k: int) -> dict[str, str]:
        return {"source": source, "prompt": f"p{k}", "chosen": "a", "rejected": "b"}

    many = [record(f"source {k}", k) for k in range(60)]
    got = made([record("half \ud800 a\npair" + "x" * 90, 900), *many])
    assert "half a pair" + "x" * 29 in {row["source"] for row in got.rows}
    named = [name for name in got.metrics if name.startswith("pairs_of_")]
    assert len(named) == 21
    assert sum(got.metrics[name] for name in named) == len(got.rows)
    assert got.metrics["pairs_of_o"] == 60
    assert got.metrics["pairs_of_other_sources"] == 61 - 19


def test_ready_pairs_lose_the_marks_of_the_prompt(made: Callable[..., Made]) -> None:
    prompt = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: And?\n\nAssistant:"
    got = made([{"source": "hh/base", "prompt": prompt, "chosen": "So.", "rejected": "What?"}])
    assert found(got) == [("hh/base", "Hi.\n\nAssistant: Hello.\n\nHuman: And?", "So.", "What?")]


def test_votes_tell_which_reply_was_chosen(made: Callable[..., Made]) -> None:
    got = made([voted(), voted(post_id="q", history="And I?", labels=0)], "SHP-2")
    assert found(got) == [
        ("SHP-2/legaladvice", "And I?", "Ask.", "Yes."),
        ("SHP-2/legaladvice", "May I?", "Yes.", "Ask."),
    ]
    assert got.metrics["pairs_of_shp_2_legaladvice"] == 2


def test_close_votes_and_many_pairs_of_a_post_are_left_out(made: Callable[..., Made]) -> None:
    many = [voted(human_ref_B=f"Ask {k}.") for k in range(8)]
    got = made([*many, voted(post_id="close", score_ratio=1.9)], "SHP-2")
    assert len(found(got)) == 5
    assert got.dropped == {"over_pairs_a_post": 3, "votes_too_close": 1}


def test_how_close_and_how_many_is_the_experiments_to_say(made: Callable[..., Made]) -> None:
    many = [voted(human_ref_B=f"Ask {k}.") for k in range(8)]
    got = made([*many, voted(post_id="close", score_ratio=1.9)], "SHP-2", min_vote_ratio=1.5, max_pairs_a_post=6)
    assert len(found(got)) == 7
    assert got.dropped == {"over_pairs_a_post": 2}


def test_only_what_is_taken_counts_against_the_limit_of_a_post(made: Callable[..., Made]) -> None:
    useless = [
        *(voted(human_ref_B="") for _ in range(5)),
        *(voted(human_ref_B="x" * 1000) for _ in range(5)),
        *(voted(human_ref_B="Ask 0.") for _ in range(5)),
    ]
    got = made([*useless, *(voted(human_ref_B=f"Ask {k}.") for k in range(8))], "SHP-2")
    assert len(found(got)) == 5
    assert got.dropped == {"empty": 5, "over_long": 5, "duplicate": 5, "over_pairs_a_post": 3}


@pytest.mark.parametrize(
    "record",
    [
        voted(labels="A"),
        voted(score_ratio=None),
        voted(score_ratio=float("nan")),
        voted(score_ratio=10**400),
        voted(history=None),
        {"chosen": "a", "rejected": "b"},
        {"text": "a"},
    ],
)
def test_other_records_are_broken(record: dict[str, Any], made: Callable[..., Made]) -> None:
    assert made([record]).metrics["broken"] == 1


def test_a_file_of_other_records_is_an_error(tmp_path: Path, workspace: Workspaces) -> None:
    inputs = write(tmp_path / "source", [{"prompt": "a", "response": "b"}])
    with pytest.raises(
        DataError, match=r"file\.jsonl: 1 of 1 lines are no record \(lines 1: no preference: has prompt"
    ):
        preferences.run(text_config(PreferencesConfig, "HH-RLHF"), inputs, workspace(tmp_path / "out"))


def test_a_prompt_is_in_one_part_and_one_half(made: Callable[..., Made]) -> None:
    records = [
        {"prompt": f"start {k}{more}", "chosen": f"good {k}{more}", "rejected": "bad"}
        for k in range(100)
        for more in ("", "\n\nAssistant: yes\n\nHuman: and?")
    ]
    places: dict[str, set[tuple[str, str]]] = {}
    for row in made(records).rows:
        places.setdefault(row["prompt"].partition("\n")[0], set()).add((row["split"], row["half"]))
    assert {len(place) for place in places.values()} == {1}
    halves = [half for place in places.values() for _, half in place]
    assert 50 < halves.count("A") < 110
    # halves cut through every part
    assert {place for found_ in places.values() for place in found_} == {
        (part, half) for part in ("train", "validation", "test") for half in "AB"
    }


def test_made_up_preferences_say_so(tmp_path: Path, workspace: Workspaces) -> None:
    config = text_config(PreferencesConfig, "HH-RLHF")
    got = make(preferences.run, config, {}, workspace(tmp_path))
    assert got.catalog["synthetic"] is True
    assert len(got.rows) == 1000
    assert {row["half"] for row in got.rows} == {"A", "B"}


@needs_real_data
def test_the_real_pairs(tmp_path: Path, workspace: Workspaces) -> None:
    name = "hh-rlhf-pairs.jsonl"
    path = real_file(Wanted("file.jsonl", (name,), None, None), tmp_path / "cache").path
    inputs = write(tmp_path / "source", path.read_bytes())
    config = text_config(PreferencesConfig, "HH-RLHF", max_rows=100_000, max_characters=4000)
    got = make(preferences.run, config, inputs, workspace(tmp_path / "out"))
    assert got.metrics["records"] == 7003
    assert len(got.rows) > 6900
    assert not [row for row in got.rows if row["prompt"].startswith("Human:") or row["prompt"].endswith("Assistant:")]


def test_turns_of_a_conversation_share_its_part(made: Callable[..., Made]) -> None:
    records = [
        {"source": "s", "prompt": f"start {k}{more}", "chosen": f"{k}{more}", "rejected": "no"}
        for k in range(60)
        for more in ("", "\n\nAssistant: yes\n\nHuman: and?", "\n\nAssistant: no\n\nHuman: why?")
    ]
    parts: dict[str, set[str]] = {}
    for row in made(records).rows:
        parts.setdefault(corpus.first_turn(row["prompt"]), set()).add(row["split"])
    assert {len(found) for found in parts.values()} == {1}
    assert {part for found in parts.values() for part in found} == {"train", "validation", "test"}
